//! Who is on the line: reads a flow from the accepted socket's own storage, by descriptor.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData, MapError};
use gateway_common::{
    endpoint::Endpoint,
    flow::{Flow, KIND_REDIRECTED, Tuple},
    packet::UDP,
};
use nix::time::{ClockId, clock_gettime};
use tokio::net::TcpStream;

use super::{
    abi::Wire,
    boundary::{Boundary, BoundaryError, Storage},
    processes::Names,
};
use crate::{
    identity::{Identify, LocalEnd, Peer, Process, Unattributed},
    ledger::{Ledger, PassageKey},
    names::{AgentId, OrigDst, PeerAddr},
};

/// How long a published flow may wait for the gateway before it counts as abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

type Tuples = HashMap<MapData, Wire<Tuple>, Wire<Flow>>;

/// Names peers by what the kernel half left in their sockets.
#[derive(Debug)]
pub struct KernelIdentity {
    agent: AgentId,
    names: Names,
    ledger: Arc<Ledger>,
    accepted: Storage<Flow>,
    tuples: Mutex<Tuples>,
}

impl KernelIdentity {
    /// Takes the maps it reads out of the boundary. `ledger` is told of every session.
    ///
    /// # Errors
    /// If the object lacks a map.
    pub fn new(
        boundary: &mut Boundary,
        agent: AgentId,
        cgroup: String,
        ledger: Arc<Ledger>,
    ) -> Result<Self, BoundaryError> {
        Ok(Self {
            agent,
            names: boundary.names(cgroup),
            ledger,
            accepted: boundary.take_map("ACCEPTED")?,
            tuples: Mutex::new(boundary.take_map("TUPLES")?),
        })
    }

    /// Forgets flows whose connection or question never reached the gateway. Answers how many.
    pub fn purge_abandoned(&self) -> usize {
        let horizon = boot_time().saturating_sub(ABANDONED_AFTER);
        let horizon = u64::try_from(horizon.as_nanos()).unwrap_or(u64::MAX);
        let mut tuples = self.tuples.lock().unwrap_or_else(PoisonError::into_inner);
        let abandoned: Vec<_> = tuples
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, Wire(flow))| flow.time_ns < horizon)
            .map(|(key, _)| key)
            .collect();
        abandoned
            .iter()
            .filter(|key| tuples.remove(key).is_ok())
            .count()
    }

    /// Who opened the accepted connection of this descriptor.
    ///
    /// # Errors
    /// [`Unattributed`], as also for what is no accepted connection.
    pub(crate) fn accepted(
        &self,
        connection: &impl AsRawFd,
        peer: SocketAddr,
    ) -> Result<Peer, Unattributed> {
        let Wire(flow) = self.accepted.get(connection, 0).map_err(unattributed)?;
        let key = PassageKey::connection(&flow);
        self.ledger.served(key, &flow, Instant::now());
        Ok(self.peer(&flow, peer))
    }

    fn peer(&self, flow: &Flow, address: SocketAddr) -> Peer {
        Peer {
            agent: self.agent.clone(),
            address: PeerAddr(address),
            process: Some(Arc::new(self.process(flow))),
            original: (flow.kind == KIND_REDIRECTED).then(|| OrigDst(socket_addr(&flow.original))),
        }
    }

    fn process(&self, flow: &Flow) -> Process {
        self.names.process(&flow.task, flow.cookie, flow.time_ns)
    }
}

impl Identify for KernelIdentity {
    fn stream(&self, stream: &TcpStream, peer: SocketAddr) -> Result<Peer, Unattributed> {
        self.accepted(stream, peer)
    }

    fn datagram(
        &self,
        socket: LocalEnd,
        peer: SocketAddr,
        transaction: u16,
    ) -> Result<Peer, Unattributed> {
        let key = Wire(Tuple {
            netns: socket.netns,
            agent: endpoint(peer),
            gateway: endpoint(socket.address),
            token: transaction,
            protocol: UDP,
            zero: [0; 5],
        });
        let mut tuples = self.tuples.lock().unwrap_or_else(PoisonError::into_inner);
        let Wire(flow) = tuples.get(&key, 0).map_err(unattributed)?;
        tuples.remove(&key).map_err(unattributed)?;
        drop(tuples);
        let key = PassageKey::question(&flow, transaction);
        self.ledger.served(key, &flow, Instant::now());
        Ok(self.peer(&flow, peer))
    }
}

fn unattributed(error: MapError) -> Unattributed {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => Unattributed::NoFlow,
        other => match other {
            MapError::SyscallError(ref call)
                if call.io_error.kind() == std::io::ErrorKind::NotFound =>
            {
                Unattributed::NoFlow
            }
            other => Unattributed::Kernel(other.to_string()),
        },
    }
}

/// An endpoint as the standard library writes it; mapped addresses become IPv4.
pub(super) fn socket_addr(endpoint: &Endpoint) -> SocketAddr {
    let address = Ipv6Addr::from(endpoint.octets());
    SocketAddr::new(address.to_canonical(), endpoint.port)
}

fn endpoint(address: SocketAddr) -> Endpoint {
    let octets = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    Endpoint::from_octets(octets, address.port())
}

/// Time since boot, the kernel half's clock.
pub(super) fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
