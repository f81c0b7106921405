//! One record, one line: JSON with a number and the hash of the line before.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use sha2::{Digest as _, Sha256};

use crate::sanitize::is_hostile;

/// `prev` of the first line of a chain.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// No line of ours is longer, in bytes without the newline.
pub const MAX_LINE: usize = 64 * 1024;

/// A record as it stands in the file.
#[derive(Serialize)]
struct Line<'a, T> {
    seq: u64,
    prev: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

/// Where the next line links to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chain {
    next: u64,
    prev: String,
}

impl Chain {
    /// A chain without lines.
    pub(super) fn start() -> Self {
        Self {
            next: 0,
            prev: GENESIS.to_owned(),
        }
    }

    /// The chain whose last line is this one, numbered `seq`; none if there is no next number.
    pub(super) fn after(line: &[u8], seq: u64) -> Option<Self> {
        Some(Self {
            next: seq.checked_add(1)?,
            prev: hash(line),
        })
    }

    /// Number of the next line.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Appends a line to `out`; an error leaves both as they were.
    pub(super) fn append<T: Serialize>(&mut self, body: &T, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        let line = Line {
            seq: self.next,
            prev: &self.prev,
            body,
        };
        if let Err(error) = line.serialize(&mut Serializer::with_formatter(&mut *out, Visible)) {
            out.truncate(start);
            return Err(error.into());
        }
        let bytes = out.get(start..).unwrap_or_default();
        debug_assert!(bytes.len() <= MAX_LINE && !bytes.contains(&b'\n'));
        self.prev = hash(bytes);
        self.next += 1;
        out.push(b'\n');
        Ok(())
    }
}

/// Lower-case hex SHA-256.
fn hash(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            for nibble in [byte >> 4, byte & 15] {
                hex.extend(char::from_digit(u32::from(nibble), 16));
            }
            hex
        })
}

/// Compact JSON that is safe to `cat`: what JSON itself lets stand, but a terminal or a reader
/// would fall for, is written `\uXXXX`.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hostile(*c)) {
            let (clean, tail) = rest.split_at(at);
            writer.write_all(clean.as_bytes())?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = tail.get(c.len_utf8()..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::{
        audit::{
            ANCESTOR_EXE_MAX, CALL_MAX, COMM_MAX, EXE_MAX, HINT_MAX, HOST_MAX, Kind, METHOD_MAX,
            NOTICED_ABOUT_MAX, NOTICED_MAX, NOTICED_WHAT_MAX, Noticed, NoticedAction, Outcome,
            PATH_MAX, Record, Subject,
        },
        identity::{Ancestor, Assurance, ExecutableSource, Process},
        names::{AgentId, PolicyDigest, RuleId},
    };

    fn record() -> Record {
        let subject = Subject {
            agent: AgentId::parse("bot").unwrap(),
            assurance: Assurance::Confined,
            policy: PolicyDigest([0xab; 32]),
        };
        Record::new(
            &subject,
            Timestamp::UNIX_EPOCH,
            Kind::Http,
            Outcome::Deny,
            "no_rule",
        )
    }

    #[test]
    fn hash_is_the_published_one() {
        assert_eq!(
            hash(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn lines_link() {
        let mut chain = Chain::start();
        let mut out = Vec::new();
        chain.append(&record(), &mut out).unwrap();
        chain.append(&record(), &mut out).unwrap();
        let lines: Vec<&[u8]> = out.split(|b| *b == b'\n').collect();
        let [first, second, []] = lines[..] else {
            panic!("two lines, each ended: {lines:?}")
        };
        let (one, two): (Value, Value) = (
            serde_json::from_slice(first).unwrap(),
            serde_json::from_slice(second).unwrap(),
        );
        assert_eq!((&one["seq"], &one["prev"]), (&0.into(), &GENESIS.into()));
        assert_eq!(
            (&two["seq"], &two["prev"]),
            (&1.into(), &hash(first).into())
        );
        assert_eq!(one["time"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(Chain::after(second, 1), Some(chain));
        assert_eq!(Chain::after(second, u64::MAX), None);
    }

    #[test]
    fn hostile_text_is_escaped_and_reads_back_the_same() {
        let hostile = "a\x1b[2J\u{9b}31m\u{202e}x\u{7f}\u{e0041}\n\"\\ö世";
        let mut out = Vec::new();
        Chain::start()
            .append(&record().path(hostile), &mut out)
            .unwrap();
        let text = std::str::from_utf8(&out).unwrap().trim_end_matches('\n');
        assert!(!text.contains(is_hostile), "{text}");
        assert!(text.contains("ö世"));
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value["path"], hostile);
    }

    #[test]
    fn the_longest_record_fits_a_line() {
        // A control character is one byte in memory and six in JSON: the worst ratio.
        let fill = |length: usize| "\x01".repeat(length);
        let mut record = record()
            .target(fill(HOST_MAX + 1), Some(65535))
            .method(fill(METHOD_MAX + 1))
            .path(fill(PATH_MAX + 1))
            .from_kernel(Some(Arc::new(Process {
                pid: u32::MAX,
                tid: u32::MAX,
                uid: u32::MAX,
                comm: fill(COMM_MAX + 1),
                exe: Some(fill(EXE_MAX + 1)),
                exe_source: Some(ExecutableSource::Execve),
                exec_id: Some("12345678-ffffffffffffffff-4294967295".to_owned()),
                parents: vec![
                    Ancestor {
                        pid: u32::MAX,
                        exec_id: "12345678-ffffffffffffffff-4294967295".to_owned(),
                        exe: Some(fill(ANCESTOR_EXE_MAX + 1)),
                    };
                    6
                ],
                cgroup: u64::MAX,
                cookie: u64::MAX,
            })));
        record.hint = Some(fill(HINT_MAX + 1));
        record.call = Some(fill(CALL_MAX + 1));
        let noticed = Noticed {
            what: "a".repeat(NOTICED_WHAT_MAX).into(),
            about: Some(fill(NOTICED_ABOUT_MAX + 1)),
            rule: Some(RuleId::parse(&"a".repeat(63)).unwrap()),
            action: NoticedAction::Redact,
        };
        record.noticed = vec![noticed; NOTICED_MAX + 1];
        record.bound();
        let mut out = Vec::new();
        Chain::start().append(&record, &mut out).unwrap();
        assert!(out.len() <= MAX_LINE, "{} bytes", out.len());
        assert_eq!(record.noticed.len(), NOTICED_MAX);
        for field in ["host", "method", "path", "call", "hint"] {
            let value: Value = serde_json::from_slice(&out).unwrap();
            assert!(value[field].as_str().unwrap().ends_with('…'), "{field}");
        }
    }
}
