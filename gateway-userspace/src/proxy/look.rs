//! Bodies that are read before the decision, since a condition is about what they say.
//!
//! What is read ahead stays where it is and goes upstream octet by octet as it came. A body that
//! is too large, or that cannot be read in one way only, counts as unread: what a condition says
//! of it is an error, which lets no rule allow and every rule refuse.

use bytes::BytesMut;
use serde_json::Value;

use crate::{
    content::{Decoder, Limits as Bounds, json},
    policy::Content,
};

/// What a body may decode to: a little more than it would be without a coding.
const BOUNDS: Bounds = Bounds {
    output: 8 << 20,
    ratio: 200,
    ratio_from: 1 << 20,
};

/// What was found in a body.
#[derive(Debug)]
pub(crate) enum Seen {
    /// There is none.
    Empty,
    /// It was not read, or cannot be.
    Unread,
    /// It was read to its end.
    Read {
        /// Octets, without transfer coding and with content codings.
        size: u64,
        /// What it says as JSON.
        json: Option<Value>,
    },
}

impl Seen {
    /// The same for policy.
    pub(crate) const fn content(&self) -> Content<'_> {
        match self {
            Self::Empty => Content::Empty,
            Self::Unread => Content::Unread,
            Self::Read { size, json } => Content::Read {
                size: *size,
                json: json.as_ref(),
            },
        }
    }

    /// What is in a whole body that was encoded so.
    pub(crate) fn of(body: &[u8], encodings: &[&[u8]]) -> Self {
        let mut plain = BytesMut::new();
        let mut decode = || {
            let mut decoder = Decoder::for_encodings(encodings, BOUNDS)?;
            decoder.feed(body, &mut plain)?;
            decoder.finish()
        };
        match decode() {
            // Whatever its Content-Type says: the upstream may not look at that either.
            Ok(()) => match json::parse(&plain) {
                Err(error) if json::is_meant(&plain) => {
                    tracing::debug!(%error, "a body that only some would read as JSON");
                    Self::Unread
                }
                read => Self::Read {
                    size: body.len() as u64,
                    json: read.ok(),
                },
            },
            Err(error) => {
                tracing::debug!(reason = error.label(), "a body that cannot be read");
                Self::Unread
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_read_as_json_counts_as_unread() {
        let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
        let odd: [&[u8]; 11] = [
            br#"{"amount":1,"amount":5000}"#,
            b"\xef\xbb\xbf{\"amount\":5000}",
            b"\xff\xfe{\0}\0",
            b"\0{\0}",
            b"{\"amount\":1e400}",
            b"{\"text\":\"\\ud800\"}",
            b"{\"amount\":5000,}",
            b" \n[1,2",
            b"// to be read by some\n{\"amount\":5000}",
            b"{\"a\":1}\n{\"a\":2}",
            &deep,
        ];
        for body in odd {
            let seen = Seen::of(body, &[]);
            assert!(matches!(seen, Seen::Unread), "{body:?}: {seen:?}");
        }
        let other: [&[u8]; 5] = [b"a=1&b=2", b"--x\r\n", b"plain", b"", b"\x89PNG"];
        for body in other {
            let seen = Seen::of(body, &[]);
            assert!(
                matches!(seen, Seen::Read { json: None, .. }),
                "{body:?}: {seen:?}"
            );
        }
        let seen = Seen::of(b" {\"a\": 1}", &[]);
        assert!(matches!(seen, Seen::Read { json: Some(_), .. }));
    }
}
