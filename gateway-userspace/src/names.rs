//! Newtypes for what crosses a boundary. Parse once; no raw bytes of a peer go further.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Serialize, Serializer};

/// Name of an agent, as its policy gives it: 1 to 63 of `a-z 0-9 . _ -`, starting with a letter
/// or digit.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AgentId(Arc<str>);

/// Name of a rule, unique in its policy: same alphabet and length as [`AgentId`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RuleId(Arc<str>);

/// Why a name is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{0}` is not a name: use 1 to 63 of a-z, 0-9, `.`, `_`, `-`, starting with a letter or digit"
)]
pub struct BadName(pub String);

fn parse_name(text: &str) -> Result<Arc<str>, BadName> {
    let fits = (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        });
    if fits {
        Ok(text.into())
    } else {
        Err(BadName(text.to_owned()))
    }
}

macro_rules! name {
    ($type:ident) => {
        impl $type {
            /// Parses a name.
            ///
            /// # Errors
            /// [`BadName`] when the text is empty, too long or of another alphabet.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                parse_name(text).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name!(AgentId);
name!(RuleId);

/// SHA-256 over a policy as loaded; shown as `sha256:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PolicyDigest(pub [u8; 32]);

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for PolicyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The address a connection came from, as the gateway's socket sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerAddr(pub SocketAddr);

/// The address an agent asked for before the kernel half redirected it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OrigDst(pub SocketAddr);

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
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
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
}
