//! Request targets: which place, and which path, in one reading only.

use std::fmt;

use crate::names::{BadHost, Host};

/// A host with the port that was written behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Authority {
    /// The host.
    pub(crate) host: Host,
    /// The port, if one was written.
    pub(crate) port: Option<u16>,
}

/// A path with its query, as it goes upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PathAndQuery {
    text: String,
    path: usize,
}

/// What a request line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// `host:port`, with CONNECT only.
    Authority(Host, u16),
    /// `http://host[:port]/path`: an explicit proxy request.
    Absolute(Authority, PathAndQuery),
    /// `/path`: the place stands in the Host field.
    Origin(PathAndQuery),
}

/// Why a request target is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// None of the four forms.
    #[error("it is no form of a request target")]
    Form,
    /// A scheme other than http.
    #[error("its scheme is not http; https goes through CONNECT")]
    Scheme,
    /// The host is not one.
    #[error("{0}")]
    Host(BadHost),
    /// The port is not one.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// A user name or password.
    #[error("it carries a user name or password")]
    UserInfo,
    /// A character that no request target has.
    #[error("it has a character that no request target has")]
    Character,
    /// A fragment.
    #[error("it has a fragment")]
    Fragment,
    /// `.` or `..` as a segment, in any spelling.
    #[error("it has a dot segment")]
    DotSegment,
    /// A separator or control character in hiding, or a `%` without two digits.
    #[error("it hides a separator or a control character behind a percent sign")]
    Encoding,
}

impl TargetError {
    /// The stable label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Form => "target_form",
            Self::Scheme => "target_scheme",
            Self::Host(_) => "host_malformed",
            Self::Port => "port_malformed",
            Self::UserInfo => "target_userinfo",
            Self::Character => "target_character",
            Self::Fragment => "target_fragment",
            Self::DotSegment => "path_dot_segment",
            Self::Encoding => "path_encoding",
        }
    }
}

impl Authority {
    /// Parses `host` or `host:port`; IPv6 stands in brackets.
    ///
    /// # Errors
    /// What is wrong with the host or the port.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        if text.contains('@') {
            return Err(TargetError::UserInfo);
        }
        let after_brackets = text.rfind(']').unwrap_or(0);
        let colon = text
            .get(after_brackets..)
            .and_then(|rest| rest.find(':'))
            .map(|at| at + after_brackets);
        let (host, port) = match colon.and_then(|at| text.split_at_checked(at)) {
            Some((host, port)) => (host, Some(parse_port(port)?)),
            None => (text, None),
        };
        Ok(Self {
            host: Host::parse(host).map_err(TargetError::Host)?,
            port,
        })
    }

    /// Whether this names the same place, where a missing port means `port`.
    pub(crate) fn is(&self, host: &Host, port: u16) -> bool {
        self.host == *host && self.port.is_none_or(|written| written == port)
    }
}

/// Parses `:` and a port.
fn parse_port(text: &str) -> Result<u16, TargetError> {
    let digits = text.strip_prefix(':').ok_or(TargetError::Port)?;
    if digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TargetError::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(TargetError::Port),
        Ok(port) => Ok(port),
    }
}

impl PathAndQuery {
    /// Parses a path from its `/` (or a lone `*`) on.
    ///
    /// # Errors
    /// What makes the path ambiguous.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        if text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(TargetError::Character);
        }
        if text.contains('#') {
            return Err(TargetError::Fragment);
        }
        let path = text.find('?').unwrap_or(text.len());
        check_path(text.get(..path).unwrap_or_default())?;
        Ok(Self {
            text: text.to_owned(),
            path,
        })
    }

    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.text.get(..self.path).unwrap_or_default()
    }

    /// What stands behind the `?`, without it.
    pub(crate) fn query(&self) -> &str {
        let rest = self.text.get(self.path..).unwrap_or_default();
        rest.strip_prefix('?').unwrap_or(rest)
    }
}

impl fmt::Display for PathAndQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Refuses what an upstream could take for another path than policy sees.
fn check_path(path: &str) -> Result<(), TargetError> {
    if path == "*" {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(TargetError::Form)?;
    if segments.contains('\\') {
        return Err(TargetError::Character);
    }
    segments.split('/').try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), TargetError> {
    let mut decoded = Vec::new();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(TargetError::Encoding);
        };
        match u8::try_from(high << 4 | low) {
            Ok(b'/' | b'\\' | 0..0x20 | 0x7f) | Err(_) => return Err(TargetError::Encoding),
            Ok(byte) => decoded.push(byte),
        }
    }
    // Some servers cut parameters (`..;x`) before they resolve dots.
    match decoded.split(|&b| b == b';').next() {
        Some(b"." | b"..") => Err(TargetError::DotSegment),
        Some(_) | None => Ok(()),
    }
}

impl Target {
    /// Parses the target of a request with this method.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(method: &str, text: &str) -> Result<Self, TargetError> {
        if method == "CONNECT" {
            let Authority { host, port } = Authority::parse(text)?;
            return Ok(Self::Authority(host, port.ok_or(TargetError::Port)?));
        }
        if text.starts_with('/') || (text == "*" && method == "OPTIONS") {
            return PathAndQuery::parse(text).map(Self::Origin);
        }
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Form)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(TargetError::Scheme);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(TargetError::Form)?;
        let authority = Authority::parse(authority)?;
        let path = match (path.starts_with('/'), path.is_empty(), method) {
            (true, ..) => PathAndQuery::parse(path)?,
            (false, true, "OPTIONS") => PathAndQuery::parse("*")?,
            (false, ..) => PathAndQuery::parse(&format!("/{path}"))?,
        };
        Ok(Self::Absolute(authority, path))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(method: &str, text: &str) -> Result<String, TargetError> {
        Target::parse(method, text).map(|target| match target {
            Target::Authority(host, port) => format!("{host} {port}"),
            Target::Absolute(Authority { host, port }, path) => format!("{host} {port:?} {path}"),
            Target::Origin(path) => format!("{path} ({})", path.path()),
        })
    }

    #[test]
    fn the_four_forms() {
        for (method, text, expected) in [
            ("CONNECT", "Example.com:443", "example.com 443"),
            ("CONNECT", "[::1]:443", "[::1] 443"),
            ("GET", "http://Example.com", "example.com None /"),
            ("GET", "HTTP://example.com:81?q", "example.com Some(81) /?q"),
            ("OPTIONS", "http://example.com", "example.com None *"),
            ("OPTIONS", "*", "* (*)"),
            (
                "GET",
                "/a/b%20c;v=1?x=../%2f",
                "/a/b%20c;v=1?x=../%2f (/a/b%20c;v=1)",
            ),
            (
                "GET",
                "/a..b/...//%c3%a9",
                "/a..b/...//%c3%a9 (/a..b/...//%c3%a9)",
            ),
        ] {
            assert_eq!(
                shown(method, text).as_deref(),
                Ok(expected),
                "{method} {text}"
            );
        }
    }

    #[test]
    fn what_is_refused() {
        use TargetError::{
            Character, DotSegment, Encoding, Form, Fragment, Port, Scheme, UserInfo,
        };
        for (method, text, error) in [
            ("CONNECT", "example.com", Port),
            ("CONNECT", "example.com:", Port),
            ("CONNECT", "example.com:0", Port),
            ("CONNECT", "example.com:65536", Port),
            ("CONNECT", "example.com:+80", Port),
            ("CONNECT", "example.com:80:90", Port),
            ("CONNECT", "u@example.com:80", UserInfo),
            ("GET", "https://example.com/", Scheme),
            ("GET", "ftp://example.com/", Scheme),
            ("GET", "http://u:p@example.com/", UserInfo),
            ("GET", "example.com/", Form),
            ("GET", "*", Form),
            ("GET", "/a#b", Fragment),
            ("GET", "http://example.com#b", Fragment),
            ("GET", "/a\\b", Character),
            ("GET", "/é", Character),
            ("GET", "/a/../b", DotSegment),
            ("GET", "/a/./b", DotSegment),
            ("GET", "/..", DotSegment),
            ("GET", "/a/%2e%2E/b", DotSegment),
            ("GET", "/a/.%2e", DotSegment),
            ("GET", "/a/..;x=1/b", DotSegment),
            ("GET", "/a/..%3bx/b", DotSegment),
            ("GET", "http://example.com/../x", DotSegment),
            ("GET", "/a%2Fb", Encoding),
            ("GET", "/a%5cb", Encoding),
            ("GET", "/a%00", Encoding),
            ("GET", "/a%0d%0a", Encoding),
            ("GET", "/a%7f", Encoding),
            ("GET", "/a%", Encoding),
            ("GET", "/a%zz", Encoding),
        ] {
            assert_eq!(shown(method, text), Err(error), "{method} {text}");
        }
        assert!(matches!(
            shown("GET", "http:///x"),
            Err(TargetError::Host(BadHost::Empty))
        ));
        assert!(matches!(
            shown("GET", "http://0x7f.1/"),
            Err(TargetError::Host(_))
        ));
        assert!(matches!(
            shown("GET", "http://a%2eb/"),
            Err(TargetError::Host(_))
        ));
    }

    proptest! {
        #[test]
        fn never_panics_and_shows_what_it_read(text in "\\PC{0,40}") {
            for method in ["GET", "CONNECT", "OPTIONS"] {
                if let Ok(Target::Origin(path)) = Target::parse(method, &text) {
                    prop_assert_eq!(path.to_string(), text.clone());
                }
            }
        }
    }
}
