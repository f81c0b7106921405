//! Patterns over hosts: a name, an address, or a name with one wildcard in front.
//!
//! A wildcard never reaches across a public suffix, below which anybody can get a name.

use std::{borrow::Cow, fmt, net::IpAddr};

use crate::names::{BadHost, Host, HostName};

/// Which hosts a rule names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HostPattern {
    /// One host.
    Exact(Host),
    /// `*.suffix`: exactly one label more.
    Child(HostName),
    /// `**.suffix`: one label more, or several.
    Descendant(HostName),
}

/// Why a host pattern is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPattern {
    /// It has a scheme or a path.
    #[error("a URL where a host is needed")]
    Url,
    /// It has a port.
    #[error("a port where only a host is needed")]
    Port,
    /// `*` elsewhere than as the first label.
    #[error("a wildcard is `*.` or `**.` in front of a name, and nothing else")]
    Wildcard,
    /// Everything, or everything below a name where anybody can register.
    #[error("a wildcard over all of `{0}`, a public suffix: names there belong to anybody")]
    PublicSuffix(HostName),
    /// Not a host.
    #[error(transparent)]
    Host(#[from] BadHost),
}

impl BadPattern {
    /// What to write instead.
    pub(super) fn mend(&self) -> String {
        match self {
            Self::Url => "write the host alone, as in \"api.github.com\"; ports and paths have keys of their own".into(),
            Self::Port => "write the host alone, and the port in `ports`".into(),
            Self::Wildcard => "write the name out, or \"*.example.com\" for one label, or \"**.example.com\" for any number".into(),
            Self::PublicSuffix(_) => "list the names you mean".into(),
            Self::Host(BadHost::AmbiguousAddress) => "write an IPv4 address as four decimal numbers".into(),
            Self::Host(BadHost::Address) => "a wildcard cannot stand in front of an address: list the addresses".into(),
            Self::Host(BadHost::Empty | BadHost::Length | BadHost::Characters) => "write a DNS name such as \"api.github.com\", or an address".into(),
        }
    }
}

impl HostPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`BadPattern`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        if text.contains('/') {
            return Err(BadPattern::Url);
        }
        let (descendant, child) = (text.strip_prefix("**."), text.strip_prefix("*."));
        let rest = descendant.or(child).unwrap_or(text);
        if rest.contains('*') {
            return Err(BadPattern::Wildcard);
        }
        if descendant.or(child).is_none() {
            return Host::parse(rest).map(Self::Exact).map_err(|bad| {
                if has_port(rest) {
                    BadPattern::Port
                } else {
                    bad.into()
                }
            });
        }
        let suffix = HostName::parse(rest)?;
        if public_suffix_len(suffix.as_str()) >= suffix.as_str().len() {
            return Err(BadPattern::PublicSuffix(suffix));
        }
        Ok(if descendant.is_some() {
            Self::Descendant(suffix)
        } else {
            Self::Child(suffix)
        })
    }

    /// Whether the pattern covers this name.
    #[must_use]
    pub fn covers_name(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(host) => host.name() == Some(name),
            Self::Child(suffix) => {
                below(name, suffix).is_some_and(|front| !front.contains('.'))
                    && stays_below(name, suffix)
            }
            Self::Descendant(suffix) => below(name, suffix).is_some() && stays_below(name, suffix),
        }
    }

    /// Whether the pattern is this address.
    #[must_use]
    pub fn covers_address(&self, address: IpAddr) -> bool {
        match self {
            Self::Exact(host) => host.address() == Some(address),
            Self::Child(_) | Self::Descendant(_) => false,
        }
    }

    /// Whether the pattern covers this host.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => self.covers_name(name),
            Host::Address(address) => self.covers_address(address.to_canonical()),
        }
    }

    /// Whether every host that `other` covers, this pattern covers as well.
    pub(super) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (pattern, Self::Exact(host)) => pattern.covers(host),
            (Self::Exact(_), Self::Child(_) | Self::Descendant(_)) => false,
            (Self::Child(mine), Self::Child(theirs)) => mine == theirs,
            (Self::Child(_), Self::Descendant(_)) => false,
            (Self::Descendant(mine), Self::Child(theirs) | Self::Descendant(theirs)) => {
                mine == theirs || self.covers_name(theirs)
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => host.fmt(f),
            Self::Child(suffix) => write!(f, "*.{suffix}"),
            Self::Descendant(suffix) => write!(f, "**.{suffix}"),
        }
    }
}

/// Whether leaving out the last `:digits` makes it a host.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| port.parse::<u32>().is_ok() && Host::parse(host).is_ok())
}

/// What stands before `.suffix`; never empty.
fn below<'a>(name: &'a HostName, suffix: &HostName) -> Option<&'a str> {
    name.as_str()
        .strip_suffix(suffix.as_str())?
        .strip_suffix('.')
        .filter(|front| !front.is_empty())
}

/// Whether no public suffix begins between `suffix` and `name`: `**.amazonaws.com` does not
/// reach `anybody.s3.amazonaws.com`.
fn stays_below(name: &HostName, suffix: &HostName) -> bool {
    public_suffix_len(name.as_str()) < suffix.as_str().len()
}

/// Octets of the public suffix of a name. A name whose top-level domain nobody knows has that
/// as its public suffix.
fn public_suffix_len(name: &str) -> usize {
    // The list has U-labels.
    let unicode = if name.contains("xn--") {
        Cow::Owned(idna::domain_to_unicode(name).0)
    } else {
        Cow::Borrowed(name)
    };
    let Some(suffix) = psl::suffix_str(&unicode) else {
        return name.len();
    };
    let labels = suffix.split('.').count();
    match name.rmatch_indices('.').nth(labels - 1) {
        Some((dot, _)) => name.len() - dot - 1,
        None => name.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern)
            .expect("a pattern")
            .covers(&Host::parse(host).expect("a host"))
    }

    #[test]
    fn patterns_and_their_nearest_miss() {
        for (pattern, yes, no) in [
            (
                "api.github.com",
                &["API.github.com."][..],
                &["github.com", "x.api.github.com", "api.github.com.evil.net"][..],
            ),
            (
                "*.github.com",
                &["api.github.com"],
                &[
                    "github.com",
                    "a.b.github.com",
                    "evilgithub.com",
                    "github.com.evil.net",
                ],
            ),
            (
                "**.github.com",
                &["api.github.com", "a.b.github.com"],
                &["github.com", "evilgithub.com"],
            ),
            (
                "127.0.0.1",
                &["127.0.0.1", "[::ffff:7f00:1]"],
                &["127.0.0.2", "localhost"],
            ),
            ("[2001:db8::1]", &["2001:db8:0::1"], &["2001:db8::2"]),
            ("::ffff:8.8.8.8", &["8.8.8.8"], &["8.8.4.4"]),
            (
                "*.bücher.example",
                &["a.xn--bcher-kva.example"],
                &["xn--bcher-kva.example"],
            ),
            (
                "*.acme.internal.",
                &["db.acme.internal"],
                &["acme.internal"],
            ),
            // A public suffix begins in between.
            (
                "**.amazonaws.com",
                &["sts.amazonaws.com"],
                &["anybody.s3.amazonaws.com"],
            ),
        ] {
            for host in yes {
                assert!(covers(pattern, host), "{pattern} covers {host}");
            }
            for host in no {
                assert!(!covers(pattern, host), "{pattern} misses {host}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let suffix = |text| BadPattern::PublicSuffix(HostName::parse(text).expect("a name"));
        for (text, expected) in [
            ("https://github.com", BadPattern::Url),
            ("github.com/a", BadPattern::Url),
            ("github.com:443", BadPattern::Port),
            ("[::1]:443", BadPattern::Port),
            ("*", BadPattern::Wildcard),
            ("**", BadPattern::Wildcard),
            ("*github.com", BadPattern::Wildcard),
            ("a.*.github.com", BadPattern::Wildcard),
            ("*.*.github.com", BadPattern::Wildcard),
            ("***.github.com", BadPattern::Wildcard),
            ("*.", BadHost::Empty.into()),
            ("*.com", suffix("com")),
            ("**.co.uk", suffix("co.uk")),
            ("*.uk", suffix("uk")),
            ("*.github.io", suffix("github.io")),
            ("*.s3.amazonaws.com", suffix("s3.amazonaws.com")),
            ("*.internal", suffix("internal")),
            ("*.xn--p1ai", suffix("xn--p1ai")),
            ("*.xn--55qx5d.cn", suffix("xn--55qx5d.cn")),
            ("*.127.0.0.1", BadHost::Address.into()),
            ("*.0.0.1", BadHost::AmbiguousAddress.into()),
            ("0x7f.1", BadHost::AmbiguousAddress.into()),
            ("", BadHost::Empty.into()),
            ("a b", BadHost::Characters.into()),
        ] {
            assert_eq!(HostPattern::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn inclusion_follows_coverage() {
        let pattern = |text| HostPattern::parse(text).expect("a pattern");
        for (wide, narrow, expected) in [
            ("**.a.com", "*.a.com", true),
            ("**.a.com", "**.b.a.com", true),
            ("**.a.com", "x.a.com", true),
            ("*.a.com", "x.a.com", true),
            ("*.a.com", "**.a.com", false),
            ("*.a.com", "*.b.a.com", false),
            ("**.b.a.com", "**.a.com", false),
            ("x.a.com", "*.a.com", false),
            ("**.amazonaws.com", "*.mine.s3.amazonaws.com", false),
        ] {
            assert_eq!(
                pattern(wide).includes(&pattern(narrow)),
                expected,
                "{wide} {narrow}"
            );
        }
    }

    proptest::proptest! {
        /// Each kind of pattern counts the labels in front, and nothing else is compared loosely.
        #[test]
        fn labels_in_front_decide(
            front in proptest::collection::vec("[a-c]{1,3}", 0..4),
            base in proptest::collection::vec("[a-c]{1,3}", 1..4),
            other in proptest::collection::vec("[a-c]{1,3}", 1..7),
        ) {
            let base = base.join(".") + ".example.com";
            let host = [front.clone(), vec![base.clone()]].concat().join(".");
            proptest::prop_assert_eq!(covers(&base, &host), front.is_empty());
            proptest::prop_assert_eq!(covers(&format!("*.{base}"), &host), front.len() == 1);
            proptest::prop_assert_eq!(covers(&format!("**.{base}"), &host), !front.is_empty());
            // Letters before the name are no label before it.
            proptest::prop_assert_eq!(covers(&format!("**.{base}"), &format!("x{base}")), false);
            let other = other.join(".") + ".example.com";
            let below = other.strip_suffix(&base).is_some_and(|front| front.ends_with('.'));
            proptest::prop_assert_eq!(covers(&format!("**.{base}"), &other), below);
        }
    }
}
