//! Who is on the line: what the gateway knows of a connection before it reads a byte.
//!
//! No header, no token, no `/proc` lookup by address: either the kernel half says who it is, or
//! the gateway runs without one and says so (`cooperative`).

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::names::{AgentId, OrigDst, PeerAddr};

/// How far the boundary holds for an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// No kernel half: the agent is merely asked to use the gateway.
    Cooperative,
    /// The kernel half records and blocks nothing.
    Observe,
    /// The kernel half blocks, with openings that are named.
    Partial,
    /// All cgroup hooks hold.
    Confined,
    /// Besides, the launcher or LSM closes families, descriptors and processes.
    Sealed,
}

impl Assurance {
    /// The name used in policies and records.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cooperative => "cooperative",
            Self::Observe => "observe",
            Self::Partial => "partial",
            Self::Confined => "confined",
            Self::Sealed => "sealed",
        }
    }
}

/// The process that opened a connection, as the kernel saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Command name; the agent chooses it.
    pub comm: String,
    /// Path of the executable; none where it is not known.
    pub exe: Option<String>,
    /// Where that path is from.
    pub exe_source: Option<ExecutableSource>,
    /// Names what ran there, from one exec or fork to the next; no other has the same, not after
    /// another boot either. None where the kernel half keeps no account of processes.
    pub exec_id: Option<String>,
    /// Who forked it, who forked that one, and so on, within the agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Ancestor>,
    /// Cgroup id.
    pub cgroup: u64,
    /// Socket cookie.
    pub cookie: u64,
}

/// Where the path of an executable is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutableSource {
    /// The file that was executed, by inode and device.
    File,
    /// The name that was given to `execve(2)`: it may be relative, a link or a script.
    Execve,
    /// What `/proc` showed some time after the call.
    Later,
}

/// What a process ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Executable {
    /// Its path.
    pub path: String,
    /// Where that is from.
    pub source: ExecutableSource,
}

/// A process that forked another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// As in [`Process::exec_id`].
    pub exec_id: String,
    /// Path of what it ran when it forked; none where it is not known.
    pub exe: Option<String>,
}

/// The other end of an accepted connection or of a DNS question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Whose policy applies.
    pub agent: AgentId,
    /// Where it came from.
    pub address: PeerAddr,
    /// Who opened it; none without a kernel half.
    pub process: Option<Arc<Process>>,
    /// What the agent asked the kernel for; none for an explicit proxy request.
    pub original: Option<OrigDst>,
}

/// Why nobody could be named. Such a connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum Unattributed {
    /// The kernel half has no flow for it: somebody outside every agent, or an agent's
    /// connection that found the flow table full.
    #[error("no agent's flow belongs to this connection")]
    NoFlow,
    /// The kernel could not be asked.
    #[error("reading the socket's kernel storage: {0}")]
    Kernel(String),
}

/// The gateway's end of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalEnd {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The address, which is the same in every namespace.
    pub address: SocketAddr,
}

/// Names the other end of a socket.
pub trait Identify: Send + Sync + 'static {
    /// Who opened this accepted connection.
    ///
    /// # Errors
    /// [`Unattributed`], upon which the connection is closed.
    fn stream(
        &self,
        stream: &tokio::net::TcpStream,
        peer: SocketAddr,
    ) -> Result<Peer, Unattributed>;

    /// Who sent this DNS question; `transaction` is its DNS id.
    ///
    /// # Errors
    /// [`Unattributed`], upon which the question is dropped.
    fn datagram(
        &self,
        socket: LocalEnd,
        peer: SocketAddr,
        transaction: u16,
    ) -> Result<Peer, Unattributed>;
}

/// Without a kernel half: whoever connects is the one agent of the one policy.
#[derive(Debug)]
pub struct Cooperative {
    /// The agent.
    pub agent: AgentId,
}

impl Identify for Cooperative {
    fn stream(&self, _: &tokio::net::TcpStream, peer: SocketAddr) -> Result<Peer, Unattributed> {
        Ok(self.whoever(peer))
    }

    fn datagram(&self, _: LocalEnd, peer: SocketAddr, _: u16) -> Result<Peer, Unattributed> {
        Ok(self.whoever(peer))
    }
}

impl Cooperative {
    fn whoever(&self, peer: SocketAddr) -> Peer {
        Peer {
            agent: self.agent.clone(),
            address: PeerAddr(peer),
            process: None,
            original: None,
        }
    }
}
