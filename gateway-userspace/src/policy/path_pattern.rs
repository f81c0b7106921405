//! Patterns over the path of an HTTP request.
//!
//! A path is compared byte by byte, as it goes upstream. Servers disagree on what dot segments,
//! doubled or encoded separators and parameters mean, so a path that has them matches no
//! pattern at all: [`is_plain`] comes before every match.

use std::fmt;

/// Bytes in a pattern.
const PATTERN_MAX: usize = 2048;

/// `/exact/path`, with `*` for one whole segment and `**`, at the end only, for what remains.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPattern(Box<str>);

/// Why a path pattern is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPath {
    /// No slash in front.
    #[error("a path starts with `/`")]
    Relative,
    /// Longer than a pattern may be.
    #[error("a path pattern has at most {PATTERN_MAX} bytes")]
    Length,
    /// A query or fragment.
    #[error("a pattern covers the path only, not the query")]
    Query,
    /// `*` beside other characters.
    #[error("`*` stands for one whole segment")]
    PartOfSegment,
    /// `**` before the end.
    #[error("`**` stands for all that remains, so it can only come last")]
    NotLast,
    /// Something that [`is_plain`] refuses.
    #[error("no path with dot segments, `//`, `;`, `\\` or such bytes encoded ever matches")]
    NotPlain,
}

impl BadPath {
    /// What to write instead.
    pub(super) const fn mend(self) -> &'static str {
        match self {
            Self::Relative => "put a `/` in front",
            Self::Length => "match the front of the path and end with `/**`",
            Self::Query => "leave out `?` and all behind it: any query is allowed",
            Self::PartOfSegment => "write the segment out, or use `*` alone between two slashes",
            Self::NotLast => "end the pattern at `**`, or use one `*` for each segment",
            Self::NotPlain => "write the path as servers see it, without encoding",
        }
    }
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`BadPath`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadPath> {
        let Some(segments) = text.strip_prefix('/') else {
            return Err(BadPath::Relative);
        };
        if text.len() > PATTERN_MAX {
            return Err(BadPath::Length);
        }
        if text.contains(['?', '#']) {
            return Err(BadPath::Query);
        }
        if !is_plain(text) {
            return Err(BadPath::NotPlain);
        }
        let mut segments = segments.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "**" if segments.peek().is_some() => return Err(BadPath::NotLast),
                "*" | "**" => {}
                other if other.contains('*') => return Err(BadPath::PartOfSegment),
                _literal => {}
            }
        }
        Ok(Self(text.into()))
    }

    /// Whether the pattern covers a path that [`is_plain`].
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        for expected in self.0.split('/') {
            match (expected, segments.next()) {
                // At least the slash in front of `**` is there.
                ("**", Some(_)) => return true,
                ("*", Some(segment)) if !segment.is_empty() => {}
                (literal, Some(segment)) if literal != "*" && literal == segment => {}
                (_, Some(_) | None) => return false,
            }
        }
        segments.next().is_none()
    }
}

impl PathPattern {
    /// As [`Self::matches`], with percent-encoding taken off both: what a server may read as a
    /// path that the pattern covers.
    #[must_use]
    pub(super) fn may_match(&self, path: &str) -> bool {
        let mut segments = path.split('/');
        for expected in self.0.split('/') {
            match (expected, segments.next()) {
                ("**", Some(_)) => return true,
                ("*", Some(segment)) if !segment.is_empty() => {}
                (literal, Some(segment))
                    if literal != "*" && decoded(literal).eq(decoded(segment)) => {}
                (_, Some(_) | None) => return false,
            }
        }
        segments.next().is_none()
    }
}

/// The bytes that a text with percent-encoding stands for.
pub(super) fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (byte, after) = match rest {
            [b'%', high, low, after @ ..] => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let value = digit(*high).zip(digit(*low));
                let value = value.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
                match value {
                    Some(value) => (value, after),
                    None => (b'%', rest.get(1..)?),
                }
            }
            [byte, after @ ..] => (*byte, after),
            [] => return None,
        };
        rest = after;
        Some(byte)
    })
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether every server reads this path alike: absolute, visible ASCII, no empty or dot
/// segments, no `\`, `;`, `?`, `#`, and none of these, nor `/`, `%`, control characters or
/// what is not UTF-8, percent-encoded.
#[must_use]
pub(super) fn is_plain(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else {
        return false;
    };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let empty = segment.is_empty() && segments.peek().is_some();
        if empty || is_dots(segment) || !is_plain_segment(segment.as_bytes()) {
            return false;
        }
    }
    true
}

/// Whether a segment is dots and encoded spaces alone: some servers trim those, and are left with
/// a dot segment.
fn is_dots(segment: &str) -> bool {
    let mut rest = segment;
    while let Some(shorter) = rest.strip_prefix('.').or_else(|| rest.strip_prefix("%20")) {
        rest = shorter;
    }
    rest.is_empty() && segment.contains('.')
}

fn is_plain_segment(segment: &[u8]) -> bool {
    let mut text = Vec::new();
    let mut bytes = segment;
    loop {
        let (byte, rest) = match bytes {
            // Too long a form of `/` is one to some servers.
            [] => return str::from_utf8(&text).is_ok(),
            [b'%', high, low, rest @ ..] => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                    return false;
                };
                match u8::try_from(high << 4 | low) {
                    Ok(0..0x20 | 0x7f | b'.' | b'/' | b'\\' | b'%' | b';') | Err(_) => {
                        return false;
                    }
                    Ok(byte) => (byte, rest),
                }
            }
            [b'%' | b'\\' | b';' | b'?' | b'#', ..] => return false,
            [byte @ b'!'..=b'~', rest @ ..] => (*byte, rest),
            [_, ..] => return false,
        };
        text.push(byte);
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> PathPattern {
        PathPattern::parse(text).expect("a pattern")
    }

    #[test]
    fn a_refusing_pattern_sees_through_encoding() {
        for (text, yes, no) in [
            (
                "/admin/**",
                &["/%61dmin/x", "/admin/", "/%61%64min/"][..],
                &["/admin", "/b/x"][..],
            ),
            ("/a%20b", &["/a%20b", "/%61%20%62"], &["/ab", "/a+b"]),
            ("/*/x", &["/a/%78"], &["/x", "//x"]),
        ] {
            for path in yes {
                assert!(pattern(text).may_match(path), "{text} may cover {path}");
            }
            for path in no {
                assert!(!pattern(text).may_match(path), "{text} misses {path}");
            }
        }
    }

    #[test]
    fn patterns_and_their_nearest_miss() {
        for (text, yes, no) in [
            ("/", &["/"][..], &["/a", ""][..]),
            ("/a", &["/a"], &["/a/", "/A", "/ab", "/a/b", "/"]),
            ("/a/", &["/a/"], &["/a", "/a/b"]),
            (
                "/a/*",
                &["/a/b", "/a/%20"],
                &["/a", "/a/", "/a/b/", "/a/b/c"],
            ),
            ("/*/b", &["/a/b"], &["/a/c", "/b", "/a/a/b"]),
            ("/a/**", &["/a/", "/a/b", "/a/b/c/"], &["/a", "/ab", "/b/a"]),
            ("/**", &["/", "/a", "/a/b"], &[""]),
            ("/a/*/**", &["/a/b/", "/a/b/c"], &["/a/b", "/a/"]),
        ] {
            for path in yes {
                assert!(pattern(text).matches(path), "{text} covers {path}");
            }
            for path in no {
                assert!(!pattern(text).matches(path), "{text} misses {path}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        for (text, expected) in [
            ("", BadPath::Relative),
            ("a/b", BadPath::Relative),
            ("/a?b=c", BadPath::Query),
            ("/a#b", BadPath::Query),
            ("/a*", BadPath::PartOfSegment),
            ("/***", BadPath::PartOfSegment),
            ("/**/a", BadPath::NotLast),
            ("/**/", BadPath::NotLast),
            ("/a/../b", BadPath::NotPlain),
            ("/a//b", BadPath::NotPlain),
            ("/ü", BadPath::NotPlain),
            (&format!("/{}", "a".repeat(PATTERN_MAX)), BadPath::Length),
        ] {
            assert_eq!(PathPattern::parse(text), Err(expected), "{text}");
        }
        assert!(PathPattern::parse(&format!("/{}", "a".repeat(PATTERN_MAX - 1))).is_ok());
    }

    #[test]
    fn paths_that_servers_read_differently_are_not_plain() {
        for path in [
            "",
            "*",
            "a",
            "//",
            "/a//b",
            "/.",
            "/..",
            "/a/.",
            "/a/../b",
            "/a/...",
            "/a/..%20/b",
            "/a/%20./b",
            "/./a",
            "/%2e",
            "/%2E%2e/a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a\0",
            "/a%0a",
            "/a;b",
            "/a%3Bb",
            "/a%",
            "/a%2",
            "/a%zz",
            "/%252e",
            "/%c0%ae",
            "/%c1%9c",
            "/%e0%80%af",
            "/%f0%80%80%af",
            "/%c3",
            "/%fc",
            "/%ff",
            "/a b",
            "/ü",
            "/a?b",
            "/a#b",
            "/a%7f",
        ] {
            assert!(!is_plain(path), "{path:?}");
        }
        for path in [
            "/",
            "/a",
            "/a/",
            "/a.b",
            "/...a",
            "/.git",
            "/a%20b",
            "/%C3%BC",
            "/@scope/x",
            "/~u/a:b",
            "/a%3Fb",
        ] {
            assert!(is_plain(path), "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in any::<String>(), path in any::<String>()) {
            if let Ok(pattern) = PathPattern::parse(&pattern) {
                prop_assert!(!pattern.matches(&path) || path.starts_with('/'));
            }
            let plain = is_plain(&path);
            prop_assert!(!plain || path.is_ascii());
        }

        #[test]
        fn a_literal_covers_itself_alone(path in "(/[a-z.%0-9]{0,4}){1,4}", other in "(/[a-z]{0,3}){1,4}") {
            if let Ok(pattern) = PathPattern::parse(&path) {
                prop_assert!(pattern.matches(&path));
                prop_assert_eq!(pattern.matches(&other), path == other);
            }
        }

        #[test]
        fn any_depth_is_a_prefix(path in "(/[a-z]{0,3}){1,5}") {
            prop_assert_eq!(pattern("/a/**").matches(&path), path.starts_with("/a/"));
        }
    }
}
