//! The opening handshake (RFC 6455, 4; over HTTP/2, RFC 8441): what a client offers, what is
//! forwarded of it, and whether the server's answer fits.
//!
//! Method, version of HTTP, target and origin are not looked at here.

mod extensions;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};

pub use extensions::Deflate;
use extensions::{DeflateOffer, Malformed};

/// Subprotocols that a client may offer.
pub const PROTOCOLS_MAX: usize = 64;
/// Extensions that a client may offer, one extension with other parameters counted anew.
pub const EXTENSIONS_MAX: usize = 16;

/// What a server appends to a key (RFC 6455, 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION: &[u8] = b"13";

/// Why a request for a connection is refused: the client's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferError {
    /// `Upgrade` and `Connection` do not ask for WebSocket alone.
    #[error("Upgrade and Connection do not ask for WebSocket alone")]
    Upgrade,
    /// Not one `Sec-WebSocket-Key` of 16 octets in base64.
    #[error("Sec-WebSocket-Key is not one value of 16 octets in base64")]
    Key,
    /// Not one `Sec-WebSocket-Version` of 13: answered by 426.
    #[error("Sec-WebSocket-Version is not 13")]
    Version,
    /// Malformed, or more than [`EXTENSIONS_MAX`].
    #[error("Sec-WebSocket-Extensions is malformed, or has more than 16 members")]
    Extensions,
    /// Malformed, repeated, or more than [`PROTOCOLS_MAX`].
    #[error("Sec-WebSocket-Protocol is malformed, repeats a name, or has more than 64")]
    Protocols,
}

impl OfferError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Upgrade => "ws_upgrade",
            Self::Key => "ws_key",
            Self::Version => "ws_version",
            Self::Extensions => "ws_extensions",
            Self::Protocols => "ws_protocols",
        }
    }
}

/// Why a server's answer is refused: the server's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not 101, or over HTTP/2 not 200.
    #[error("the status does not grant the connection")]
    Status,
    /// `Upgrade` and `Connection` do not say WebSocket.
    #[error("Upgrade and Connection do not say WebSocket")]
    Upgrade,
    /// Not one `Sec-WebSocket-Accept` that fits the key.
    #[error("Sec-WebSocket-Accept does not fit the key")]
    Accept,
    /// Malformed, or not what was offered.
    #[error("Sec-WebSocket-Extensions is not what was offered")]
    Extensions,
    /// More than one, or not what was offered.
    #[error("Sec-WebSocket-Protocol is not what was offered")]
    Protocol,
}

impl AnswerError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Status => "ws_answer_status",
            Self::Upgrade => "ws_answer_upgrade",
            Self::Accept => "ws_answer_accept",
            Self::Extensions => "ws_answer_extensions",
            Self::Protocol => "ws_answer_protocol",
        }
    }
}

/// A `Sec-WebSocket-Key`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Key(String);

impl Key {
    /// Writes 16 octets, which should not be foreseeable, as a key.
    pub fn new(nonce: [u8; 16]) -> Self {
        Self(STANDARD.encode(nonce))
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let nonce = STANDARD.decode(value).ok()?;
        Some(Self::new(nonce.try_into().ok()?))
    }

    /// The value of the field.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The `Sec-WebSocket-Accept` that answers it.
    pub fn accept(&self) -> String {
        let hash = Sha1::new()
            .chain_update(self.0.as_bytes())
            .chain_update(KEY_SUFFIX)
            .finalize();
        STANDARD.encode(hash)
    }
}

/// What a client offers, and the gateway forwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    deflate: Vec<DeflateOffer>,
    protocols: Vec<String>,
}

/// What both ends agreed on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Negotiated {
    /// The parameters of permessage-deflate, if messages may be compressed.
    pub deflate: Option<Deflate>,
    /// The subprotocol.
    pub protocol: Option<String>,
}

impl Offer {
    /// Takes an offer from the fields of an HTTP/1.1 request, with its key.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn http1<'a>(
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<(Key, Self), OfferError> {
        let found = Found::collect(fields);
        if !found.is_upgrade() {
            return Err(OfferError::Upgrade);
        }
        let offer = Self::from_found(&found)?;
        match found.key.as_slice() {
            [key] => Key::parse(key).map(|key| (key, offer)),
            [] | [..] => None,
        }
        .ok_or(OfferError::Key)
    }

    /// Takes an offer from the fields of an extended CONNECT, which has no key.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn http2<'a>(
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, OfferError> {
        Self::from_found(&Found::collect(fields))
    }

    fn from_found(found: &Found<'_>) -> Result<Self, OfferError> {
        if found.version != [VERSION] {
            return Err(OfferError::Version);
        }
        let extensions = extensions::parse(&found.extensions, EXTENSIONS_MAX)
            .map_err(|Malformed| OfferError::Extensions)?;
        let mut protocols: Vec<String> = Vec::new();
        for name in members(&found.protocols) {
            let name = token(name).ok_or(OfferError::Protocols)?;
            if protocols.len() == PROTOCOLS_MAX || protocols.iter().any(|other| other == name) {
                return Err(OfferError::Protocols);
            }
            protocols.push(name.to_owned());
        }
        if protocols.is_empty() && !found.protocols.is_empty() {
            return Err(OfferError::Protocols);
        }
        Ok(Self {
            deflate: extensions
                .iter()
                .filter_map(DeflateOffer::from_extension)
                .collect(),
            protocols,
        })
    }

    /// The same without compression.
    #[must_use]
    pub fn without_deflate(mut self) -> Self {
        self.deflate.clear();
        self
    }

    /// The subprotocols, in the client's order.
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// The fields of the request over HTTP/1.1 that is forwarded. Extensions other than
    /// permessage-deflate, and such offers of it as no server accepts, are not in them.
    pub fn http1_fields(&self, key: &Key) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Key", key.as_str().to_owned()),
        ];
        lines.extend(self.http2_fields());
        lines
    }

    /// The fields of the extended CONNECT that is forwarded.
    pub fn http2_fields(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("sec-websocket-version", "13".to_owned())];
        if !self.deflate.is_empty() {
            let offers: Vec<String> = self.deflate.iter().map(ToString::to_string).collect();
            lines.push(("sec-websocket-extensions", offers.join(", ")));
        }
        if !self.protocols.is_empty() {
            lines.push(("sec-websocket-protocol", self.protocols.join(", ")));
        }
        lines
    }

    /// Checks a server's answer over HTTP/1.1 to what was forwarded with this key.
    ///
    /// # Errors
    /// [`AnswerError`]; [`AnswerError::Status`] for a plain response.
    pub fn http1_answer<'a>(
        &self,
        key: &Key,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Negotiated, AnswerError> {
        let found = Found::collect(fields);
        if status != 101 {
            return Err(AnswerError::Status);
        }
        if !found.is_upgrade() {
            return Err(AnswerError::Upgrade);
        }
        if found.accept != [key.accept().as_bytes()] {
            return Err(AnswerError::Accept);
        }
        self.agree(&found)
    }

    /// Checks a server's answer over HTTP/2 to what was forwarded.
    ///
    /// # Errors
    /// [`AnswerError`]; [`AnswerError::Status`] for a plain response.
    pub fn http2_answer<'a>(
        &self,
        status: u16,
        fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Negotiated, AnswerError> {
        match status {
            200 => self.agree(&Found::collect(fields)),
            _ => Err(AnswerError::Status),
        }
    }

    fn agree(&self, found: &Found<'_>) -> Result<Negotiated, AnswerError> {
        let extensions =
            extensions::parse(&found.extensions, 1).map_err(|Malformed| AnswerError::Extensions)?;
        let deflate = match extensions.first() {
            None => None,
            Some(extension) => Some(
                Deflate::from_extension(extension)
                    .filter(|deflate| self.deflate.iter().any(|offer| offer.admits(*deflate)))
                    .ok_or(AnswerError::Extensions)?,
            ),
        };
        let protocol = match found.protocols.as_slice() {
            [] => None,
            [one] => Some(
                self.protocols
                    .iter()
                    .find(|offered| offered.as_bytes() == one.trim_ascii())
                    .cloned()
                    .ok_or(AnswerError::Protocol)?,
            ),
            [..] => return Err(AnswerError::Protocol),
        };
        Ok(Negotiated { deflate, protocol })
    }
}

impl Negotiated {
    /// The fields of the answer over HTTP/1.1 to a client that sent this key.
    pub fn http1_fields(&self, key: &Key) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Accept", key.accept()),
        ];
        lines.extend(self.http2_fields());
        lines
    }

    /// The fields of the answer over HTTP/2.
    pub fn http2_fields(&self) -> Vec<(&'static str, String)> {
        let extensions = self
            .deflate
            .map(|deflate| ("sec-websocket-extensions", deflate.to_string()));
        let protocol = self
            .protocol
            .clone()
            .map(|protocol| ("sec-websocket-protocol", protocol));
        extensions.into_iter().chain(protocol).collect()
    }
}

/// The fields that matter, each as often as it stands.
#[derive(Default)]
struct Found<'a> {
    upgrade: Vec<&'a [u8]>,
    connection: Vec<&'a [u8]>,
    key: Vec<&'a [u8]>,
    accept: Vec<&'a [u8]>,
    version: Vec<&'a [u8]>,
    extensions: Vec<&'a [u8]>,
    protocols: Vec<&'a [u8]>,
}

impl<'a> Found<'a> {
    fn collect(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut found = Self::default();
        for (name, value) in fields {
            let values = match name.to_ascii_lowercase().as_slice() {
                b"upgrade" => &mut found.upgrade,
                b"connection" => &mut found.connection,
                b"sec-websocket-key" => &mut found.key,
                b"sec-websocket-accept" => &mut found.accept,
                b"sec-websocket-version" => &mut found.version,
                b"sec-websocket-extensions" => &mut found.extensions,
                b"sec-websocket-protocol" => &mut found.protocols,
                _ => continue,
            };
            values.push(value.trim_ascii());
        }
        found
    }

    fn is_upgrade(&self) -> bool {
        matches!(self.upgrade.as_slice(), [one] if one.eq_ignore_ascii_case(b"websocket"))
            && members(&self.connection).any(|member| member.eq_ignore_ascii_case(b"upgrade"))
    }
}

/// The members of a comma-separated list over some fields, without empty ones.
fn members<'a>(values: &[&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    values
        .iter()
        .flat_map(|value| value.split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

/// Text that is a token (RFC 9110, 5.6.2).
fn token(octets: &[u8]) -> Option<&str> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    match octets {
        [] => None,
        _ if octets.iter().all(allowed) => str::from_utf8(octets).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
