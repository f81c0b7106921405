//! Handing records from the worker, whose word counts for little, to the one writer.
//!
//! The worker's own writer thread sends some lines and waits for the answer: how many of their
//! records are queued, and an error number where that is not all. So an audit log that cannot be written refuses requests in the worker
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
    Audit, AuditUnavailable, Blame, Kind, MAX_LINE, NOTICED_MAX, NOTICED_WHAT_MAX, Noticed,
    Outcome, Phase, Record, Source, Subject,
};
use crate::{identity::Process, names::RuleId, worker::packet};

/// Longest label of a reason.
const REASON_MAX: usize = 48;
/// Different labels that are taken from workers.
const REASONS_MAX: usize = 256;

/// Octets of the lines in one message: one of the longest fits.
const PACKET: usize = MAX_LINE + 1;

/// What a message is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Answer {
    /// 0, or why no more than these are queued.
    errno: i32,
    /// How many of the records are queued: the first ones.
    queued: u32,
}

impl Answer {
    const LENGTH: usize = 8;

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&self.errno.to_be_bytes());
        bytes[4..].copy_from_slice(&self.queued.to_be_bytes());
        bytes
    }

    fn from_bytes([a, b, c, d, rest @ ..]: [u8; Self::LENGTH]) -> Self {
        Self {
            errno: i32::from_be_bytes([a, b, c, d]),
            queued: u32::from_be_bytes(rest),
        }
    }
}

/// Sends the first lines of these bytes. Answers with the length of those that were taken,
/// newlines included.
pub(super) fn send_lines(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    let most = bytes.get(..PACKET).unwrap_or(bytes);
    let last = memchr::memrchr(b'\n', most).ok_or(io::ErrorKind::InvalidData)?;
    let lines = most.get(..=last).unwrap_or_default();
    packet::send(socket, lines, &[], SendFlags::empty())?;
    let mut answer = [0; Answer::LENGTH];
    let Some((Answer::LENGTH, _)) = packet::receive(socket, &mut answer)? else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let answer = Answer::from_bytes(answer);
    let ends = memchr::memchr_iter(b'\n', lines).map(|end| end + 1);
    match ends.take(answer.queued as usize).last() {
        Some(taken) => Ok(taken),
        None if answer.errno > 0 => Err(io::Error::from_raw_os_error(answer.errno)),
        None => Err(io::ErrorKind::BrokenPipe.into()),
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
    call: Option<String>,
    #[serde(default)]
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
    #[serde(default)]
    noticed: Vec<Noticed>,
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
    let odd = handed
        .noticed
        .iter()
        .any(|noticed| !is_label(&noticed.what));
    if odd || handed.noticed.len() > NOTICED_MAX {
        return Err(malformed("what was noticed has no label"));
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
    record.call = handed.call;
    record.inspected = handed.inspected;
    record.upstream = handed.upstream;
    record.status = handed.status;
    record.bytes_out = handed.bytes_out;
    record.bytes_in = handed.bytes_in;
    record.duration_us = handed.duration_us;
    record.blame = handed.blame;
    record.repeated = handed.repeated;
    record.noticed = handed.noticed;
    Ok(record)
}

fn is_label(text: &str) -> bool {
    (1..=NOTICED_WHAT_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
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
        let mut buffer = vec![0; PACKET];
        while let Some((length, _unasked)) = packet::receive(socket, &mut buffer)? {
            let lines = buffer.get(..length).unwrap_or_default();
            let lines = lines.strip_suffix(b"\n");
            let lines = lines.ok_or_else(|| malformed("a line without an end"))?;
            let mut answer = Answer {
                errno: 0,
                queued: 0,
            };
            for line in lines.split(|&b| b == b'\n') {
                let record = decode(line, &subject, &known)?;
                match runtime.block_on(self.reserve_for_worker()) {
                    Ok(slot) => slot.write(record),
                    Err(unavailable) => {
                        answer.errno = errno(unavailable);
                        break;
                    }
                }
                answer.queued += 1;
            }
            packet::send(socket, &answer.to_bytes(), &[], SendFlags::empty())?;
        }
        Ok(())
    }
}

const fn errno(unavailable: AuditUnavailable) -> i32 {
    match unavailable {
        AuditUnavailable::Failing { errno } => errno,
        AuditUnavailable::Full { .. } | AuditUnavailable::Closed => {
            rustix::io::Errno::NOBUFS.raw_os_error()
        }
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
    fn what_was_noticed_crosses_and_has_a_label() {
        use crate::audit::NoticedAction;
        let taken = |what: &'static str, times: usize| {
            let mut record = Record::new(
                &subject("bot"),
                jiff::Timestamp::UNIX_EPOCH,
                Kind::Http,
                Outcome::Allow,
                "allowed",
            );
            let noticed = Noticed {
                what: what.into(),
                about: Some("refund".to_owned()),
                rule: Some(RuleId::parse("tickets").unwrap()),
                action: NoticedAction::Hide,
            };
            record.noticed = vec![noticed; times];
            let mut line = Vec::new();
            super::super::line::Chain::start()
                .append(&record, &mut line)
                .unwrap();
            let taken = decode(line.trim_ascii_end(), |_| subject("bot"), |_| None);
            taken.map(|taken| taken.noticed == record.noticed)
        };
        assert!(taken("definition_changed", NOTICED_MAX).unwrap());
        assert!(taken("definition_changed", NOTICED_MAX + 1).is_err());
        assert!(taken("", 1).is_err());
        assert!(taken("no label", 1).is_err());
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
        packet::send(&raw, &vec![b'x'; PACKET + 1], &[], SendFlags::empty()).unwrap();
        let ended = taking.join().unwrap().unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::InvalidData);
        assert_eq!(audit.close().written, 3);
        assert_eq!(log.text().matches("\"agent\":\"bot\"").count(), 3);
    }

    #[test]
    fn a_loss_of_the_workers_is_a_record() {
        let loss = crate::audit::loss::Loss::torn("gone".to_owned());
        let mut line = Vec::new();
        super::super::line::Chain::start()
            .append(&loss, &mut line)
            .unwrap();
        let taken = decode(line.trim_ascii_end(), |_| subject("bot"), |_| None).unwrap();
        assert_eq!(taken.kind, Kind::Loss);
        assert_eq!(taken.reason, "audit_torn_line");
        assert_eq!(taken.repeated, 1);
    }

    #[test]
    fn room_comes_back_with_what_is_taken() {
        let (ours, theirs) = packet::pair().unwrap();
        let worker = Audit::handing_over(theirs).unwrap();
        let record = || {
            Record::new(
                &subject("bot"),
                jiff::Timestamp::UNIX_EPOCH,
                Kind::Http,
                Outcome::Allow,
                "allowed",
            )
        };
        let mut buffer = vec![0; PACKET];
        let mut receive = || {
            let (length, _) = packet::receive(&ours, &mut buffer).unwrap().unwrap();
            memchr::memchr_iter(b'\n', &buffer[..length]).count() as u64
        };
        let answer = |errno, queued| {
            let answer = Answer { errno, queued };
            packet::send(&ours, &answer.to_bytes(), &[], SendFlags::empty()).unwrap();
        };
        // The first is under way alone, and what comes meanwhile is a group.
        assert!(worker.offer(record()));
        assert_eq!(receive(), 1);
        for _ in 0..2000 {
            assert!(worker.offer(record()));
        }
        answer(0, 1);
        let mut taken = 1;
        let group = receive();
        assert!((2..2000).contains(&group), "{group}");
        answer(0, 1);
        taken += 1;
        // The rest of them comes again, with what follows.
        let again = receive();
        assert!(again >= group - 1, "{again}");
        assert_eq!(worker.written(), taken);
        // Some were taken, and then there was an error: these do not come again.
        answer(rustix::io::Errno::NOSPC.raw_os_error(), 2);
        taken += 2;
        let last = receive();
        assert_eq!(worker.written(), taken);
        answer(rustix::io::Errno::NOSPC.raw_os_error(), 0);
        assert_eq!(receive(), last, "after a pause, the same");
        answer(0, u32::MAX);
        taken += last;
        while taken < 2001 {
            let more = receive();
            answer(0, u32::MAX);
            taken += more;
        }
        assert_eq!(taken, 2001);
        assert_eq!(worker.close().written, 2001);
    }
}
