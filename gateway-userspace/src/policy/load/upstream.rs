//! `trust`, `client`, `proxy` and `no_proxy` of `[upstream]`.

use std::{collections::HashMap, ops::Range, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use toml::Spanned;
use url::Url;

use super::{
    egress::{list, parse_host},
    reader::Section,
    schema,
    sections::duplicate,
};
use crate::{
    names::Host,
    policy::{
        ClientCertificate, Fault, UpstreamProxy,
        carry::{Attached, Files},
        report::Problems,
    },
};

/// Files of `trust`.
const TRUST_MAX: usize = 64;

/// The roots, and the files they are from.
pub(super) fn trust(
    section: &mut Section<'_>,
    files: Files<'_>,
    problems: &mut Problems,
) -> (Vec<CertificateDer<'static>>, Attached) {
    let (mut roots, mut attached) = (Vec::new(), Attached::new());
    let Some(list) = section.take::<Vec<Spanned<String>>>("trust", problems) else {
        return (roots, attached);
    };
    if list.get_ref().len() > TRUST_MAX {
        problems.add(Fault::TooManyPlaces("trust"), list.span());
        return (roots, attached);
    }
    let mut seen: HashMap<&str, Range<usize>> = HashMap::new();
    for entry in list.get_ref() {
        let name = entry.get_ref();
        if let Some(first) = seen.insert(name, entry.span()) {
            duplicate("trust", name.clone(), entry.span(), first, problems);
            continue;
        }
        let text = match files.read(name) {
            Ok(text) => text,
            Err(why) => {
                let file = name.clone();
                problems.add(Fault::TrustFile { file, why }, entry.span());
                continue;
            }
        };
        match CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
            Ok(found) if found.is_empty() => {
                problems.add(Fault::TrustEmpty(name.clone()), entry.span());
            }
            Ok(found) => roots.extend(found),
            Err(why) => {
                let (file, why) = (name.clone(), why.to_string());
                problems.add(Fault::TrustPem { file, why }, entry.span());
            }
        }
        attached.insert(name.clone(), text);
    }
    (roots, attached)
}

/// The certificates that are shown to upstreams. Their files travel with the policy.
pub(super) fn client(
    section: &mut Section<'_>,
    files: Files<'_>,
    attached: &mut Attached,
    problems: &mut Problems,
) -> Vec<Arc<ClientCertificate>> {
    let mut found = Vec::new();
    for mut entry in section.sections("client", &schema::CLIENT, problems) {
        for key in ["hosts", "certificate", "key"] {
            entry.demand(key, problems);
        }
        let hosts = list(&mut entry, "hosts", parse_host, problems);
        let chain = file(&mut entry, "certificate", files, attached, problems);
        let key = file(&mut entry, "key", files, attached, problems);
        let (Some((chain_span, chain)), Some((key_span, key))) = (chain, key) else {
            continue;
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .filter_map(Result::ok)
            .collect();
        if chain.is_empty() {
            problems.add(Fault::TrustEmpty("certificate".into()), chain_span);
            continue;
        }
        match PrivateKeyDer::from_pem_slice(key.as_bytes()) {
            Ok(key) => found.push(Arc::new(ClientCertificate {
                hosts: hosts.into_iter().map(|(_, hosts)| hosts).collect(),
                chain,
                key,
            })),
            Err(_) => problems.add(Fault::ClientKey, key_span),
        }
    }
    found
}

/// A file that a key names.
fn file(
    section: &mut Section<'_>,
    key: &'static str,
    files: Files<'_>,
    attached: &mut Attached,
    problems: &mut Problems,
) -> Option<(Range<usize>, String)> {
    let name = section.take::<String>(key, problems)?;
    match files.read(name.get_ref()) {
        Ok(text) => {
            attached.insert(name.get_ref().clone(), text.clone());
            Some((name.span(), text))
        }
        Err(why) => {
            let file = name.get_ref().clone();
            problems.add(Fault::TrustFile { file, why }, name.span());
            None
        }
    }
}

/// The proxy that connections go through.
pub(super) fn proxy(section: &mut Section<'_>, problems: &mut Problems) -> Option<UpstreamProxy> {
    let except = section.take::<Vec<Spanned<String>>>("no_proxy", problems);
    let Some(text) = section.take::<String>("proxy", problems) else {
        if let Some(except) = except {
            problems.add(Fault::NoProxyAlone, except.span());
        }
        return None;
    };
    let mut without = Vec::new();
    for entry in except.map(Spanned::into_inner).unwrap_or_default() {
        match parse_host(entry.get_ref()) {
            Ok((_, hosts)) => without.push(hosts),
            Err(fault) => problems.add(fault, entry.span()),
        }
    }
    let Some((host, port)) = place(text.get_ref()) else {
        problems.add(Fault::Proxy(text.get_ref().clone()), text.span());
        return None;
    };
    Some(UpstreamProxy {
        host,
        port,
        without,
    })
}

/// Host and port of `http://proxy.example:3128`, and nothing besides.
fn place(text: &str) -> Option<(Host, u16)> {
    let url = Url::parse(text).ok()?;
    let plain = url.scheme() == "http"
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    let host = Host::parse(url.host_str()?).ok()?;
    let port = url.port_or_known_default().filter(|port| *port != 0)?;
    plain.then_some((host, port))
}
