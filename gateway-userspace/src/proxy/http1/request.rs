//! Request heads: parsed strictly, and written anew from what was parsed.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};

use super::{
    HeadError, Version,
    fields::{Fields, write_field},
    framing::{self, Body},
    from_httparse,
    target::{Authority, PathAndQuery, Target},
};

/// A request head in the one reading it has.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// Upper-case letters and hyphens.
    pub(crate) method: String,
    /// What it asks for.
    pub(crate) target: Target,
    /// Version of the agent's end.
    pub(crate) version: Version,
    /// The Host field; none in HTTP/1.0, where it may be missing.
    pub(crate) host: Option<Authority>,
    /// Where the body ends.
    pub(crate) body: Body,
    /// Whether the agent keeps the connection for another request.
    pub(crate) keep_alive: bool,
    fields: Fields,
}

impl RequestHead {
    /// Parses a head that the scanner delimited.
    ///
    /// # Errors
    /// Anything that is malformed or has two readings.
    pub(crate) fn parse(block: &Bytes, most_fields: usize) -> Result<Self, HeadError> {
        let mut space = vec![httparse::EMPTY_HEADER; most_fields];
        let mut parsed = httparse::Request::new(&mut space);
        match parsed.parse(block) {
            Ok(httparse::Status::Complete(length)) if length == block.len() => {}
            Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => {
                return Err(HeadError::StartLine);
            }
            Err(error) => return Err(from_httparse(error)),
        }
        let (Some(method), Some(target), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(HeadError::StartLine);
        };
        if method.len() > 32 || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return Err(HeadError::Method);
        }
        let version = if version == 0 {
            Version::Http10
        } else {
            Version::Http11
        };
        let fields = Fields::collect(block, parsed.headers);
        let head = Self {
            method: method.to_owned(),
            target: Target::parse(method, target).map_err(HeadError::Target)?,
            version,
            host: host(&fields, version)?,
            body: framing::of_request(&fields, version).map_err(HeadError::Framing)?,
            keep_alive: keeps_alive(&fields, version),
            fields,
        };
        head.check_expectation()?;
        head.check_upgrade()?;
        head.check_connect()?;
        Ok(head)
    }

    fn check_expectation(&self) -> Result<(), HeadError> {
        match self.fields.only("expect") {
            Ok(None) => Ok(()),
            Ok(Some(value)) if value.eq_ignore_ascii_case(b"100-continue") => Ok(()),
            Ok(Some(_)) | Err(_) => Err(HeadError::Expectation),
        }
    }

    /// `h2c` is an offer that may be ignored, so it is; WebSocket alone is relayed; any other
    /// switch is one that the agent counts on.
    fn check_upgrade(&self) -> Result<(), HeadError> {
        let mut offered = self.fields.list("upgrade");
        let offer_only = offered.all(|p| p.eq_ignore_ascii_case(b"h2c"));
        if offer_only || self.opens_websocket() {
            Ok(())
        } else {
            Err(HeadError::Upgrade)
        }
    }

    /// Whether it asks for WebSocket.
    pub(crate) fn opens_websocket(&self) -> bool {
        let mut offered = self.fields.list("upgrade");
        let first = offered.next();
        first.is_some_and(|p| p.eq_ignore_ascii_case(b"websocket"))
            && offered.next().is_none()
            && self.fields.lists("connection", "upgrade")
            && self.method == "GET"
            && self.version == Version::Http11
            && self.body == Body::Empty
    }

    /// All fields, in the order they came.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.lines()
    }

    fn check_connect(&self) -> Result<(), HeadError> {
        match (&self.target, self.body) {
            (Target::Authority(host, port), Body::Empty) => match &self.host {
                Some(named) if !named.is(host, *port) => Err(HeadError::HostMismatch),
                Some(_) | None => Ok(()),
            },
            (Target::Authority(..), _) => {
                Err(HeadError::Framing(framing::FramingError::BodyNotAllowed))
            }
            (Target::Absolute(..) | Target::Origin(_), _) => Ok(()),
        }
    }

    /// The fields that the upstream gets, by name.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.end_to_end()
    }

    /// Whether the agent waits for word before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        self.version == Version::Http11 && self.fields.all("expect").next().is_some()
    }

    /// Whether sending it twice is the same as sending it once, and costs no second body.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.body == Body::Empty
            && matches!(
                self.method.as_str(),
                "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"
            )
    }

    /// Writes the head for the upstream: the authority and path that were decided on, the fields
    /// that are meant for the other end, and the framing as it was read.
    ///
    /// `authority` is what stands in the Host field.
    /// `more` are fields that the gateway adds.
    pub(crate) fn write(
        &self,
        out: &mut BytesMut,
        path: &PathAndQuery,
        authority: &str,
        more: &[(&'static str, String)],
    ) {
        let _infallible = write!(out, "{} {path} HTTP/1.1\r\nHost: {authority}", self.method);
        out.extend_from_slice(b"\r\n");
        self.fields.write_end_to_end(out);
        for (name, value) in more {
            write_field(out, name.as_bytes(), value.as_bytes());
        }
        match self.body {
            Body::Exactly(length) => {
                let _infallible = write!(out, "Content-Length: {length}\r\n");
            }
            Body::Chunked => write_field(out, b"Transfer-Encoding", b"chunked"),
            // A request that would usually have a body says that it has none.
            Body::Empty if matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") => {
                write_field(out, b"Content-Length", b"0");
            }
            Body::Empty | Body::UntilClose => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn host(fields: &Fields, version: Version) -> Result<Option<Authority>, HeadError> {
    match (
        fields.only("host").map_err(|_| HeadError::HostRepeated)?,
        version,
    ) {
        (None, Version::Http10) => Ok(None),
        (None, Version::Http11) => Err(HeadError::HostMissing),
        (Some(value), _) => std::str::from_utf8(value)
            .map_err(|_| HeadError::FieldLine)
            .and_then(|text| Authority::parse(text).map_err(HeadError::Target))
            .map(Some),
    }
}

/// Whether a message of this version and `Connection` leaves the connection open.
pub(super) fn keeps_alive(fields: &Fields, version: Version) -> bool {
    match version {
        Version::Http11 => !fields.lists("connection", "close"),
        Version::Http10 => {
            fields.lists("connection", "keep-alive") && !fields.lists("connection", "close")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<RequestHead, HeadError> {
        RequestHead::parse(&Bytes::copy_from_slice(text.as_bytes()), 4)
    }

    fn rewritten(text: &str) -> String {
        let head = parse(text).unwrap();
        let (Target::Origin(path) | Target::Absolute(_, path)) = &head.target else {
            panic!("no path in {text}");
        };
        let mut out = BytesMut::new();
        head.write(&mut out, path, "decided.example:8080", &[]);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_head_is_written_from_what_was_decided() {
        assert_eq!(
            rewritten("GET http://a/x?y HTTP/1.0\r\nHost: a\r\nAccept:  b \r\n\r\n"),
            "GET /x?y HTTP/1.1\r\nHost: decided.example:8080\r\nAccept: b\r\n\r\n"
        );
        assert_eq!(
            rewritten(
                "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\nConnection: close\r\n\r\n"
            ),
            "POST /x HTTP/1.1\r\nHost: decided.example:8080\r\nContent-Length: 7\r\n\r\n"
        );
        assert_eq!(
            rewritten("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "POST /x HTTP/1.1\r\nHost: decided.example:8080\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(
            rewritten("POST /x HTTP/1.1\r\nHost: a\r\n\r\n"),
            "POST /x HTTP/1.1\r\nHost: decided.example:8080\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn what_is_refused() {
        for (text, error) in [
            ("GET / HTTP/1.1\r\n\r\n", HeadError::HostMissing),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
                HeadError::HostRepeated,
            ),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::FieldLine),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nA\r\n\r\n",
                HeadError::FieldLine,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
                HeadError::FieldLine,
            ),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Method),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::StartLine),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", HeadError::Version),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", HeadError::Version),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n",
                HeadError::Expectation,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
                HeadError::Upgrade,
            ),
            (
                "CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n",
                HeadError::HostMismatch,
            ),
            (
                "CONNECT a:1 HTTP/1.1\r\nHost: a:2\r\n\r\n",
                HeadError::HostMismatch,
            ),
            (
                "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n",
                HeadError::Framing(framing::FramingError::BodyNotAllowed),
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n\r\n",
                HeadError::TooManyFields,
            ),
        ] {
            assert_eq!(parse(text).map(|head| head.method), Err(error), "{text}");
        }
        assert!(parse("GET / HTTP/1.1\r\nHost: a\r\nB: 1\r\nC: 1\r\nD: 1\r\n\r\n").is_ok());
        assert!(parse("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n").is_ok());
        assert!(parse("CONNECT a:1 HTTP/1.0\r\n\r\n").is_ok());
    }

    #[test]
    fn connection_is_kept_as_the_version_says() {
        for (version, connection, expected) in [
            ("1.1", "x", true),
            ("1.1", "close", false),
            ("1.1", "x, Close", false),
            ("1.0", "x", false),
            ("1.0", "Keep-Alive", true),
        ] {
            let text =
                format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
            assert_eq!(parse(&text).unwrap().keep_alive, expected, "{text}");
        }
    }

    proptest! {
        /// What is accepted reads the same again after it was written: no second reading exists.
        #[test]
        fn what_is_written_reads_back(
            fields in proptest::collection::vec("(Content-Length|Transfer-Encoding|Connection|X): ?(chunked|[0-9]{1,3}|[ -~]{0,8})\r\n", 0..4),
            target in "(/|http://a/)[!-~]{0,10}",
        ) {
            let text = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{}\r\n", fields.concat());
            let block = Bytes::from(text);
            if let Ok(head) = RequestHead::parse(&block, 16) {
                let (Target::Origin(path) | Target::Absolute(_, path)) = &head.target else {
                    return Err(TestCaseError::fail("a target without a path"));
                };
                let mut out = BytesMut::new();
                head.write(&mut out, path, "a", &[]);
                let mut scanner = crate::proxy::http1::scan::Scanner::default();
                prop_assert_eq!(scanner.scan(&out, 4096), Ok(Some(out.len())));
                let again = RequestHead::parse(&out.freeze(), 16).unwrap();
                prop_assert_eq!(again.body, head.body);
                prop_assert_eq!(again.target, Target::Origin(path.clone()));
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _any = RequestHead::parse(&Bytes::from(bytes), 4).is_ok();
        }
    }
}
