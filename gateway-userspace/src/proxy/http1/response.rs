//! Response heads: parsed as strictly as requests, and written anew.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::{
    HeadError, Version,
    fields::{Fields, write_field},
    framing::{self, Body},
    from_httparse,
    request::keeps_alive,
};

/// A response head in the one reading it has.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// 100 to 599.
    pub(crate) status: u16,
    /// Where the body ends.
    pub(crate) body: Body,
    /// Whether the upstream keeps the connection for another request.
    pub(crate) keep_alive: bool,
    reason: String,
    /// Content-Length of a response that has no body, as to HEAD.
    announced: Option<u64>,
    fields: Fields,
}

/// How a body is marked on the way to an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    /// By its length, or by the end of the connection.
    Plain,
    /// In chunks.
    Chunked,
}

impl ResponseHead {
    /// Parses a head that the scanner delimited. `switches` says whether 101 can be an answer.
    ///
    /// # Errors
    /// Anything that is malformed or has two readings.
    pub(crate) fn parse(
        block: &Bytes,
        most_fields: usize,
        to_head: bool,
        switches: bool,
    ) -> Result<Self, HeadError> {
        let mut space = vec![httparse::EMPTY_HEADER; most_fields];
        let mut parsed = httparse::Response::new(&mut space);
        match parsed.parse(block) {
            Ok(httparse::Status::Complete(length)) if length == block.len() => {}
            Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => {
                return Err(HeadError::StartLine);
            }
            Err(error) => return Err(from_httparse(error)),
        }
        let (Some(version), Some(status)) = (parsed.version, parsed.code) else {
            return Err(HeadError::StartLine);
        };
        // 101 answers an Upgrade, which was sent or not.
        if !(100..600).contains(&status) || status == 101 && !switches {
            return Err(HeadError::Status);
        }
        let version = if version == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        let fields = Fields::collect(block, parsed.headers);
        let (body, announced) =
            framing::of_response(&fields, version, status, to_head).map_err(HeadError::Framing)?;
        Ok(Self {
            status,
            body,
            keep_alive: keeps_alive(&fields, version) && body != Body::UntilClose,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            announced,
            fields,
        })
    }

    /// Whether the final response is still to come.
    pub(crate) const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// All fields, in the order they came.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.lines()
    }

    /// Writes the head of an answer that switches protocols, with these fields.
    pub(crate) fn write_switch(&self, out: &mut BytesMut, agreed: &[(&'static str, String)]) {
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
        self.fields.write_end_to_end(out);
        for (name, value) in agreed {
            write_field(out, name.as_bytes(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// How the body travels to an agent of this version.
    pub(crate) fn coding_for(&self, agent: Version) -> Coding {
        if self.body == Body::Chunked && agent == Version::Http11 {
            Coding::Chunked
        } else {
            Coding::Plain
        }
    }

    /// Whether an agent of this version can tell the end of the body from the end of the
    /// connection.
    pub(crate) fn is_delimited_for(&self, agent: Version) -> bool {
        match self.body {
            Body::Empty | Body::Exactly(_) => true,
            Body::Chunked => agent == Version::Http11,
            Body::UntilClose => false,
        }
    }

    /// The values of all fields of this (lower-case) name.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.fields.all(name)
    }

    /// Writes the head for an agent that gets a body without a content coding in place of what
    /// came: of this length, or in chunks where there is none and the agent takes them.
    pub(crate) fn write_read(
        &self,
        out: &mut BytesMut,
        length: Option<usize>,
        agent: Version,
        keep_alive: bool,
    ) {
        let _infallible = write!(out, "HTTP/1.1 {} {}\r\n", self.status, self.reason);
        self.fields.write_decoded(out);
        match (length, agent) {
            (Some(length), _) => {
                let _infallible = write!(out, "Content-Length: {length}\r\n");
            }
            (None, Version::Http11) => write_field(out, b"Transfer-Encoding", b"chunked"),
            (None, Version::Http10) => {}
        }
        write_persistence(out, agent, keep_alive);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes the head for an agent of this version.
    pub(crate) fn write(&self, out: &mut BytesMut, agent: Version, keep_alive: bool) {
        let _infallible = write!(out, "HTTP/1.1 {} {}\r\n", self.status, self.reason);
        self.fields.write_end_to_end(out);
        if !self.is_interim() {
            if let Some(length) = self.announced {
                let _infallible = write!(out, "Content-Length: {length}\r\n");
            }
            if self.coding_for(agent) == Coding::Chunked {
                write_field(out, b"Transfer-Encoding", b"chunked");
            }
            write_persistence(out, agent, keep_alive);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_persistence(out: &mut BytesMut, agent: Version, keep_alive: bool) {
    match (keep_alive, agent) {
        (false, _) => write_field(out, b"Connection", b"close"),
        (true, Version::Http10) => write_field(out, b"Connection", b"keep-alive"),
        (true, Version::Http11) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, to_head: bool) -> Result<ResponseHead, HeadError> {
        ResponseHead::parse(&Bytes::copy_from_slice(text.as_bytes()), 8, to_head, false)
    }

    fn written(text: &str, to_head: bool, agent: Version, keep_alive: bool) -> String {
        let mut out = BytesMut::new();
        parse(text, to_head)
            .unwrap()
            .write(&mut out, agent, keep_alive);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn written_for_the_agent_at_hand() {
        let chunked = "HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            written(chunked, false, Version::Http11, true),
            "HTTP/1.1 200 OK\r\nServer: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            written(chunked, false, Version::Http10, false),
            "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            written(
                "HTTP/1.0 200 Fine\r\nContent-Length: 5\r\n\r\n",
                true,
                Version::Http11,
                true
            ),
            "HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\n"
        );
        assert_eq!(
            written(
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                false,
                Version::Http11,
                false
            ),
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        );
    }

    #[test]
    fn keep_alive_needs_an_end_of_the_body() {
        assert!(
            parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false)
                .unwrap()
                .keep_alive
        );
        assert!(!parse("HTTP/1.1 200 OK\r\n\r\n", false).unwrap().keep_alive);
        assert!(
            !parse("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false)
                .unwrap()
                .keep_alive
        );
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("HTTP/1.1 099 x\r\n\r\n", HeadError::Status),
            ("HTTP/1.1 600 x\r\n\r\n", HeadError::Status),
            ("HTTP/1.1 101 x\r\n\r\n", HeadError::Status),
            ("HTTP/2 200 x\r\n\r\n", HeadError::Version),
            ("HTTP/1.1 200 x\r\nA : b\r\n\r\n", HeadError::FieldLine),
            (
                "HTTP/1.1 200 x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                HeadError::Framing(framing::FramingError::LengthAndCoding),
            ),
        ] {
            assert_eq!(
                parse(text, false).map(|head| head.status),
                Err(error),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _any = ResponseHead::parse(&Bytes::from(bytes), 4, false, true).is_ok();
        }
    }
}
