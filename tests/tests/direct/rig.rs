//! A gateway under test, and how tests talk to it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use gateway_userspace::{
    app::{BindConfig, Context, Gateway},
    audit::{Audit, AuditConfig, MemoryLog},
    config::Limits,
    dns::Resolver,
    identity::{Assurance, Identify, LocalEnd, Peer, Unattributed},
    names::{AgentId, OrigDst, PeerAddr},
    policy::Policy,
    proxy::Counters,
    tls::{Connector, Terminator},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::secure;

/// How long anything may take that should happen at once.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// Who is on the line, as a test says.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// A connection to the gateway's own port.
    Explicit,
    /// One that the kernel half sent there instead of to this address.
    Redirected(SocketAddr),
    /// Nobody knows.
    Unknown,
}

struct Fake {
    agent: AgentId,
    line: Arc<Mutex<Line>>,
}

impl Identify for Fake {
    fn stream(&self, _: &TcpStream, peer: SocketAddr) -> Result<Peer, Unattributed> {
        self.peer(peer)
    }

    fn datagram(&self, _: LocalEnd, peer: SocketAddr, _: u16) -> Result<Peer, Unattributed> {
        self.peer(peer)
    }
}

impl Fake {
    fn peer(&self, peer: SocketAddr) -> Result<Peer, Unattributed> {
        let original = match *self.line.lock().unwrap() {
            Line::Explicit => None,
            Line::Redirected(original) => Some(OrigDst(original)),
            Line::Unknown => return Err(Unattributed::NoFlow),
        };
        Ok(Peer {
            agent: self.agent.clone(),
            address: PeerAddr(peer),
            process: None,
            original,
        })
    }
}

/// A running gateway.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) policy: Arc<ArcSwap<Policy>>,
    pub(super) audit: Audit,
    pub(super) counters: Arc<Counters>,
    pub(super) drain: CancellationToken,
    log: MemoryLog,
    line: Arc<Mutex<Line>>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// A policy of these rules, whose names `*.test` all lead to loopback.
pub(super) fn policy(rules: &str) -> Policy {
    policy_with(
        rules,
        "resolve = { \"origin.test\" = \"127.0.0.1\", \"other.test\" = \"127.0.0.1\", \
         \"a.db.test\" = \"127.0.0.1\", \"six.test\" = \"::1\", \
         \"mixed.test\" = [\"93.184.216.34\", \"10.0.0.1\"] }",
    )
}

/// A policy of these rules that reaches upstreams so.
pub(super) fn policy_with(rules: &str, upstream: &str) -> Policy {
    let text = format!(
        "schema = 1\nagent = \"tester\"\nassurance = \"cooperative\"\n{rules}\n\
         [upstream]\n{upstream}\n"
    );
    Policy::parse("test.toml", &text).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

/// A rule that allows everything to `origin.test` on this port.
pub(super) fn allow_origin(origin: SocketAddr) -> String {
    format!(
        "[[egress]]\nid = \"origin\"\nhosts = [\"origin.test\"]\nports = [{}]\nprivate = true\n",
        origin.port()
    )
}

impl Rig {
    pub(super) fn start(rules: &str) -> Self {
        Self::with_limits(rules, Limits::default())
    }

    pub(super) fn with_limits(rules: &str, limits: Limits) -> Self {
        Self::with_audit(rules, limits, |config| config)
    }

    pub(super) fn with_audit(
        rules: &str,
        limits: Limits,
        change: impl FnOnce(AuditConfig) -> AuditConfig,
    ) -> Self {
        Self::build(policy(rules), limits, change, Resolver::fixed_names_only())
    }

    /// With a resolver that knows more than the names of the policy.
    pub(super) fn with_resolver(rules: &str, limits: Limits, resolver: Resolver) -> Self {
        Self::build(policy(rules), limits, |config| config, resolver)
    }

    /// Under this policy.
    pub(super) fn under(policy: Policy) -> Self {
        let resolver = Resolver::fixed_names_only();
        Self::build(policy, Limits::default(), |config| config, resolver)
    }

    fn build(
        policy: Policy,
        limits: Limits,
        change: impl FnOnce(AuditConfig) -> AuditConfig,
        resolver: Resolver,
    ) -> Self {
        let log = MemoryLog::with_room(16 * 1024 * 1024);
        let audit = Audit::open(change(AuditConfig::memory(&log))).unwrap();
        let line = Arc::new(Mutex::new(Line::Explicit));
        let bound = Gateway::bind(&BindConfig::default()).unwrap();
        let address = bound.addresses().next().unwrap();
        let counters = bound.counters();
        let drain = CancellationToken::new();
        let identify = Arc::new(Fake {
            agent: policy.agent().clone(),
            line: Arc::clone(&line),
        });
        let policy = Arc::new(ArcSwap::from_pointee(policy));
        let context = Context {
            identify,
            policy: Arc::clone(&policy),
            audit: audit.clone(),
            limits,
            assurance: Assurance::Cooperative,
            resolver,
            terminator: Terminator::under(secure::gateway_authority()).unwrap(),
            connector: Connector::new(&secure::origin_roots()).unwrap(),
            dial: None,
        };
        let serving = tokio::spawn(bound.serve(Arc::new(context), drain.clone()));
        Self {
            address,
            policy,
            audit,
            counters,
            drain,
            log,
            line,
            serving,
        }
    }

    /// What the next connections are taken for.
    pub(super) fn set_line(&self, line: Line) {
        *self.line.lock().unwrap() = line;
    }

    pub(super) async fn connect(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// Says something on a connection of its own and answers with all that comes back.
    pub(super) async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut wire = self.connect().await;
        wire.send(bytes).await;
        wire.rest().await
    }

    /// Ends the gateway, and answers with its records.
    pub(super) async fn records(self) -> Vec<Value> {
        self.drain.cancel();
        in_time(self.serving).await.unwrap().unwrap();
        self.audit.flush(DEADLINE).await.unwrap();
        let text = self.log.text();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Ends the gateway, which must have written exactly one record.
    pub(super) async fn record(self) -> Value {
        let mut records = self.records().await;
        assert_eq!(records.len(), 1, "{records:#?}");
        records.remove(0)
    }

    /// Waits until so many records are written.
    pub(super) async fn await_records(&self, count: usize) {
        let waiting = async {
            while self.log.text().lines().count() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        in_time(waiting).await;
    }
}

/// Waits for something that should happen at once.
pub(super) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what)
        .await
        .expect("it should have happened long ago")
}

/// An agent's connection.
pub(super) struct Wire(pub(super) TcpStream);

impl Wire {
    #[expect(clippy::disallowed_methods, reason = "this is the agent's end")]
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self(in_time(TcpStream::connect(address)).await.unwrap())
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends what may be refused while it is sent.
    pub(super) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _refused = in_time(self.0.write_all(bytes.as_ref())).await;
    }

    /// No more will be sent.
    pub(super) async fn finish(&mut self) {
        in_time(self.0.shutdown()).await.unwrap();
    }

    /// Reads until this has come.
    pub(super) async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let mut octet = [0];
            let read = in_time(self.0.read(&mut octet)).await;
            let shown = String::from_utf8_lossy(&text);
            assert_eq!(read.ok(), Some(1), "no `{end}` in `{shown}`");
            text.push(octet[0]);
        }
        String::from_utf8(text).unwrap()
    }

    /// Reads a response with Content-Length.
    pub(super) async fn response(&mut self) -> String {
        let head = self.until("\r\n\r\n").await;
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = vec![0; length];
        in_time(self.0.read_exact(&mut body)).await.unwrap();
        head + &String::from_utf8(body).unwrap()
    }

    /// Whether a good response comes, rather than a reset.
    pub(super) async fn rest_starts_with_ok(&mut self) -> bool {
        let mut start = [0; 12];
        in_time(self.0.read_exact(&mut start)).await.is_ok() && start == *b"HTTP/1.1 200"
    }

    /// Reads to the end, which must not be a reset.
    pub(super) async fn rest(&mut self) -> String {
        String::from_utf8_lossy(&self.rest_bytes().await.unwrap()).into_owned()
    }

    /// Reads to the end, or the error that it ends in.
    pub(super) async fn rest_bytes(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        in_time(self.0.read_to_end(&mut bytes)).await?;
        Ok(bytes)
    }

    /// Reads to the end, which must be a reset.
    pub(super) async fn expect_reset(&mut self) {
        let ended = self.rest_bytes().await;
        let kind = ended.as_ref().map_err(std::io::Error::kind);
        assert_eq!(
            kind.err(),
            Some(std::io::ErrorKind::ConnectionReset),
            "{ended:?}"
        );
    }
}

/// The JSON behind the head of a refusal.
pub(super) fn body(response: &str) -> Value {
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {response}"))
}

/// The status of a response.
pub(super) fn status(response: &str) -> u16 {
    let status = response
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    status
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status in `{response}`"))
}

/// Some fields of a record, for one comparison.
pub(super) fn pick(record: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| record[field].clone()).collect()
}
