//! Newtypes for what crosses a boundary. Parse once; no raw bytes of a peer go further.

use std::{fmt, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod host;

pub use host::{BadHost, Host, HostName};

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

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
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
