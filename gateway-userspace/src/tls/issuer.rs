//! Certificates for the hosts that agents ask for.

use std::{num::NonZeroUsize, sync::Arc};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::{
    crypto::ring::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SigningKey},
};
use serde::{Deserialize, Serialize};
use time::Duration;

use super::authority::params;
use crate::names::Host;

/// Life of a host's certificate.
const LEAF: Duration = Duration::days(7);
/// Age at which another one is made, by the clock that clients look at: it goes on while the
/// machine sleeps.
const RENEWED: std::time::Duration = std::time::Duration::from_secs(5 * 24 * 3600);
/// Most hosts whose certificates are remembered: how many hosts there are is the agent's doing.
pub(super) const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("it is not zero");

/// An issuer on its way from one process to another.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerText {
    /// Its certificate, as PEM.
    pub(super) certificate: String,
    /// Its key, as PEM.
    pub(super) key: String,
}

impl std::fmt::Debug for IssuerText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuerText").finish_non_exhaustive()
    }
}

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadIssuer {
    /// Its certificate or key.
    #[error("the issuer's certificate or key")]
    Text(#[from] rcgen::Error),
    /// Its certificate's encoding.
    #[error("the issuer's certificate")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The key of the hosts' certificates.
    #[error("the key of the certificates")]
    Key(#[from] rustls::Error),
}

/// Makes certificates. All have one key, which never leaves this process.
pub struct Issuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    chain: CertificateDer<'static>,
    key: KeyPair,
    signing: Arc<dyn SigningKey>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").finish_non_exhaustive()
    }
}

impl Issuer {
    /// From what an authority made.
    ///
    /// # Errors
    /// If that is not what it should be.
    pub fn new(text: &IssuerText) -> Result<Self, BadIssuer> {
        let own = KeyPair::from_pem(&text.key)?;
        let key = KeyPair::generate()?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self {
            issuer: rcgen::Issuer::from_ca_cert_pem(&text.certificate, own)?,
            chain: CertificateDer::from_pem_slice(text.certificate.as_bytes())?,
            signing: any_ecdsa_type(&der)?,
            key,
        })
    }

    /// A certificate for this host, with its chain.
    pub(super) fn certify(&self, host: &Host) -> Result<CertifiedKey, rcgen::Error> {
        let name = host.to_string();
        // A common name has 64 characters at most, and no client looks at it.
        let mut leaf: CertificateParams = params(name.get(..64).unwrap_or(&name), LEAF);
        leaf.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.as_str().try_into()?),
            Host::Address(address) => SanType::IpAddress(*address),
        }];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&self.key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.chain.clone()];
        Ok(CertifiedKey::new(chain, Arc::clone(&self.signing)))
    }

    /// When a certificate made now is to be made anew.
    pub(super) fn renewal() -> std::time::SystemTime {
        std::time::SystemTime::now() + RENEWED
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        pki_types::{ServerName, UnixTime},
    };

    use super::*;
    use crate::tls::Authority;

    #[test]
    fn certificates_hold_for_their_host_and_no_other() {
        let authority = Authority::in_memory("test").unwrap();
        let issuer = Issuer::new(&authority.issuer().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let long = format!("{}.example.com", "a".repeat(63));
        for host in ["a.example.com", &long, "192.0.2.7", "2001:db8::1"] {
            let host = Host::parse(host).unwrap();
            let made = issuer.certify(&host).unwrap();
            let [leaf, chain @ ..] = &made.cert[..] else {
                panic!("no certificate")
            };
            let holds = |name: &str| {
                let name = ServerName::try_from(name.to_owned()).unwrap();
                verifier.verify_server_cert(leaf, chain, &name, &[], UnixTime::now())
            };
            let name = host.to_string();
            let name = name.trim_matches(['[', ']']);
            assert!(holds(name).is_ok(), "{name}: {:?}", holds(name));
            assert!(holds("b.example.com").is_err());
            assert!(holds("192.0.2.8").is_err());
        }
    }
}
