//! TLS of tests: authorities, upstreams that speak HTTP/1.1 and HTTP/2, agents that trust the
//! gateway.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use gateway_userspace::tls::{Authority, Roots};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{WantsServerCert, WebPkiClientVerifier},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::rig::{Rig, in_time};

static GATEWAY: LazyLock<Authority> = LazyLock::new(|| Authority::in_memory("gateway").unwrap());
static ORIGIN: LazyLock<Ca> = LazyLock::new(Ca::new);

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            certificate,
        }
    }
}

/// The authority of gateways under test.
pub(super) fn gateway_authority() -> &'static Authority {
    &GATEWAY
}

/// A certificate for a client of upstreams, and its key, as PEM.
pub(super) fn client() -> [String; 2] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["gateway.test".to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &ORIGIN.issuer).unwrap();
    [certificate.pem(), key.serialize_pem()]
}

/// What gateways under test trust.
pub(super) fn origin_roots() -> Roots {
    Roots::default().with([ORIGIN.certificate.clone()])
}

/// A request as it reached an upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) version: http::Version,
    pub(super) line: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// An upstream that answers with what it was asked.
pub(super) struct SecureOrigin {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    reply: Arc<Mutex<Option<Reply>>>,
    connections: Arc<AtomicUsize>,
}

/// What an origin says instead of what it was sent.
#[derive(Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(&'static str, &'static str)>,
    pub(super) body: Bytes,
}

impl SecureOrigin {
    /// One with a certificate for this host, that speaks these protocols.
    pub(super) async fn start(host: &str, protocols: &[&str]) -> Self {
        let config = Self::config().with_no_client_auth();
        Self::with(config, host, protocols).await
    }

    /// One that serves only who shows a certificate of [`client`].
    pub(super) async fn for_clients(host: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ORIGIN.certificate.clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let config = Self::config().with_client_cert_verifier(verifier);
        Self::with(config, host, &["http/1.1"]).await
    }

    fn config() -> ConfigBuilder<ServerConfig, WantsVerifier> {
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
    }

    async fn with(
        config: ConfigBuilder<ServerConfig, WantsServerCert>,
        host: &str,
        protocols: &[&str],
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ORIGIN.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = config
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        Self::serve(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// One without TLS.
    pub(super) async fn plain() -> Self {
        Self::serve(None).await
    }

    async fn serve(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            reply: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (Arc::clone(&origin.seen), Arc::clone(&origin.connections));
        let reply = Arc::clone(&origin.reply);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, acceptor) = (Arc::clone(&seen), acceptor.clone());
                let reply = Arc::clone(&reply);
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let reply = reply.lock().unwrap().clone();
                        answer(request, Arc::clone(&seen), reply)
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ended = match acceptor {
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else {
                                return;
                            };
                            server.serve_connection(TokioIo::new(stream), service).await
                        }
                        None => server.serve_connection(TokioIo::new(stream), service).await,
                    };
                });
            }
        });
        origin
    }

    /// A rule that allows everything to `origin.test` there, with this addition.
    pub(super) fn rule(&self, more: &str) -> String {
        super::rig::allow_origin(self.address) + more
    }

    /// What it says from now on.
    pub(super) fn reply_with(&self, reply: Reply) {
        *self.reply.lock().unwrap() = Some(reply);
    }

    /// What reached it.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections it accepted.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<Seen>>>,
    reply: Option<Reply>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Ok(Response::new(Full::default()));
    };
    let fields = head.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), value)
    });
    let body = body.to_bytes();
    seen.lock().unwrap().push(Seen {
        version: head.version,
        line: format!("{} {}", head.method, head.uri),
        fields: fields.collect(),
        body: body.clone(),
    });
    let Some(reply) = reply else {
        return Ok(Response::new(Full::new(body)));
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.fields {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(reply.body)).unwrap())
}

/// How an agent opens TLS that trusts the gateway, offering these protocols.
pub(super) fn agent(protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(GATEWAY.pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    agent_trusting(roots, protocols)
}

/// How an agent opens TLS that trusts these, offering these protocols.
pub(super) fn agent_trusting(roots: RootCertStore, protocols: &[&str]) -> TlsConnector {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

/// An agent's TLS to this host through the gateway, as if redirected.
pub(super) async fn connect(
    rig: &Rig,
    connector: &TlsConnector,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = host.to_owned().try_into().unwrap();
    let stream = rig.connect().await.0;
    in_time(connector.connect(name, stream)).await
}
