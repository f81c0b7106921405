//! Paths that were seen, made patterns: what looks like an id becomes `*`.

use std::collections::BTreeSet;

use crate::policy::PathPattern;

/// Patterns of one host; more of them are told by their first segment, and then not at all.
pub(super) const PATTERNS_MAX: usize = 32;
/// Octets of a pattern that is written out.
const PATTERN_MAX: usize = 256;

/// Patterns that cover all paths that were added.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths {
    patterns: BTreeSet<String>,
    detail: Detail,
}

/// How much of a path is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Detail {
    /// Every segment.
    #[default]
    Whole,
    /// The first.
    First,
    /// None, since there were too many.
    Crowd,
    /// None, since no pattern covers one of them.
    Odd,
}

impl Paths {
    /// Adds a path.
    pub(super) fn add(&mut self, path: &str) {
        // A star in a path is a letter like others, but not in a pattern.
        if PathPattern::parse(&path.replace('*', "_")).is_err() {
            self.coarsen(Detail::Odd);
        }
        loop {
            let pattern = match self.detail {
                Detail::Whole => whole(path),
                Detail::First => Some(first(path)),
                Detail::Crowd | Detail::Odd => return,
            };
            let Some(pattern) = pattern else {
                self.coarsen(Detail::First);
                continue;
            };
            if self.patterns.contains(&pattern) {
                return;
            }
            if self.patterns.len() < PATTERNS_MAX {
                self.patterns.insert(pattern);
                return;
            }
            self.coarsen(match self.detail {
                Detail::Whole => Detail::First,
                Detail::First | Detail::Crowd | Detail::Odd => Detail::Crowd,
            });
        }
    }

    fn coarsen(&mut self, detail: Detail) {
        self.detail = self.detail.max(detail);
        self.patterns = match self.detail {
            Detail::Whole => return,
            Detail::First => self.patterns.iter().map(|path| first(path)).collect(),
            Detail::Crowd | Detail::Odd => BTreeSet::new(),
        };
    }

    /// The patterns; none if all paths are to be allowed.
    pub(super) fn patterns(&self) -> Option<&BTreeSet<String>> {
        (self.detail < Detail::Crowd).then_some(&self.patterns)
    }

    /// What is broad about them.
    pub(super) const fn broad(&self) -> Option<&'static str> {
        match self.detail {
            Detail::Whole => None,
            Detail::First => Some("many paths, told by their first segment"),
            Detail::Crowd => Some("all paths, since there were too many to list"),
            Detail::Odd => Some("all paths, since no pattern covers one that was seen"),
        }
    }
}

/// The path with ids made `*`; none where that would be too long.
fn whole(path: &str) -> Option<String> {
    let segments = path.split('/').map(|segment| match is_id(segment) {
        true => "*",
        false => segment,
    });
    let pattern = segments.collect::<Vec<_>>().join("/");
    (pattern.len() <= PATTERN_MAX).then_some(pattern)
}

/// The first segment, and all below.
fn first(path: &str) -> String {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let (segment, below) = match rest.split_once('/') {
        Some((segment, _)) => (segment, "/**"),
        None => (rest, ""),
    };
    let segment = match is_id(segment) || segment.len() > PATTERN_MAX {
        true => "*",
        false => segment,
    };
    format!("/{segment}{below}")
}

/// Whether a segment looks like one of many: a number, a UUID, a hash, a date, a token.
fn is_id(segment: &str) -> bool {
    let count = |like: fn(&u8) -> bool| segment.bytes().filter(like).count();
    let (length, digits) = (segment.len(), count(u8::is_ascii_digit));
    let hex = count(u8::is_ascii_hexdigit);
    let joints = count(|b| matches!(b, b'-' | b'_' | b'.' | b':' | b'=' | b'~'));
    let words = count(u8::is_ascii_alphanumeric) + joints;
    // Patterns have a meaning of their own for it.
    segment.contains('*')
        || length > 0 && digits == length
        || digits >= 6 && digits + joints == length
        || length >= 8 && digits > 0 && hex == length
        || length >= 16 && hex + joints == length && hex >= 16
        || length >= 16 && digits >= 4 && words == length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_an_id_is_any() {
        for (path, expected) in [
            ("/", "/"),
            ("/repos/acme/x/issues/17", "/repos/acme/x/issues/*"),
            ("/v1/chat/completions", "/v1/chat/completions"),
            ("/0198a1c2-7f3e-7abc-8def-0123456789ab/x", "/*/x"),
            ("/c/deadbee1", "/c/*"),
            ("/c/deadbeefdeadbeef", "/c/*"),
            ("/facade", "/facade"),
            ("/2026-11-23/", "/*/"),
            ("/rust-1.95.0", "/rust-1.95.0"),
            ("/files/AbC123dEf456gHi7", "/files/*"),
            ("/a*b", "/*"),
            ("/**", "/*"),
        ] {
            let mut paths = Paths::default();
            paths.add(path);
            let found: Vec<_> = paths.patterns().expect("patterns").iter().collect();
            assert_eq!(found, [expected], "{path}");
            let pattern = PathPattern::parse(expected).expect("a pattern");
            assert!(pattern.matches(path), "{path}");
        }
    }

    #[test]
    fn many_paths_become_fewer_and_then_any() {
        let mut paths = Paths::default();
        let name = |at: usize| {
            let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).expect("a letter"));
            format!("{}{}", letter(at / 26), letter(at))
        };
        for at in 0..PATTERNS_MAX {
            paths.add(&format!("/api/{}", name(at)));
        }
        assert_eq!(paths.patterns().map(BTreeSet::len), Some(PATTERNS_MAX));
        assert_eq!(paths.broad(), None);
        paths.add("/api/more");
        let found: Vec<_> = paths.patterns().expect("patterns").iter().collect();
        assert_eq!(found, ["/api/**"]);
        for at in 0..PATTERNS_MAX {
            paths.add(&format!("/{}/x", name(at)));
        }
        assert_eq!(paths.patterns(), None);
        assert!(paths.broad().is_some());
    }

    #[test]
    fn a_path_that_no_pattern_covers_leaves_all_open() {
        for odd in ["/a//b", "/a/../b", "/a;b", "/%2e", "relative"] {
            let mut paths = Paths::default();
            paths.add("/x");
            paths.add(odd);
            assert_eq!(paths.patterns(), None, "{odd}");
        }
        let mut paths = Paths::default();
        paths.add(&format!("/long/{}", "x/".repeat(PATTERN_MAX)));
        assert!(paths.patterns().expect("patterns").contains("/long/**"));
    }
}
