//! The store of certificates that an agent's Java programs are told to trust: Java reads no PEM.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::Path,
};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{Authority, Roots};

/// The variable that every Java virtual machine takes options from, 1.5 and later.
pub const VARIABLE: &str = "JAVA_TOOL_OPTIONS";

/// What opens the store. The certificates in it are public, and so is this: Java's own default.
const PASSWORD: &str = "changeit";
/// Rounds that make a key of the password. It keeps nothing secret.
const ROUNDS: u32 = 1000;

/// The authority's certificate and these as a PKCS #12 file, as JDK 8u301 and later read it. What
/// cannot be read is told and left out: Java would not trust it either.
///
/// # Errors
/// If they cannot be encoded.
pub fn encode(authority: &Authority, roots: &Roots) -> Result<Vec<u8>, p12_keystore::error::Error> {
    let own = CertificateDer::from_pem_slice(authority.pem().as_bytes()).ok();
    let all: BTreeSet<&[u8]> = own.iter().chain(roots.iter()).map(AsRef::as_ref).collect();
    let mut store = KeyStore::new();
    for (number, der) in all.into_iter().enumerate() {
        match Certificate::from_der(der) {
            Ok(it) => store.add_entry(&format!("root-{number}"), KeyStoreEntry::Certificate(it)),
            Err(error) => tracing::debug!(%error, "a root certificate that cannot be read"),
        }
    }
    store
        .writer(PASSWORD)
        .encryption_iterations(ROUNDS)
        .mac_iterations(ROUNDS)
        .write()
}

/// What [`VARIABLE`] is to be: what it was, then the store, and the gateway as proxy, which a
/// client may ask for or not. The last of an option counts.
#[must_use]
pub fn options(before: Option<&OsStr>, store: &Path, port: u16) -> OsString {
    let mut options = before.map(OsStr::to_owned).unwrap_or_default();
    if !options.is_empty() {
        options.push(" ");
    }
    options.push("-Djavax.net.ssl.trustStore=");
    options.push(store);
    options.push(format!(
        " -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword={PASSWORD}"
    ));
    for scheme in ["http", "https"] {
        let proxy = format!(" -D{scheme}.proxyHost=127.0.0.1 -D{scheme}.proxyPort={port}");
        options.push(proxy);
    }
    options
}

#[cfg(test)]
mod tests {
    use p12_keystore::Pkcs12ImportPolicy;

    use super::*;

    #[test]
    fn has_the_authority_and_all_roots_once() {
        let authority = Authority::in_memory("a").unwrap();
        let other = Authority::in_memory("b").unwrap();
        let der = |it: &Authority| CertificateDer::from_pem_slice(it.pem().as_bytes()).unwrap();
        let unreadable = CertificateDer::from(vec![0; 10]);
        let roots = Roots::default().with([der(&other), der(&other), unreadable]);
        let file = encode(&authority, &roots).unwrap();
        let store = KeyStore::from_pkcs12(&file, PASSWORD, Pkcs12ImportPolicy::Strict).unwrap();
        let found: BTreeSet<_> = store
            .entries()
            .map(|(_, entry)| match entry {
                KeyStoreEntry::Certificate(it) => it.as_der().to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [der(&authority), der(&other)].map(|it| it.to_vec());
        assert_eq!(found, expected.into_iter().collect());
    }

    #[test]
    fn options_keep_what_was_there_before_them() {
        let options = options(Some(OsStr::new("-Xmx1g")), Path::new("/s/trust.p12"), 15001);
        assert_eq!(
            options.to_str(),
            Some(
                "-Xmx1g -Djavax.net.ssl.trustStore=/s/trust.p12 \
                 -Djavax.net.ssl.trustStoreType=PKCS12 \
                 -Djavax.net.ssl.trustStorePassword=changeit \
                 -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=15001 \
                 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=15001"
            )
        );
    }
}
