//! The composition root of the gateway: binds everything before anything is served, then accepts
//! and hands over.

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use governor::clock::MonotonicClock;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::{Audit, Kind, Record},
    config::Limits,
    definitions::Definitions,
    dns::{self, pins::Pins, resolver::Resolver},
    identity::{Assurance, Identify, LocalEnd, Peer},
    kernel::netns_cookie,
    names::{AgentId, HostName, PeerAddr},
    netns::NetworkNamespace,
    policy::Policy,
    proxy::{
        self, Counters,
        admission::{Admission, FOLD, Fold},
        entry::new_record,
        failure::Failure,
        wire::reset_on_close,
    },
    throttle::Throttle,
    tls::{Connector, Terminator},
    worker::DialPath,
};

/// Connections that wait to be accepted, per listener.
const BACKLOG: i32 = 1024;
/// How often a port is tried that is to be free for TCP and UDP on all addresses.
const PORT_TRIES: u32 = 32;
/// Octets in which room for messages is counted; less is free.
const PIECE: usize = 64 * 1024;
/// Pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the gateway listens.
#[derive(Clone, Debug)]
pub struct BindConfig {
    /// TCP and UDP port, the same on all addresses; 0 for one that is free.
    pub port: u16,
    /// Addresses that must be there. Default: 127.0.0.1.
    pub addresses: Vec<IpAddr>,
    /// Addresses that are used where the host has them, such as ::1. Default: none.
    pub optional: Vec<IpAddr>,
    /// Network namespaces beside this process's own in which it listens as well, on the same
    /// addresses and port. Connections to upstreams leave from its own. Default: none.
    pub namespaces: Vec<NetworkNamespace>,
}

impl Default for BindConfig {
    fn default() -> Self {
        Self {
            port: 0,
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            optional: Vec::new(),
            namespaces: Vec::new(),
        }
    }
}

/// Why the gateway cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// No address is given.
    #[error("there is no address to listen on")]
    NoAddress,
    /// The system refuses.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A network namespace cannot be entered.
    #[error("entering a network namespace of the agent")]
    Namespace(#[source] io::Error),
}

/// What a gateway works with.
pub struct Context {
    /// Names who is on the line.
    pub identify: Arc<dyn Identify>,
    /// The policy that decides; may be swapped at any time.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Where decisions are recorded.
    pub audit: Audit,
    /// Limits on everything.
    pub limits: Limits,
    /// How far the boundary holds, for the records.
    pub assurance: Assurance,
    /// Resolves names.
    pub resolver: Resolver,
    /// Ends TLS that agents open, where policy needs to see inside.
    pub terminator: Terminator,
    /// Opens TLS to upstreams then.
    pub connector: Connector,
    /// Who opens connections to upstreams: this process itself, or its supervisor.
    pub dial: Option<DialPath>,
}

/// The gateway, as a name for its two steps: [`Gateway::bind`], then [`Bound::serve`].
#[derive(Debug)]
pub struct Gateway;

/// A gateway that listens and does not serve yet.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<Listener>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    /// Cookie of the network namespace it is in; 0 where the kernel has none (before 5.14).
    netns: u64,
    tcp: Socket,
    udp: Socket,
}

impl Gateway {
    /// Listens. Needs no runtime.
    ///
    /// # Errors
    /// [`BindError`] names the address that cannot be had.
    pub fn bind(config: &BindConfig) -> Result<Bound, BindError> {
        let mut tries = if config.port == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match bind_all(config) {
                Ok(listeners) => {
                    return Ok(Bound {
                        listeners,
                        counters: Arc::default(),
                    });
                }
                // The port that the first socket was given is taken on another.
                Err(BindError::Listen { source, .. })
                    if tries > 0 && source.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn bind_all(config: &BindConfig) -> Result<Vec<Listener>, BindError> {
    let mut listeners = bind_here(config, config.port)?;
    let Some(first) = listeners.first() else {
        return Err(BindError::NoAddress);
    };
    let port = first.address.port();
    for namespace in &config.namespaces {
        let inside = namespace
            .run(|| bind_here(config, port))
            .map_err(BindError::Namespace)?;
        listeners.extend(inside?);
    }
    Ok(listeners)
}

/// Listens on all addresses in the network namespace of this thread.
fn bind_here(config: &BindConfig, mut port: u16) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    let required = config.addresses.iter().map(|ip| (ip, true));
    let optional = config.optional.iter().map(|ip| (ip, false));
    for (&ip, required) in required.chain(optional) {
        let address = SocketAddr::new(ip, port);
        match Listener::bind(address) {
            Ok(listener) => {
                port = listener.address.port();
                listeners.push(listener);
            }
            Err(source) if !required && is_missing(&source) => {}
            Err(source) => return Err(BindError::Listen { address, source }),
        }
    }
    Ok(listeners)
}

/// Whether the host does not have the address, or not its family.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

impl Listener {
    fn bind(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let tcp = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        tcp.set_reuse_address(true)?;
        let udp = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if address.is_ipv6() {
            tcp.set_only_v6(true)?;
            udp.set_only_v6(true)?;
        }
        tcp.bind(&address.into())?;
        let address = tcp.local_addr()?.as_socket().unwrap_or(address);
        udp.bind(&address.into())?;
        tcp.listen(BACKLOG)?;
        Ok(Self {
            address,
            netns: netns_cookie(&tcp).unwrap_or(0),
            tcp,
            udp,
        })
    }
}

impl Bound {
    /// The addresses, all with the same port; the first is that of the first address asked for.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listener| listener.address)
    }

    /// The listening TCP sockets, in the order of [`Self::addresses`].
    pub fn stream_sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| listener.tcp.as_fd())
    }

    /// The DNS sockets, in the order of [`Self::addresses`].
    pub fn datagram_sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| listener.udp.as_fd())
    }

    /// Cookies of the network namespaces that it listens in, each once.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<u64> {
        self.listeners
            .iter()
            .map(|listener| listener.netns)
            .collect()
    }

    /// Whether all of them are what a gateway on this port has: a listener and a datagram socket
    /// at each address, on loopback.
    pub(crate) fn listens_on(&self, port: u16) -> bool {
        let is_one = |listener: &Listener| {
            let there = |socket: &Socket, kind| {
                let address = socket.local_addr().ok().and_then(|found| found.as_socket());
                address == Some(listener.address) && socket.r#type().is_ok_and(|own| own == kind)
            };
            listener.address.port() == port
                && listener.address.ip().is_loopback()
                && there(&listener.tcp, Type::STREAM)
                && listener.tcp.is_listener().unwrap_or(false)
                && there(&listener.udp, Type::DGRAM)
        };
        !self.listeners.is_empty() && self.listeners.iter().all(is_one)
    }

    /// Totals of what is turned away at the door, to be read while it serves.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The sockets in order, TCP and UDP of each address in turn, for another process.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners
            .iter()
            .flat_map(|listener| [listener.tcp.as_fd(), listener.udp.as_fd()])
    }

    /// What another process bound, in the order of [`Self::sockets`].
    ///
    /// # Errors
    /// When one of them is no socket of this kind.
    pub(crate) fn received(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut listeners = Vec::new();
        let mut sockets = sockets.into_iter().map(Socket::from);
        while let (Some(tcp), Some(udp)) = (sockets.next(), sockets.next()) {
            let address = tcp.local_addr()?.as_socket();
            listeners.push(Listener {
                address: address.ok_or(io::ErrorKind::InvalidInput)?,
                netns: netns_cookie(&tcp).unwrap_or(0),
                tcp,
                udp,
            });
        }
        Ok(Self {
            listeners,
            counters: Arc::default(),
        })
    }

    /// Serves until the drain begins, without a word about how far it is; see
    /// [`Self::serve_until`].
    ///
    /// # Errors
    /// As there.
    pub async fn serve(self, context: Arc<Context>, drain: CancellationToken) -> io::Result<()> {
        let drain = Drain {
            begin: drain,
            ..Drain::default()
        };
        self.serve_until(context, drain).await
    }

    /// Serves until `drain` begins and then lets connections finish, up to the drain limit;
    /// what is left is cut and recorded so. When it returns, all records are handed to the audit
    /// log. Dropping the future cuts everything at once.
    ///
    /// # Errors
    /// When the sockets cannot be given to the runtime; nothing was served then.
    pub(crate) async fn serve_until(self, context: Arc<Context>, drain: Drain) -> io::Result<()> {
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let limits = context.limits.clone();
        let core = Arc::new(Core {
            listening: self.addresses().collect(),
            drain: drain.begin.clone(),
            cut: cut.clone(),
            tasks: TaskTracker::new(),
            counters: self.counters,
            admission: Arc::new(Admission::new(limits.connections_per_agent)),
            fold: Fold::default(),
            throttle: Throttle::new(MonotonicClock),
            pins: Mutex::new(Pins::new(limits.pins_per_agent, limits.pin_lifetime)),
            held: Arc::new(Semaphore::new(limits.held_bytes / PIECE)),
            ahead: Arc::new(Semaphore::new(limits.bodies_ahead)),
            answers: Arc::new(Semaphore::new(limits.answers_held)),
            definitions: Definitions::default(),
            questions: Arc::new(Semaphore::new(limits.dns_in_flight)),
            context,
        });
        let mut loops = JoinSet::new();
        for listener in self.listeners {
            let tcp = TcpListener::from_std(listener.tcp.into())?;
            let udp = UdpSocket::from_std(listener.udp.into())?;
            loops.spawn(accept(Arc::clone(&core), tcp));
            let core = Arc::clone(&core);
            loops.spawn(dns::server::serve_datagrams(
                core,
                Arc::new(udp),
                LocalEnd {
                    netns: listener.netns,
                    address: listener.address,
                },
            ));
        }
        loops.spawn(tell_folded(Arc::clone(&core)));
        drain.begin.cancelled().await;
        loops.shutdown().await;
        drain.accepts_no_more.cancel();
        core.tasks.close();
        tokio::select! {
            () = core.tasks.wait() => {}
            () = tokio::time::sleep(limits.drain_timeout) => cut.cancel(),
            () = drain.over.cancelled() => cut.cancel(),
        }
        core.tasks.wait().await;
        core.record_folded();
        Ok(())
    }
}

/// The steps of a gateway's end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    /// Cancelled when no new work is to begin.
    pub(crate) begin: CancellationToken,
    /// Cancelled by the gateway, when it accepts no more.
    pub(crate) accepts_no_more: CancellationToken,
    /// Cancelled when what is still open is to be cut, before its time.
    pub(crate) over: CancellationToken,
}

/// What all connections of a gateway share.
pub(crate) struct Core {
    /// What it was given.
    pub(crate) context: Arc<Context>,
    /// Its own addresses, which it must not dial.
    pub(crate) listening: Vec<SocketAddr>,
    /// Cancelled when no new work is to begin.
    pub(crate) drain: CancellationToken,
    /// Totals.
    pub(crate) counters: Arc<Counters>,
    /// Room for DNS questions under way.
    pub(crate) questions: Arc<Semaphore>,
    /// Room for messages that are not whole yet, in pieces of [`PIECE`].
    held: Arc<Semaphore>,
    /// Room for bodies that are read ahead.
    ahead: Arc<Semaphore>,
    /// Room for answers that are read whole.
    answers: Arc<Semaphore>,
    /// Cancelled when what is under way is to end.
    cut: CancellationToken,
    tasks: TaskTracker,
    admission: Arc<Admission>,
    fold: Fold,
    /// How often agents did what.
    pub(crate) throttle: Throttle,
    pins: Mutex<Pins>,
    /// What MCP servers said of their tools at first.
    pub(crate) definitions: Definitions,
}

impl Core {
    /// The policy as of now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.context.policy.load_full()
    }

    /// Waits for room to read a body ahead.
    pub(crate) async fn room_ahead(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.room_in(&self.ahead).await
    }

    /// Waits for room to read an answer whole: whoever waits may have a body in memory, so that
    /// both cannot share.
    pub(crate) async fn room_for_answer(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.room_in(&self.answers).await
    }

    async fn room_in<'a>(&self, room: &'a Semaphore) -> Result<SemaphorePermit<'a>, Failure> {
        let patience = self.context.limits.idle_timeout;
        match tokio::time::timeout(patience, room.acquire()).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(Failure::NoRoomAhead),
        }
    }

    /// Sees to it that this much may be held in memory of something that is not whole yet; waits
    /// for it where it is much.
    pub(crate) async fn room_for<'a>(
        &'a self,
        octets: usize,
        room: &mut Option<SemaphorePermit<'a>>,
    ) -> Result<(), Failure> {
        let has = room.as_ref().map_or(0, SemaphorePermit::num_permits);
        let wants = octets / PIECE;
        if wants <= has {
            return Ok(());
        }
        let more = u32::try_from(wants - has).map_err(|_| Failure::NoRoomAhead)?;
        let waiting = self.held.acquire_many(more);
        // Sooner than the connection would count as idle.
        let waited = tokio::time::timeout(self.context.limits.head_timeout, waiting).await;
        let Ok(Ok(more)) = waited else {
            return Err(Failure::NoRoomAhead);
        };
        match room {
            Some(room) => room.merge(more),
            None => *room = Some(more),
        }
        Ok(())
    }

    /// The names for which this agent was given this address.
    pub(crate) fn names_given(&self, agent: &AgentId, address: IpAddr) -> Vec<HostName> {
        self.with_pins(|pins| pins.names(agent, address, Instant::now()))
    }

    /// Remembers what this agent was told.
    pub(crate) fn remember(&self, agent: &AgentId, name: &HostName, addresses: &[IpAddr]) {
        self.with_pins(|pins| pins.remember(agent, name, addresses, Instant::now()));
    }

    fn with_pins<T>(&self, work: impl FnOnce(&mut Pins) -> T) -> T {
        // Pins are whole between any two steps: a panic elsewhere spoils nothing.
        work(&mut self.pins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs work that a drain waits for, and that ends when the gateway does.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// Records something that was turned away at the door, at most once a second for the same
    /// agent and reason; the others are folded into the next record.
    pub(crate) fn turned_away(&self, peer: &Peer, kind: Kind, failure: &Failure) {
        let report = failure.report();
        let mut record = new_record(self, &self.policy(), peer, kind).blame(report.blame);
        record.reason = report.reason;
        record.hint = Some(failure.to_string());
        if let Some(record) = self.fold.add(record, Instant::now()) {
            self.offer(record);
        }
    }

    fn record_folded(&self) {
        self.fold.take().for_each(|record| self.offer(record));
    }

    /// What is recorded here was refused already; where there is no room, the log counts it.
    fn offer(&self, record: Record) {
        if !self.context.audit.offer(record) {
            self.counters.audit_unavailable();
        }
    }
}

/// Records what was folded and has not come up again since.
async fn tell_folded(core: Arc<Core>) {
    let mut every = tokio::time::interval(FOLD);
    loop {
        every.tick().await;
        let due = core.fold.due(Instant::now());
        due.into_iter().for_each(|record| core.offer(record));
    }
}

/// Accepts until it is stopped.
async fn accept(core: Arc<Core>, listener: TcpListener) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                failing = false;
                admit(&core, stream, address);
            }
            Err(error) => {
                // Once, not every time it is tried again.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "accepting a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Finds out who it is, and serves them if they may have one more.
fn admit(core: &Arc<Core>, stream: TcpStream, address: SocketAddr) {
    let peer = match core.context.identify.stream(&stream, address) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::debug!(%address, %error, "closing a connection of nobody");
            core.counters.unattributed();
            core.turned_away(&nobody(address), Kind::Tcp, &Failure::Unattributed);
            return reset_on_close(&stream);
        }
    };
    let Some(admitted) = core.admission.admit(&peer.agent) else {
        core.counters.connection_limit();
        core.turned_away(&peer, Kind::Tcp, &Failure::ConnectionLimit);
        return reset_on_close(&stream);
    };
    let connection = Arc::clone(core);
    core.spawn(async move {
        let _until_the_end = admitted;
        Box::pin(proxy::serve(&connection, stream, &peer)).await;
    });
}

/// What stands in records for an agent that nobody knows.
pub(crate) const NOBODY: &str = "unattributed";

/// [`NOBODY`] as a name.
pub(crate) fn nobody_id() -> AgentId {
    AgentId::parse(NOBODY).expect("it fits the alphabet")
}

/// Stands in for a peer that nobody knows.
pub(crate) fn nobody(address: SocketAddr) -> Peer {
    Peer {
        agent: nobody_id(),
        address: PeerAddr(address),
        process: None,
        original: None,
    }
}
