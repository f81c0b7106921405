//! Hosts as requests and policies name them, brought into one form, once.
//!
//! What any software might read as an address is never a [`HostName`]: it is the address, or it
//! is refused. Nothing is percent-decoded here; a `%` is a character that no host has.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use idna::AsciiDenyList;
use serde::{Serialize, Serializer};

/// Octets of a DNS name without its trailing dot (RFC 1035, 2.3.4).
const NAME_MAX: usize = 253;
/// Octets of a DNS label.
const LABEL_MAX: usize = 63;
/// Octets of text worth looking at: four for each character of the longest name.
const TEXT_MAX: usize = 4 * NAME_MAX;

/// A DNS name in the one form that policy compares: lower case, IDNA A-labels, no trailing dot,
/// at most 253 octets, labels of 1 to 63.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostName(Arc<str>);

/// What a request names as its host: a DNS name or an address, in whatever spelling it came.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// A DNS name.
    Name(HostName),
    /// An address. IPv4-mapped IPv6 is written as IPv4.
    Address(IpAddr),
}

/// Why a host is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadHost {
    /// Nothing there.
    #[error("the host is empty")]
    Empty,
    /// Over 253 octets, or a label over 63 or empty.
    #[error("the host name or one of its labels has the wrong length")]
    Length,
    /// Characters that no host name has, or IDNA that does not decode.
    #[error("the host name has characters that no host name has")]
    Characters,
    /// A number that might be read as an address, in a spelling that only some software reads.
    #[error("the host is a number but no plain address")]
    AmbiguousAddress,
    /// An address, where only a name will do.
    #[error("an address where a host name is needed")]
    Address,
}

impl Host {
    /// Parses a host without its port: a DNS name, an IPv4 address, or an IPv6 address with or
    /// without brackets.
    ///
    /// # Errors
    /// [`BadHost`] says which part of a host name is wrong.
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        if text.is_empty() {
            return Err(BadHost::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(BadHost::Length);
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(BadHost::Characters)?;
            return parse_v6(inner);
        }
        if text.contains(':') {
            return parse_v6(text);
        }
        // IDNA first: it maps full-width digits and dots to those that make an address.
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), AsciiDenyList::URL)
            .map_err(|_| BadHost::Characters)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        check_name(name)?;
        Ok(Self::Name(HostName(name.into())))
    }

    /// The address, if it is one.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Address(address) => Some(*address),
        }
    }

    /// The name, if it is one.
    #[must_use]
    pub const fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

fn parse_v6(text: &str) -> Result<Host, BadHost> {
    // No zone: `fe80::1%eth0` means something on one machine only.
    let address: Ipv6Addr = text.parse().map_err(|_| BadHost::Characters)?;
    Ok(Host::Address(IpAddr::V6(address).to_canonical()))
}

fn check_name(name: &str) -> Result<(), BadHost> {
    if name.is_empty() {
        return Err(BadHost::Empty);
    }
    if name.len() > NAME_MAX
        || name
            .split('.')
            .any(|label| label.is_empty() || label.len() > LABEL_MAX)
    {
        return Err(BadHost::Length);
    }
    let fits =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if !name.bytes().all(fits) {
        return Err(BadHost::Characters);
    }
    match name.rsplit('.').next() {
        Some(last) if is_number(last) => Err(BadHost::AmbiguousAddress),
        Some(_) | None => Ok(()),
    }
}

/// Whether some reader of addresses takes this label for a number. The URL standard and every
/// `inet_aton` read a host whose last label is one as an IPv4 address; no top-level domain is.
fn is_number(label: &str) -> bool {
    let digits = |rest: &str| rest.bytes().all(|b| b.is_ascii_hexdigit());
    label.bytes().all(|b| b.is_ascii_digit())
        || ["0x", "0o", "0b"]
            .iter()
            .any(|prefix| label.strip_prefix(prefix).is_some_and(digits))
}

impl HostName {
    /// Parses a DNS name.
    ///
    /// # Errors
    /// [`BadHost`] says what is wrong with it; an address is no name.
    pub fn parse(text: &str) -> Result<Self, BadHost> {
        match Host::parse(text)? {
            Host::Name(name) => Ok(name),
            Host::Address(_) => Err(BadHost::Address),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// IPv6 is in brackets, so that `:port` can follow.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Result<String, BadHost> {
        Host::parse(text).map(|host| host.to_string())
    }

    #[test]
    fn names_take_one_form() {
        for (text, expected) in [
            ("api.github.com", "api.github.com"),
            ("API.GitHub.Com.", "api.github.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
            ("api。github。com", "api.github.com"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("_sip._tcp.example.com", "_sip._tcp.example.com"),
            ("r3---sn-4g5e.example.com", "r3---sn-4g5e.example.com"),
            ("localhost", "localhost"),
            ("4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"),
            ("1e100.net", "1e100.net"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected), "{text}");
            assert!(Host::parse(text).is_ok_and(|host| host.name().is_some()));
        }
    }

    #[test]
    fn addresses_take_one_form() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            // Full-width digits and dots.
            ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", "127.0.0.1"),
            ("127\u{ff0e}0\u{ff0e}0\u{ff0e}1", "127.0.0.1"),
            ("127。0。0。1", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("::1", "[::1]"),
            ("[2001:DB8::0:1]", "[2001:db8::1]"),
            ("[::ffff:7f00:1]", "127.0.0.1"),
            ("::ffff:169.254.169.254", "169.254.169.254"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected), "{text}");
            let parsed = Host::parse(text).expect("just parsed");
            assert!(parsed.address().is_some(), "{text}");
            assert_eq!(HostName::parse(text), Err(BadHost::Address), "{text}");
        }
    }

    #[test]
    fn numbers_that_only_some_read_are_refused() {
        for text in [
            "0x7f.1",
            "0X7F.1",
            "2130706433",
            "127.1",
            "127.0.1",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.01",
            "1.2.3.4.5",
            "256.0.0.1",
            "0x7f000001",
            "\u{ff12}130706433",
            "127.0x",
            "example.1",
            "0b1111111.1.0b1",
            "127.0.0.1.0o1",
        ] {
            assert_eq!(Host::parse(text), Err(BadHost::AmbiguousAddress), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let label = "a".repeat(63);
        let long = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(long.len(), 253);
        assert!(Host::parse(&long).is_ok());
        assert!(Host::parse(&format!("{long}.")).is_ok());
        for (text, expected) in [
            ("", BadHost::Empty),
            (".", BadHost::Empty),
            (&format!("{long}a"), BadHost::Length),
            (&format!("{label}a.com"), BadHost::Length),
            (&"ü".repeat(TEXT_MAX), BadHost::Length),
            ("a..b", BadHost::Length),
            (".a", BadHost::Length),
            ("a.b..", BadHost::Length),
            ("127.0.0.1..", BadHost::Length),
            ("a b", BadHost::Characters),
            ("a\0b", BadHost::Characters),
            ("a\n", BadHost::Characters),
            ("%31%32%37.0.0.1", BadHost::Characters),
            ("a%2eb", BadHost::Characters),
            ("user@host", BadHost::Characters),
            ("a/b", BadHost::Characters),
            ("*.example.com", BadHost::Characters),
            ("host:80", BadHost::Characters),
            ("[::1", BadHost::Characters),
            ("[::1]:80", BadHost::Characters),
            ("[127.0.0.1]", BadHost::Characters),
            ("fe80::1%eth0", BadHost::Characters),
            ("xn--a", BadHost::Characters),
        ] {
            assert_eq!(Host::parse(text), Err(expected), "{text:?}");
        }
    }

    /// What glibc, musl, BSD and the URL standard together might read as an IPv4 address:
    /// one to four numbers, in any base, with anything after a blank.
    fn reads_as_address(text: &str) -> bool {
        let text = text.trim_end_matches('.');
        let text = text.split_ascii_whitespace().next().unwrap_or_default();
        let number = |part: &str| {
            let lower = part.to_ascii_lowercase();
            let (digits, radix) = match lower.get(..2) {
                Some("0x") => (&lower[2..], 16),
                Some("0b") => (&lower[2..], 2),
                Some("0o") => (&lower[2..], 8),
                Some(_) | None => (&lower[..], 10),
            };
            digits.is_empty() && radix == 16
                || !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix))
        };
        let parts: Vec<&str> = text.split('.').collect();
        parts.len() <= 4 && parts.into_iter().all(number)
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_is_idempotent(text in any::<String>()) {
            if let Ok(parsed) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&parsed.to_string()), Ok(parsed));
            }
        }

        #[test]
        fn parse_of_likely_hosts_is_idempotent(text in "[-a-zA-Z0-9_.。0x:%\\[\\]üß\u{200d}]{1,40}") {
            if let Ok(parsed) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&parsed.to_string()), Ok(parsed));
            }
        }

        #[test]
        fn no_name_reads_as_an_address(
            text in "((0[xXbBoO])?[0-9\u{ff10}-\u{ff19}a-fA-F]{0,11}[.。]?){1,5}[. \t]?"
        ) {
            if let Ok(Host::Name(name)) = Host::parse(&text) {
                prop_assert!(!reads_as_address(name.as_str()), "{}", name);
            }
        }

        #[test]
        fn every_address_is_read_back(address in any::<IpAddr>()) {
            let host = Host::Address(address.to_canonical());
            prop_assert_eq!(Host::parse(&address.to_string()), Ok(host.clone()));
            prop_assert_eq!(Host::parse(&host.to_string()), Ok(host));
        }
    }
}
