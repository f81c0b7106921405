//! The ClientHello: for whom TLS is meant, before anybody answers. Takes nothing out of the
//! buffer.

use rustls::server::{Accepted, Acceptor};

use super::wire::Input;
use crate::{
    config::Limits,
    names::{BadHost, Host},
    tls::Protocol,
};

/// Extension of Encrypted Client Hello (RFC 9849).
const ECH: u16 = 0xfe0d;

/// What a ClientHello asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    /// The host that it names.
    pub(crate) host: Option<Host>,
    /// Protocols that it offers and the gateway reads, in its order.
    pub(crate) protocols: Vec<Protocol>,
    /// Whether it offers protocols at all.
    pub(crate) negotiates: bool,
    /// Whether another ClientHello may be hidden inside it, for another host.
    pub(crate) hides: bool,
}

/// Why a ClientHello is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// It is none, or none that this can read.
    #[error("the TLS ClientHello is malformed")]
    Malformed,
    /// More octets than allowed.
    #[error("the TLS ClientHello is too large")]
    TooLarge,
    /// It did not come in time.
    #[error("the TLS ClientHello did not come in time")]
    Slow,
    /// The connection ended inside it.
    #[error("the connection ended inside the TLS ClientHello")]
    Truncated,
    /// The server name is not a host name.
    #[error("the server name in the TLS ClientHello: {0}")]
    Name(BadHost),
}

impl HelloError {
    /// The stable label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "hello_malformed",
            Self::TooLarge => "hello_too_large",
            Self::Slow => "hello_timeout",
            Self::Truncated => "hello_truncated",
            Self::Name(_) => "sni_malformed",
        }
    }
}

/// Reads the ClientHello that the buffer begins with, over as many records and segments as it
/// takes, and answers with what it asks for.
///
/// # Errors
/// [`HelloError`] if it is malformed, too large or too slow.
pub(crate) async fn hello(input: Input<'_>, limits: &Limits) -> Result<Hello, HelloError> {
    tokio::time::timeout(limits.head_timeout, read_hello(input, limits.head_bytes))
        .await
        .unwrap_or(Err(HelloError::Slow))
}

async fn read_hello(mut input: Input<'_>, limit: usize) -> Result<Hello, HelloError> {
    let mut reader = HelloReader::default();
    loop {
        if let Some(hello) = reader.read(input.buffer, limit)? {
            return Ok(hello);
        }
        match input.fill().await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(HelloError::Truncated),
        }
    }
}

/// Reads a ClientHello while it arrives.
#[derive(Default)]
pub(crate) struct HelloReader {
    acceptor: Acceptor,
    fed: usize,
}

impl HelloReader {
    /// What the ClientHello at the start of `bytes` asks for; none if it is not complete. Give it
    /// the same bytes again with more behind them.
    ///
    /// # Errors
    /// If it is malformed, or takes `limit` octets without an end.
    pub(crate) fn read(&mut self, bytes: &[u8], limit: usize) -> Result<Option<Hello>, HelloError> {
        let end = limit.min(bytes.len());
        while let Some(mut rest @ [_, ..]) = bytes.get(self.fed..end) {
            let before = rest.len();
            let read = self.acceptor.read_tls(&mut rest);
            if read.is_err() || rest.len() == before {
                return Err(HelloError::Malformed);
            }
            self.fed += before - rest.len();
            match self.acceptor.accept() {
                Ok(None) if self.fed >= limit => return Err(HelloError::TooLarge),
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let sent = bytes.get(..self.fed).unwrap_or_default();
                    return Hello::of(&accepted, sent).map(Some);
                }
                Err(_) => return Err(HelloError::Malformed),
            }
        }
        Ok(None)
    }
}

impl Hello {
    fn of(accepted: &Accepted, sent: &[u8]) -> Result<Self, HelloError> {
        let hello = accepted.client_hello();
        let host = hello.server_name().map(Host::parse).transpose();
        let offered: Vec<_> = hello.alpn().into_iter().flatten().collect();
        let known = |name: &&[u8]| Protocol::ALL.into_iter().find(|it| it.name() == *name);
        Ok(Self {
            host: host.map_err(HelloError::Name)?,
            protocols: offered.iter().filter_map(known).collect(),
            negotiates: !offered.is_empty(),
            hides: extensions(sent).is_none_or(|found| found.contains(&ECH)),
        })
    }
}

/// Types of the extensions of a ClientHello in these records; none if that cannot be told.
fn extensions(records: &[u8]) -> Option<Vec<u16>> {
    let message = handshake(records)?;
    let mut rest = Reader(&message);
    // Type and length, version, random.
    rest.take(4 + 2 + 32)?;
    let session = rest.length(1)?;
    rest.take(session)?;
    let suites = rest.length(2)?;
    rest.take(suites)?;
    let compressions = rest.length(1)?;
    rest.take(compressions)?;
    let mut types = Vec::new();
    if !rest.0.is_empty() {
        let length = rest.length(2)?;
        let mut rest = Reader(rest.take(length)?);
        while !rest.0.is_empty() {
            types.push(u16::try_from(rest.length(2)?).ok()?);
            let length = rest.length(2)?;
            rest.take(length)?;
        }
    }
    Some(types)
}

/// The first handshake message, put together from its records.
fn handshake(records: &[u8]) -> Option<Vec<u8>> {
    let (mut message, mut rest) = (Vec::new(), Reader(records));
    loop {
        rest.take(3)?;
        let length = rest.length(2)?;
        message.extend_from_slice(rest.take(length)?);
        if let [_type, a, b, c, ..] = message[..] {
            let whole = 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
            if message.len() >= whole {
                message.truncate(whole);
                return Some(message);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many octets.
    fn length(&mut self, octets: usize) -> Option<usize> {
        let bytes = self.take(octets)?;
        Some(
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring::default_provider};

    use super::*;

    fn sent(config: ClientConfig, name: &str) -> Vec<u8> {
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn config() -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    }

    fn read(bytes: &[u8]) -> Hello {
        let mut acceptor = Acceptor::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            acceptor.read_tls(&mut rest).unwrap();
        }
        Hello::of(&acceptor.accept().unwrap().unwrap(), bytes).unwrap()
    }

    #[test]
    fn says_for_whom_it_is_and_what_it_offers() {
        let mut config = config();
        let plain = read(&sent(config.clone(), "a.example"));
        assert_eq!(plain.host, Some(Host::parse("a.example").unwrap()));
        assert_eq!((plain.protocols, plain.negotiates), (vec![], false));
        assert!(!plain.hides);

        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h3".to_vec(), b"h2".to_vec()];
        let offering = read(&sent(config, "192.0.2.7"));
        assert_eq!(offering.host, None);
        assert_eq!(offering.protocols, [Protocol::Http1, Protocol::Http2]);
        assert!(offering.negotiates);
    }

    #[test]
    fn a_hello_that_may_hide_another_is_seen() {
        let mut bytes = sent(config(), "a.example");
        assert!(!read(&bytes).hides);
        // A grease extension at the end: 2 octets of type, 2 of length, none of content.
        bytes.extend_from_slice(&[0xfe, 0x0d, 0, 0]);
        let length = handshake(&bytes).unwrap().len() - 4;
        let grown = u16::try_from(length + 4).unwrap().to_be_bytes();
        bytes[3..5].copy_from_slice(&(u16::from_be_bytes(grown) + 4).to_be_bytes());
        bytes[7..9].copy_from_slice(&grown);
        let at = extensions_length_at(&bytes);
        let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        bytes[at..at + 2].copy_from_slice(&(old + 4).to_be_bytes());
        assert!(extensions(&bytes).unwrap().contains(&ECH));
    }

    fn extensions_length_at(bytes: &[u8]) -> usize {
        let mut at = 5 + 4 + 2 + 32;
        at += 1 + usize::from(bytes[at]);
        at += 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        at + 1 + usize::from(bytes[at])
    }

    #[test]
    fn what_cannot_be_told_counts_as_hiding() {
        let bytes = sent(config(), "a.example");
        for end in 0..bytes.len() {
            assert!(extensions(&bytes[..end]).is_none(), "{end}");
        }
    }
}
