//! Tells from the first bytes which protocol an agent speaks. Takes nothing out of the buffer.

use super::wire::Wire;
use crate::config::Limits;

/// Longest first line of a request that is looked at before it is called something else.
const LINE_MAX: usize = 8 * 1024;

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    /// An HTTP request line.
    Http,
    /// The preface of HTTP/2 without TLS.
    Http2,
    /// A TLS handshake record.
    Tls,
    /// Bytes of neither.
    Opaque,
    /// Nothing, in the time that a head may take.
    Silent,
    /// The end.
    Closed,
}

/// Waits for enough bytes to tell, at most as long as a head may take.
pub(crate) async fn sniff(agent: &mut Wire, limits: &Limits) -> Opening {
    let mut input = agent.input();
    let looking = async {
        loop {
            if let Some(opening) = classify(input.buffer) {
                return opening;
            }
            match input.fill().await {
                Ok(1..) => {}
                Ok(0) | Err(_) if input.buffer.is_empty() => return Opening::Closed,
                Ok(0) | Err(_) => return Opening::Opaque,
            }
        }
    };
    match tokio::time::timeout(limits.head_timeout, looking).await {
        Ok(opening) => opening,
        Err(_) if agent.input().buffer.is_empty() => Opening::Silent,
        Err(_) => Opening::Opaque,
    }
}

/// What these bytes begin; none if it takes more of them to tell.
fn classify(bytes: &[u8]) -> Option<Opening> {
    match bytes {
        [] | [0x16] => None,
        // A handshake record of any version from SSL 3.0 on.
        [0x16, 0x03, ..] => Some(Opening::Tls),
        _ if bytes.starts_with(PREFACE) => Some(Opening::Http2),
        _ if PREFACE.starts_with(bytes) => None,
        [first, ..] if first.is_ascii_alphabetic() => classify_line(bytes),
        [..] => Some(Opening::Opaque),
    }
}

/// A line `method target HTTP/…`, however malformed: the parser says what is wrong with it.
fn classify_line(bytes: &[u8]) -> Option<Opening> {
    match memchr::memchr(b'\n', bytes).and_then(|end| bytes.get(..end)) {
        Some(line) if memchr::memmem::find(line, b" HTTP/").is_some() => Some(Opening::Http),
        Some(_) => Some(Opening::Opaque),
        None if bytes.len() >= LINE_MAX => Some(match is_request_start(bytes) {
            true => Opening::Http,
            false => Opening::Opaque,
        }),
        None if bytes
            .iter()
            .all(|b| matches!(b, b'\t' | b' '..=b'~' | b'\r' | 0x80..)) =>
        {
            None
        }
        None => Some(Opening::Opaque),
    }
}

/// A method and the start of a target: a very long request line.
fn is_request_start(bytes: &[u8]) -> bool {
    let method = bytes
        .iter()
        .take_while(|b| b.is_ascii_uppercase() || **b == b'-')
        .count();
    (1..=32).contains(&method) && bytes.get(method) == Some(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], None),
            (b"GET / HT", None),
            (b"GET / HTTP/1.1\r\n", Some(Opening::Http)),
            (b"get / HTTP/9\n", Some(Opening::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Opening::Http2)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PRI * HTTP/2.0\r\nA: b\r\n", Some(Opening::Http)),
            (b"EHLO example.com\r\n", Some(Opening::Opaque)),
            (b"SSH-2.0-OpenSSH_9\r\n", Some(Opening::Opaque)),
            (b"GET /\r\n", Some(Opening::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Opening::Opaque)),
            (b"GET\0", Some(Opening::Opaque)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Opening::Tls)),
            (b"\x16\x02", Some(Opening::Opaque)),
            (b"\x80\x2e\x01", Some(Opening::Opaque)),
        ] {
            assert_eq!(classify(bytes), expected, "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_long_line_is_not_waited_for_without_end() {
        let mut line = b"GET /".to_vec();
        line.resize(LINE_MAX - 1, b'a');
        assert_eq!(classify(&line), None);
        line.push(b'a');
        assert_eq!(classify(&line), Some(Opening::Http));
        assert_eq!(classify(&vec![b'a'; LINE_MAX]), Some(Opening::Opaque));
    }
}
