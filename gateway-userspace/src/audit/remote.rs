//! Handing records from the worker, whose word counts for little, to the one writer.
//!
//! The worker's own writer thread sends a line and waits for the answer: an error number, 0 for
//! a record that is queued. So an audit log that cannot be written refuses requests in the worker
//! as it would in one process.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::net::SendFlags;
use serde::Deserialize;

use super::{
    Audit, AuditUnavailable, Blame, Kind, MAX_LINE, Outcome, Phase, Record, Source, Subject,
};
use crate::{identity::Process, names::RuleId, worker::packet};

/// Longest label of a reason.
const REASON_MAX: usize = 48;
/// Different labels that are taken from workers.
const REASONS_MAX: usize = 256;

/// Sends the first line of these bytes. Answers with its length, newline included.
pub(super) fn send_line(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let end = memchr::memchr(b'\n', bytes).ok_or(io::ErrorKind::InvalidData)?;
    let line = bytes.get(..end).unwrap_or_default();
    packet::send(socket, line, &[], SendFlags::empty())?;
    let mut answer = [0; 4];
    match packet::receive(socket, &mut answer)? {
        Some((4, _)) => match i32::from_be_bytes(answer) {
            0 => Ok(end + 1),
            errno => Err(io::Error::from_raw_os_error(errno)),
        },
        Some(_) | None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// A line as the worker sends it. What the supervisor knows better is read and dropped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Handed {
    #[serde(rename = "seq")]
    _seq: u64,
    #[serde(rename = "prev")]
    _prev: String,
    time: jiff::Timestamp,
    event: uuid::Uuid,
    phase: Phase,
    source: Source,
    #[serde(rename = "agent")]
    agent: Option<String>,
    #[serde(rename = "assurance")]
    _assurance: Option<serde::de::IgnoredAny>,
    kind: Kind,
    outcome: Option<Outcome>,
    rule: Option<String>,
    reason: String,
    hint: Option<String>,
    policy: Option<String>,
    process: Option<Process>,
    peer: Option<SocketAddr>,
    original_destination: Option<SocketAddr>,
    host: Option<String>,
    port: Option<u16>,
    method: Option<String>,
    path: Option<String>,
    inspected: bool,
    upstream: Option<SocketAddr>,
    status: Option<u16>,
    #[serde(default)]
    bytes_out: u64,
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    duration_us: u64,
    blame: Option<Blame>,
    #[serde(default)]
    repeated: u64,
}

/// What is wrong with a line. The worker is ended for it.
fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the worker handed over no record: {what}"),
    )
}

fn decode(
    line: &[u8],
    subject: impl FnOnce(Option<&str>) -> Subject,
    known: impl FnOnce(u64) -> Option<Arc<Process>>,
) -> io::Result<Record> {
    let handed: Handed = serde_json::from_slice(line).map_err(malformed)?;
    let reason = label(&handed.reason).ok_or_else(|| malformed("too many reasons"))?;
    let rule = handed.rule.as_deref().map(RuleId::parse);
    match handed.kind {
        Kind::Connect | Kind::Http | Kind::Tls | Kind::Tcp | Kind::Dns | Kind::Loss => {}
        // These are the kernel's and the supervisor's to say.
        Kind::Direct | Kind::Finding | Kind::Session | Kind::Policy => {
            return Err(malformed("a record of a kind that is not the gateway's"));
        }
    }
    let is_loss = handed.kind == Kind::Loss;
    if !is_loss && (handed.outcome.is_none() || handed.agent.is_none()) {
        return Err(malformed("a decision without an outcome"));
    }
    let mut record = Record::new(
        &subject(handed.policy.as_deref()),
        handed.time,
        handed.kind,
        handed.outcome.unwrap_or(Outcome::Deny),
        reason,
    );
    // Those that nobody could be named for keep saying so.
    if handed.agent.as_deref() == Some(crate::app::NOBODY) {
        record.agent = crate::app::nobody_id();
    }
    record.event = handed.event;
    record.phase = handed.phase;
    record.rule = rule.transpose().map_err(malformed)?;
    record.hint = handed.hint;
    // The worker names a socket; who that is, the supervisor told it, and knows itself.
    record.process = handed.process.and_then(|process| known(process.cookie));
    record.source = match handed.source {
        // The worker is not the kernel, and says nothing for it unless the supervisor knows whom.
        Source::Both if record.process.is_some() => Source::Both,
        Source::Both | Source::Kernel | Source::Gateway => Source::Gateway,
    };
    record.peer = handed.peer;
    record.original_destination = handed.original_destination;
    record.host = handed.host;
    record.port = handed.port;
    record.method = handed.method;
    record.path = handed.path;
    record.inspected = handed.inspected;
    record.upstream = handed.upstream;
    record.status = handed.status;
    record.bytes_out = handed.bytes_out;
    record.bytes_in = handed.bytes_in;
    record.duration_us = handed.duration_us;
    record.blame = handed.blame;
    record.repeated = handed.repeated;
    Ok(record)
}

/// The same text with a life of its own; none when it is no label or there are too many.
fn label(text: &str) -> Option<&'static str> {
    static KNOWN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let fits = (1..=REASON_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(label) = known.get(text) {
        return Some(label);
    }
    if !fits || known.len() >= REASONS_MAX {
        return None;
    }
    let label: &'static str = Box::leak(text.to_owned().into_boxed_str());
    known.insert(label);
    Some(label)
}

impl Audit {
    /// Takes records from a worker until it closes its end. Blocks the thread. Whose they are is
    /// for `subject` to say, by the policy that the worker names.
    ///
    /// # Errors
    /// When the worker sends what is no record of bounded length.
    pub(crate) fn take_from(
        &self,
        socket: &OwnedFd,
        subject: impl Fn(Option<&str>) -> Subject,
        runtime: &tokio::runtime::Handle,
        known: impl Fn(u64) -> Option<Arc<Process>>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; MAX_LINE];
        while let Some((length, _unasked)) = packet::receive(socket, &mut buffer)? {
            let record = decode(buffer.get(..length).unwrap_or_default(), &subject, &known)?;
            let errno = match runtime.block_on(self.reserve_for_worker()) {
                Ok(slot) => {
                    slot.write(record);
                    0
                }
                Err(AuditUnavailable::Failing { errno }) => errno,
                Err(AuditUnavailable::Full { .. } | AuditUnavailable::Closed) => {
                    rustix::io::Errno::NOBUFS.raw_os_error()
                }
            };
            packet::send(socket, &errno.to_be_bytes(), &[], SendFlags::empty())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::Assurance,
        names::{AgentId, PolicyDigest},
    };

    fn subject(agent: &str) -> Subject {
        Subject {
            agent: AgentId::parse(agent).unwrap(),
            assurance: Assurance::Confined,
            policy: PolicyDigest([7; 32]),
        }
    }

    #[test]
    fn what_the_supervisor_knows_better_is_overwritten() {
        let record = Record::new(
            &subject("somebody-else"),
            jiff::Timestamp::UNIX_EPOCH,
            Kind::Http,
            Outcome::Allow,
            "allowed",
        )
        .target("example.com", Some(443));
        let mut line = Vec::new();
        super::super::line::Chain::start()
            .append(&record, &mut line)
            .unwrap();
        let taken = decode(line.trim_ascii_end(), |_| subject("bot"), |_| None).unwrap();
        assert_eq!(taken.agent.as_str(), "bot");
        assert_eq!(taken.host.as_deref(), Some("example.com"));
        assert_eq!(taken.event, record.event);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in [
            "",
            "{}",
            "null",
            "{\"seq\":0,\"prev\":\"\",\"kind\":\"http\"}",
        ] {
            assert!(
                decode(line.as_bytes(), |_| subject("bot"), |_| None).is_err(),
                "{line}"
            );
        }
        assert_eq!(label("UPPER"), None);
        assert_eq!(label(&"a".repeat(REASON_MAX + 1)), None);
        assert_eq!(label("fits_1"), Some("fits_1"));
    }

    #[test]
    fn records_cross_and_what_is_too_long_ends_it() {
        use crate::audit::{AuditConfig, MemoryLog};
        let log = MemoryLog::with_room(1 << 20);
        let audit = Audit::open(AuditConfig::memory(&log)).unwrap();
        let (ours, theirs) = packet::pair().unwrap();
        let raw = theirs.try_clone().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let handle = runtime.handle().clone();
        let supervisor = audit.clone();
        let taking = std::thread::spawn(move || {
            supervisor.take_from(&ours, |_| subject("bot"), &handle, |_| None)
        });
        let worker = Audit::handing_over(theirs).unwrap();
        for _ in 0..3 {
            assert!(worker.offer(Record::new(
                &subject("liar"),
                jiff::Timestamp::UNIX_EPOCH,
                Kind::Http,
                Outcome::Allow,
                "allowed",
            )));
        }
        assert_eq!(worker.close().written, 3);
        packet::send(&raw, &vec![b'x'; MAX_LINE + 1], &[], SendFlags::empty()).unwrap();
        let ended = taking.join().unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::InvalidData);
        assert_eq!(audit.close().written, 3);
        assert_eq!(log.text().matches("\"agent\":\"bot\"").count(), 3);
    }
}
