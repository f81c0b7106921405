//! Builds records, and bounds what an agent can make them hold.

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Blame, Kind, Outcome, Phase, Record, Source};
use crate::{
    identity::{Assurance, Peer, Process},
    names::{AgentId, PolicyDigest, RuleId},
    policy::Denial,
};

/// Most bytes of a recorded host.
pub const HOST_MAX: usize = 255;
/// Most bytes of a recorded method.
pub const METHOD_MAX: usize = 32;
/// Most bytes of a recorded path.
pub const PATH_MAX: usize = 2048;
/// Most bytes of a recorded call.
pub const CALL_MAX: usize = 512;
/// Most entries of what was noticed.
pub const NOTICED_MAX: usize = 8;
/// Most bytes of the label of one.
pub const NOTICED_WHAT_MAX: usize = 48;
/// Most bytes of what one is about.
pub const NOTICED_ABOUT_MAX: usize = 96;
/// Most bytes of a recorded hint.
pub const HINT_MAX: usize = 1024;
/// Most bytes of a recorded command name: the kernel's 15, should each be no UTF-8.
pub const COMM_MAX: usize = 48;
/// Most bytes of a recorded path of an executable.
pub const EXE_MAX: usize = 4096;

/// Most bytes of the recorded path of a parent's executable.
pub const ANCESTOR_EXE_MAX: usize = 256;

/// Whose records these are: what all records of one agent under one policy share.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The agent.
    pub agent: AgentId,
    /// How far the boundary holds for it.
    pub assurance: Assurance,
    /// The policy that decides.
    pub policy: PolicyDigest,
}

impl Record {
    /// A record of the gateway's, complete (`end`), with everything else unknown or zero.
    #[must_use]
    pub fn new(
        subject: &Subject,
        time: Timestamp,
        kind: Kind,
        outcome: Outcome,
        reason: &'static str,
    ) -> Self {
        Self {
            time,
            event: event_id(time),
            phase: Phase::End,
            source: Source::Gateway,
            agent: subject.agent.clone(),
            assurance: subject.assurance,
            kind,
            outcome,
            rule: None,
            reason,
            hint: None,
            policy: subject.policy,
            process: None,
            peer: None,
            original_destination: None,
            host: None,
            port: None,
            method: None,
            path: None,
            call: None,
            inspected: false,
            upstream: None,
            status: None,
            bytes_out: 0,
            bytes_in: 0,
            duration_us: 0,
            blame: None,
            repeated: 0,
            noticed: Vec::new(),
            session: None,
        }
    }

    /// A record of the kernel half's: who called is what the kernel saw.
    #[must_use]
    pub fn from_kernel(mut self, process: Option<Arc<Process>>) -> Self {
        self.source = Source::Kernel;
        self.process = process;
        self
    }

    /// Who was on the line, with the kernel's facts where there are any.
    #[must_use]
    pub fn peer(mut self, peer: &Peer) -> Self {
        self.peer = Some(peer.address.0);
        self.original_destination = peer.original.map(|original| original.0);
        self.process.clone_from(&peer.process);
        if self.process.is_some() {
            self.source = Source::Both;
        }
        self
    }

    /// What was asked for: a host or DNS name, and the port.
    #[must_use]
    pub fn target(mut self, host: impl ToString, port: Option<u16>) -> Self {
        self.host = Some(host.to_string());
        self.port = port;
        self
    }

    /// HTTP method, DNS record type, or hook of the kernel half.
    #[must_use]
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Path without the query.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The rule that decided.
    #[must_use]
    pub fn rule(mut self, rule: Option<&RuleId>) -> Self {
        self.rule = rule.cloned();
        self
    }

    /// Rule, reason and hint of a refusal, which is policy's doing.
    #[must_use]
    pub fn denial(mut self, denial: &Denial) -> Self {
        self.rule.clone_from(&denial.rule);
        self.reason = denial.reason.label();
        self.hint = Some(denial.hint.clone());
        self.blame = Some(Blame::Policy);
        self
    }

    /// The address that was dialled.
    #[must_use]
    pub const fn upstream(mut self, upstream: SocketAddr) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// HTTP status that the agent saw.
    #[must_use]
    pub const fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// At whose door a failure lies.
    #[must_use]
    pub const fn blame(mut self, blame: Blame) -> Self {
        self.blame = Some(blame);
        self
    }

    /// Cuts what an agent influences to its bound; called for every record that is queued.
    pub(super) fn bound(&mut self) {
        for (text, limit) in [
            (&mut self.host, HOST_MAX),
            (&mut self.method, METHOD_MAX),
            (&mut self.path, PATH_MAX),
            (&mut self.call, CALL_MAX),
            (&mut self.hint, HINT_MAX),
        ] {
            if let Some(text) = text {
                clip(text, limit);
            }
        }
        self.noticed.truncate(NOTICED_MAX);
        for noticed in &mut self.noticed {
            if let Some(about) = &mut noticed.about {
                clip(about, NOTICED_ABOUT_MAX);
            }
        }
        if let Some(session) = &mut self.session {
            session.bound();
        }
        if let Some(process) = &mut self.process {
            let exe = process.exe.as_ref().map_or(0, String::len);
            let parents = process.parents.iter();
            let parent = parents
                .filter_map(|it| it.exe.as_ref())
                .map(String::len)
                .max();
            if process.comm.len() > COMM_MAX || exe > EXE_MAX || parent > Some(ANCESTOR_EXE_MAX) {
                let process = Arc::make_mut(process);
                clip(&mut process.comm, COMM_MAX);
                if let Some(exe) = &mut process.exe {
                    clip(exe, EXE_MAX);
                }
                for exe in process.parents.iter_mut().filter_map(|it| it.exe.as_mut()) {
                    clip(exe, ANCESTOR_EXE_MAX);
                }
            }
        }
    }
}

/// A fresh event id of this time.
pub(super) fn event_id(time: Timestamp) -> Uuid {
    let seconds = u64::try_from(time.as_second()).unwrap_or(0);
    let nanoseconds = u32::try_from(time.subsec_nanosecond()).unwrap_or(0);
    Uuid::new_v7(uuid::Timestamp::from_unix(
        uuid::NoContext,
        seconds,
        nanoseconds,
    ))
}

/// Cuts to at most `limit` bytes, the last of them `…` where something was cut off.
fn clip(text: &mut String, limit: usize) {
    const MARK: char = '…';
    if text.len() <= limit {
        return;
    }
    text.truncate(text.floor_char_boundary(limit - MARK.len_utf8()));
    text.push(MARK);
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_at_the_limit_and_never_inside_a_character() {
        let table = [
            ("12345678", "12345678"),
            ("123456789", "12345…"),
            ("1234ä678", "1234…"),
        ];
        for (text, expected) in table {
            let mut clipped = text.to_owned();
            clip(&mut clipped, 8);
            assert_eq!(clipped, expected);
            assert!(clipped.len() <= 8);
        }
    }

    #[test]
    fn event_ids_sort_by_time() {
        let early = event_id(Timestamp::from_millisecond(1_700_000_000_000).unwrap());
        let late = event_id(Timestamp::from_millisecond(1_700_000_000_001).unwrap());
        assert!(early < late);
    }
}
