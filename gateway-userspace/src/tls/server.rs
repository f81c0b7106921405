//! The gateway's end of TLS towards agents.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lru::LruCache;
use rustls::{
    ServerConfig,
    server::{ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Authority, Protocol,
    issuer::{Issuer, REMEMBERED},
};
use crate::names::Host;

/// Ends TLS for whatever host an agent asks for.
pub struct Terminator {
    issuer: Issuer,
    tickets: Arc<dyn ProducesTickets>,
    certificates: Mutex<LruCache<Host, Made>>,
}

/// A certificate, and when another is made.
struct Made {
    certificate: Arc<CertifiedKey>,
    until: std::time::SystemTime,
}

impl std::fmt::Debug for Terminator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminator").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Terminator {
    /// Below this authority, in the same process.
    ///
    /// # Errors
    /// If no keys can be made.
    pub fn under(authority: &Authority) -> anyhow::Result<Self> {
        Ok(Self::new(Issuer::new(&authority.issuer()?)?)?)
    }

    /// With this issuer.
    ///
    /// # Errors
    /// If no key for session tickets can be made.
    pub fn new(issuer: Issuer) -> Result<Self, rustls::Error> {
        Ok(Self {
            issuer,
            tickets: rustls::crypto::ring::Ticketer::new()?,
            certificates: Mutex::new(LruCache::new(REMEMBERED)),
        })
    }

    /// An acceptor in the name of this host, for these protocols.
    pub(crate) fn acceptor(&self, host: &Host, protocols: &[Protocol]) -> io::Result<TlsAcceptor> {
        let certificate = self.certificate(host).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(certificate)));
        config.alpn_protocols = protocols.iter().map(|it| it.name().to_vec()).collect();
        config.ticketer = Arc::clone(&self.tickets);
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn made(&self) -> MutexGuard<'_, LruCache<Host, Made>> {
        // Whole between any two steps: a panic elsewhere spoils nothing.
        let made = self.certificates.lock();
        made.unwrap_or_else(PoisonError::into_inner)
    }

    fn certificate(&self, host: &Host) -> Result<Arc<CertifiedKey>, rcgen::Error> {
        let now = std::time::SystemTime::now();
        if let Some(made) = self.made().get(host)
            && now < made.until
        {
            return Ok(Arc::clone(&made.certificate));
        }
        // Outside the lock: two may make the same, and either will do.
        let certificate = Arc::new(self.issuer.certify(host)?);
        let made = Made {
            certificate: Arc::clone(&certificate),
            until: Issuer::renewal(),
        };
        self.made().put(host.clone(), made);
        Ok(certificate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Authority;

    #[test]
    fn certificates_are_remembered_up_to_a_limit() {
        let authority = Authority::in_memory("test").unwrap();
        let issuer = Issuer::new(&authority.issuer().unwrap()).unwrap();
        let terminator = Terminator::new(issuer).unwrap();
        let host = |n: usize| Host::parse(&format!("h{n}.example")).unwrap();
        let first = terminator.certificate(&host(0)).unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &terminator.certificate(&host(0)).unwrap()
        ));
        for n in 1..=REMEMBERED.get() {
            terminator.certificate(&host(n)).unwrap();
        }
        assert_eq!(terminator.made().len(), REMEMBERED.get());
        assert!(!Arc::ptr_eq(
            &first,
            &terminator.certificate(&host(0)).unwrap()
        ));
    }
}
