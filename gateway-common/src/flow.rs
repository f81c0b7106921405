//! Who is on the line: what travels from an agent's `connect` to the gateway's `accept`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::endpoint::Endpoint;

/// The agent asked for another destination and was sent to the gateway.
pub const KIND_REDIRECTED: u8 = 1;
/// The agent connected to the gateway's own port.
pub const KIND_EXPLICIT: u8 = 2;

/// The agent connected to another local port that policy declares.
pub const KIND_LOCAL: u8 = 3;
/// The agent connected to a listener of its own.
pub const KIND_OWN: u8 = 5;
/// The agent went past the gateway, and observe mode let it.
pub const KIND_OBSERVED: u8 = 4;

/// The process that made a socket call.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Task {
    /// Cgroup id of the task, which need not be the socket's.
    pub cgroup: u64,
    /// [`crate::process::Member::since_ns`] of the process; 0 where nothing keeps account of it.
    pub since_ns: u64,
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// Thread id in the initial pid namespace.
    pub pid: u32,
    /// Effective user id in the initial user namespace.
    pub uid: u32,
    /// Effective group id in the initial user namespace.
    pub gid: u32,
    /// Command name, NUL-padded. The agent chooses it.
    pub comm: [u8; 16],
}

impl Task {
    /// Nobody: a packet that the kernel sent on its own behalf.
    pub const NONE: Self = Self {
        cgroup: 0,
        since_ns: 0,
        tgid: 0,
        pid: 0,
        uid: 0,
        gid: 0,
        comm: [0; 16],
    };
}

/// One connection or DNS question of an agent, as the kernel saw it begin.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Flow {
    /// Nanoseconds since boot at which the call was made.
    pub time_ns: u64,
    /// Socket cookie, unique until the next boot.
    pub cookie: u64,
    /// Network namespace cookie, unique until the next boot.
    pub netns: u64,
    /// Who called.
    pub task: Task,
    /// Where the agent wanted to go.
    pub original: Endpoint,
    /// Number of the agent on this node.
    pub agent: u32,
    /// One of the `KIND_` constants.
    pub kind: u8,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Always zero.
    pub zero: [u8; 6],
}

/// Key under which a flow waits for the gateway: unique among all that wait.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Tuple {
    /// Network namespace cookie of the agent's socket.
    pub netns: u64,
    /// The agent's end.
    pub agent: Endpoint,
    /// The gateway's end.
    pub gateway: Endpoint,
    /// DNS transaction id for UDP, so that each datagram has its own entry; 0 for TCP.
    pub token: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub protocol: u8,
    /// Always zero.
    pub zero: [u8; 5],
}
