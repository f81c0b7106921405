//! Requests as the audit stream recorded them, read back to be decided again.

use std::{fs::File, io, net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::super::audit::lines::{Lines, Piece};
use crate::{
    audit::{Blame, Outcome, Phase},
    names::{AgentId, Host, HostName},
    policy::{OwnedFacts, Query},
};

/// Status of a request that became a WebSocket.
const SWITCHING: u16 = 101;
/// Octets of an event's id.
const EVENT_MAX: usize = 36;
/// Octets of the longest label of a reason.
const REASON_MAX: usize = 48;
/// What the recorder ends a text with that it cut.
const CUT: char = '…';

/// A line of the stream, as far as it matters here. Fields of later versions are left out.
#[derive(Deserialize)]
struct Line {
    event: String,
    phase: Phase,
    agent: Option<String>,
    kind: String,
    outcome: Option<Outcome>,
    reason: String,
    policy: Option<String>,
    blame: Option<Blame>,
    original_destination: Option<SocketAddr>,
    host: Option<String>,
    port: Option<u16>,
    method: Option<String>,
    path: Option<String>,
    upstream: Option<SocketAddr>,
    status: Option<u16>,
    #[serde(default)]
    inspected: bool,
    #[serde(default)]
    repeated: u64,
}

/// A request that can be decided again.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    /// Its event.
    pub(super) event: String,
    /// Whose it was.
    pub(super) agent: AgentId,
    /// What became of it.
    pub(super) was: Outcome,
    /// The label of why.
    pub(super) reason: String,
    /// Digest of the policy that decided.
    pub(super) policy: Option<String>,
    /// How many requests the record stands for.
    pub(super) requests: u64,
    /// What was asked.
    pub(super) query: Query,
    /// Whether what was inside was read: of TLS, that it was opened.
    pub(super) inspected: bool,
    /// What was dialled.
    pub(super) upstream: Option<SocketAddr>,
}

/// Why a recorded event cannot be decided again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub(super) enum Skip {
    /// The kernel half said it.
    #[error("the kernel half decided it, which rules do not reach")]
    Kernel,
    /// It was refused before, or after, policy had its say.
    #[error("it was refused for something else than policy")]
    NotPolicy,
    /// It came too often.
    #[error("it was refused for its rate, which is not counted again")]
    Rate,
    /// A field was cut, or is none.
    #[error("its record does not hold all of it")]
    Incomplete,
    /// A condition is about what is not recorded.
    #[error("a condition is about what is not recorded")]
    Condition,
    /// TLS would be opened.
    #[error("the policy opens this TLS, and what was inside is not recorded")]
    Hidden,
    /// The addresses of the name are not recorded.
    #[error("it depends on addresses that are not recorded")]
    Address,
    /// The names of the address are not recorded.
    #[error("it depends on names of the address that are not recorded")]
    Names,
}

/// What a line turned out to be.
pub(super) enum Reading {
    /// A request.
    Request(Box<Recorded>),
    /// One that cannot be decided again, and how many it stands for.
    Skipped(Skip, u64),
    /// A record of something else: sessions, findings, losses, tunnels whose end follows.
    Other,
    /// No record.
    Foreign,
}

/// Reads files to their ends, in constant memory.
pub(super) fn each(files: &[PathBuf], mut tell: impl FnMut(Reading)) -> anyhow::Result<()> {
    for path in files {
        let mut lines = File::open(path)
            .map(Lines::new)
            .with_context(|| format!("opening {}", path.display()))?;
        read(&mut lines, |line| {
            tell(reading(line));
            true
        })
        .with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(())
}

/// The last record of an event, which is the one at its end if there is one.
pub(super) fn find(files: &[PathBuf], event: &str) -> anyhow::Result<Option<Reading>> {
    let mut found = None;
    for path in files {
        let mut lines = File::open(path)
            .map(Lines::new)
            .with_context(|| format!("opening {}", path.display()))?;
        read(&mut lines, |bytes| {
            let mut more = true;
            if memchr::memmem::find(bytes, event.as_bytes()).is_some()
                && let Ok(line) = serde_json::from_slice::<Line>(bytes)
                && line.event == event
            {
                more = line.phase == Phase::Open;
                found = Some(decision(line));
            }
            more
        })
        .with_context(|| format!("reading {}", path.display()))?;
    }
    Ok(found)
}

/// Passes lines on for as long as they are wanted. One that is no line of ours is passed on empty.
fn read(lines: &mut Lines, mut wanted: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    loop {
        let more = match lines.next()? {
            Piece::Line(line) => wanted(line),
            Piece::TooLong(_) => wanted(b""),
            // What is written just now is not finished.
            Piece::End(_) => return Ok(()),
        };
        if !more {
            return Ok(());
        }
    }
}

/// What a line of the file is.
pub(super) fn reading(line: &[u8]) -> Reading {
    let Ok(line) = serde_json::from_slice::<Line>(line) else {
        // Losses are about the file, and have no agent, outcome or event of a request.
        let other = serde_json::from_slice::<serde_json::Value>(line)
            .is_ok_and(|value| value.get("kind").is_some() && value.get("seq").is_some());
        return match other {
            true => Reading::Other,
            false => Reading::Foreign,
        };
    };
    // Whoever wrote the file, what is kept of a line is bounded.
    if line.event.len() > EVENT_MAX || line.reason.len() > REASON_MAX {
        return Reading::Foreign;
    }
    // The end has all that the beginning has.
    if line.phase == Phase::Open {
        return Reading::Other;
    }
    decision(line)
}

fn decision(line: Line) -> Reading {
    let requests = line.repeated.saturating_add(1);
    let skip = |why| Reading::Skipped(why, requests);
    match line.kind.as_str() {
        "connect" | "http" | "tls" | "tcp" | "dns" => {}
        "direct" => return skip(Skip::Kernel),
        _session_finding_loss => return Reading::Other,
    }
    let agent = line.agent.as_deref().map(AgentId::parse);
    let (Some(Ok(agent)), Some(was)) = (agent, line.outcome) else {
        return skip(Skip::Incomplete);
    };
    if was == Outcome::Deny && line.reason == "rate_limited" {
        return skip(Skip::Rate);
    }
    if was == Outcome::Deny && line.blame != Some(Blame::Policy) {
        return skip(Skip::NotPolicy);
    }
    let Some(query) = query(&line) else {
        return skip(Skip::Incomplete);
    };
    Reading::Request(Box::new(Recorded {
        query,
        agent,
        was,
        event: line.event,
        reason: line.reason,
        policy: line.policy,
        requests,
        inspected: line.inspected,
        upstream: line.upstream,
    }))
}

/// What was asked; none where the record does not have all of it.
fn query(line: &Line) -> Option<Query> {
    let text = line.host.as_deref().filter(|host| !host.ends_with(CUT))?;
    if line.kind == "dns" {
        return Query::dns(text, line.method.as_deref()?).ok();
    }
    let (host, port) = (Host::parse(text).ok()?, line.port?);
    Some(match line.kind.as_str() {
        "connect" => Query::Connect { host, port },
        "tls" => Query::Tls { host, port },
        "tcp" => Query::Tcp {
            destination: match (line.original_destination, host.address()) {
                (Some(destination), _) => destination,
                (None, Some(address)) => SocketAddr::new(address, port),
                (None, None) => return None,
            },
            names: Vec::<HostName>::new(),
        },
        _http => Query::Http {
            host,
            port,
            method: line.method.clone().filter(|it| !it.ends_with(CUT))?,
            path: line.path.clone().filter(|it| !it.ends_with(CUT))?,
            facts: OwnedFacts {
                websocket: line.status == Some(SWITCHING) || line.reason == "websocket_not_allowed",
                ..OwnedFacts::default()
            },
        },
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A line with these fields beside those that every line has.
    pub(in crate::cli::policy) fn line(fields: &str) -> String {
        format!(
            "{{\"seq\":0,\"prev\":\"0\",\"event\":\"e\",\"phase\":\"end\",\"agent\":\"bot\",\
             \"outcome\":\"allow\",\"reason\":\"allowed\",\"repeated\":0,{fields}}}"
        )
    }

    fn read(fields: &str) -> Reading {
        let mut value: serde_json::Value =
            serde_json::from_str(&line("\"kind\":\"http\"")).unwrap();
        let more: serde_json::Value = serde_json::from_str(&format!("{{{fields}}}")).unwrap();
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        reading(value.to_string().as_bytes())
    }

    #[test]
    fn requests_come_back_as_they_were_asked() {
        let host = "\"host\":\"a.example\",\"port\":443";
        for (fields, expected) in [
            (format!("\"kind\":\"tls\",{host}"), "Tls"),
            (format!("\"kind\":\"connect\",{host}"), "Connect"),
            (
                format!("{host},\"method\":\"GET\",\"path\":\"/x\",\"status\":101"),
                "websocket: true",
            ),
            (
                "\"kind\":\"tcp\",\"host\":\"192.0.2.1\",\"port\":22".to_owned(),
                "192.0.2.1:22",
            ),
            (
                "\"kind\":\"dns\",\"host\":\"a.example\",\"method\":\"AAAA\"".to_owned(),
                "record_type: 28",
            ),
        ] {
            let Reading::Request(recorded) = read(&fields) else {
                panic!("{fields}");
            };
            let found = format!("{:?}", recorded.query);
            assert!(found.contains(expected), "{fields}: {found}");
        }
    }

    #[test]
    fn what_cannot_be_decided_again_says_why() {
        let asks = "\"host\":\"a.example\",\"port\":80,\"method\":\"GET\"";
        let whole = format!("{asks},\"path\":\"/\",\"outcome\":\"deny\"");
        for (fields, expected) in [
            ("\"kind\":\"direct\"".to_owned(), Skip::Kernel),
            (format!("{whole},\"blame\":\"agent\""), Skip::NotPolicy),
            (
                format!("{whole},\"blame\":\"policy\",\"reason\":\"rate_limited\""),
                Skip::Rate,
            ),
            (asks.to_owned(), Skip::Incomplete),
            (format!("{asks},\"path\":\"/a…\""), Skip::Incomplete),
            (
                format!("{asks},\"path\":\"/\",\"agent\":\"A\""),
                Skip::Incomplete,
            ),
        ] {
            let Reading::Skipped(found, 1) = read(&fields) else {
                panic!("{fields}");
            };
            assert_eq!(found, expected, "{fields}");
        }
        assert!(matches!(reading(b"{\"x\":1}"), Reading::Foreign));
        assert!(matches!(reading(b"noise"), Reading::Foreign));
        assert!(matches!(read("\"kind\":\"session\""), Reading::Other));
        assert!(matches!(read("\"phase\":\"open\""), Reading::Other));
        let loss = b"{\"seq\":1,\"kind\":\"loss\",\"repeated\":2}";
        assert!(matches!(reading(loss), Reading::Other));
    }
}
