//! The file of certificates that an agent's programs are told to trust.

use std::{collections::BTreeSet, ffi::OsString};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{Authority, Roots};

/// Certificates that are read from one file.
const CERTIFICATES_MAX: usize = 4096;

/// Variables by which programs are told of a file of certificates that replaces the system's:
/// OpenSSL and what uses it, Python's requests and pip, curl, Git, AWS' tools, Cargo, Ruby's
/// bundler, Go (with `SSL_CERT_FILE`), Google's gRPC, Composer, Nix, Conda, npm (whose
/// configuration files may name another, and then Node's variable does not count).
pub const REPLACING: [&str; 15] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "BUNDLE_SSL_CA_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "CONDA_SSL_VERIFY",
    "COMPOSER_CAFILE",
    "npm_config_cafile",
];

/// Variables that name certificates to trust beside the program's own: Node, Deno.
pub const ADDING: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// What programs were told to trust by these variables so far. What cannot be read counts for
/// nothing, as it would in most programs.
#[must_use]
pub fn named(variable: impl Fn(&'static str) -> Option<OsString>) -> Roots {
    let files: BTreeSet<_> = REPLACING
        .into_iter()
        .chain(ADDING)
        .filter_map(variable)
        .collect();
    let found = files.iter().flat_map(|file| {
        let read = CertificateDer::pem_file_iter(file);
        read.into_iter().flatten().take(CERTIFICATES_MAX).flatten()
    });
    Roots::default().with(found)
}

/// The authority's certificates and these, each once, as PEM: a program that takes it instead of
/// the system's goes on trusting what it did, where the gateway does not open TLS.
#[must_use]
pub fn text(authority: &Authority, roots: &Roots) -> String {
    let mut text = authority.pem().to_owned();
    let mut written = BTreeSet::new();
    for certificate in roots.iter() {
        if !written.insert(certificate.as_ref()) {
            continue;
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&encode(certificate));
    }
    text
}

fn encode(certificate: &[u8]) -> String {
    let block = pem::Pem::new("CERTIFICATE", certificate);
    let unix = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&block, unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_authority_and_all_roots_once() {
        let (authority, other) = ("a", "b");
        let authority = Authority::in_memory(authority).unwrap();
        let other = Authority::in_memory(other).unwrap();
        let der = |it: &Authority| CertificateDer::from_pem_slice(it.pem().as_bytes()).unwrap();
        let roots = Roots::default().with([der(&other), der(&other)]);
        let text = text(&authority, &roots);
        let found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(found, [der(&authority), der(&other)]);

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let variable = |name| match name {
            "CURL_CA_BUNDLE" | "DENO_CERT" => Some(file.path().into()),
            "SSL_CERT_FILE" => Some("/does/not/exist".into()),
            _other => None,
        };
        let named: Vec<_> = named(variable).iter().cloned().collect();
        assert_eq!(named, found);
    }
}
