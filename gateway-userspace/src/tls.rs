//! TLS that is opened: the authority that agents trust, the certificates it makes, and how
//! upstreams are verified.
//!
//! The authority's key stays with whoever starts the gateway. The process that parses what
//! agents and upstreams send gets an issuer below it, which lives shorter and cannot make others.

mod authority;
pub mod bundle;
mod issuer;
mod server;
mod trust;
pub mod truststore;

pub use authority::{Authority, AuthorityError, default_folder};
pub use issuer::{Issuer, IssuerText};
pub use server::Terminator;
pub use trust::{Connector, Roots};
pub(crate) use trust::{distrust, is_distrusted};

/// An ALPN protocol that the gateway reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// All of them, the preferred first.
    pub(crate) const ALL: [Self; 2] = [Self::Http2, Self::Http1];

    /// As it stands in the handshake.
    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }

    /// What was agreed on; HTTP/1.1 where nothing was.
    pub(crate) fn agreed(name: Option<&[u8]>) -> Self {
        match name {
            Some(name) if name == Self::Http2.name() => Self::Http2,
            Some(_) | None => Self::Http1,
        }
    }
}
