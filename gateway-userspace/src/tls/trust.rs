//! The gateway's end of TLS towards upstreams: whom it trusts, and how it says that it does not.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::{ResolvesClientCert, Resumption},
    crypto::ring::sign::any_supported_type,
    pki_types::{CertificateDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Protocol;
use crate::{names::Host, policy::ClientCertificate};

/// Upstreams whose sessions are remembered.
const SESSIONS: usize = 256;

/// The certificates that upstreams are verified against.
#[derive(Clone, Debug, Default)]
pub struct Roots(Vec<CertificateDer<'static>>);

impl Roots {
    /// The system's, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name. What cannot be read
    /// is told and left out: an upstream that needs it is not trusted.
    #[must_use]
    pub fn system() -> Self {
        let loaded = rustls_native_certs::load_native_certs();
        for error in &loaded.errors {
            tracing::warn!(%error, "reading the system's root certificates");
        }
        Self(loaded.certs)
    }

    /// The same with more.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.0.extend(more);
        self
    }

    /// The certificates.
    pub fn iter(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.iter()
    }
}

/// There is nothing that an upstream's certificate could lead to.
#[derive(Debug, thiserror::Error)]
#[error(
    "the system has no root certificates, so that none can be trusted; install them (the package \
     is mostly called ca-certificates), or name some in `[upstream] trust`"
)]
struct NoRoots;

/// Opens TLS to upstreams. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    config: ClientConfig,
    has_roots: bool,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    /// Trusting these. A certificate that cannot be read is left out.
    ///
    /// # Errors
    /// If the protocol versions cannot be had, which a test shows that they can.
    pub fn new(roots: &Roots) -> Result<Self, rustls::Error> {
        let mut store = RootCertStore::empty();
        let (_added, unreadable) = store.add_parsable_certificates(roots.0.iter().cloned());
        if unreadable > 0 {
            tracing::debug!(unreadable, "root certificates that cannot be read");
        }
        let has_roots = !store.is_empty();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config, has_roots })
    }

    /// Opens TLS to this host, offering these protocols, and showing this certificate if asked.
    ///
    /// # Errors
    /// What went wrong with the connection, or with the upstream's certificate.
    pub(crate) async fn connect<S>(
        &self,
        host: &Host,
        protocols: &[Protocol],
        client: Option<&ClientCertificate>,
        stream: S,
    ) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.has_roots {
            return Err(io::Error::other(NoRoots));
        }
        let name = match host {
            Host::Name(name) => {
                ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)?
            }
            Host::Address(address) => ServerName::IpAddress((*address).into()),
        };
        let mut config = self.config.clone();
        if let Some(client) = client {
            config.client_auth_cert_resolver = shown(client).map_err(io::Error::other)?;
            // A session that was begun without it would go on without it.
            config.resumption = Resumption::disabled();
        }
        config.alpn_protocols = protocols.iter().map(|it| it.name().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// A resolver that shows this certificate to whoever asks for one.
fn shown(client: &ClientCertificate) -> Result<Arc<dyn ResolvesClientCert>, rustls::Error> {
    let key = any_supported_type(&client.key)?;
    let certified = CertifiedKey::new(client.chain.clone(), key);
    certified.keys_match()?;
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

/// What is wrong with an upstream's certificate, if that is why a handshake failed.
pub(crate) fn distrust(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    match inner.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(why)) => Some(why.to_string()),
        Some(_other) => None,
        None => inner.downcast_ref::<NoRoots>().map(ToString::to_string),
    }
}

/// Whether the other end of a handshake broke it off because it does not trust a certificate.
pub(crate) fn is_distrusted(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let alert = error.get_ref().and_then(|it| it.downcast_ref());
    matches!(
        alert,
        Some(rustls::Error::AlertReceived(
            Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::CertificateExpired
                | Alert::AccessDenied
        ))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_roots_no_upstream_is_trusted_and_the_error_says_what_to_install() {
        let connector = Connector::new(&Roots::default()).unwrap();
        let host = Host::parse("example.com").unwrap();
        let (ours, _theirs) = tokio::io::duplex(1024);

        let refused = connector.connect(&host, &[], None, ours).await;

        let why = refused.err().and_then(|error| distrust(&error)).unwrap();
        assert!(why.contains("ca-certificates"), "{why}");
    }
}
