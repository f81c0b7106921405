//! What stands outside a boundary for attempts to reach: told to the `vector` program as JSON.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes that one attempt may leave in an outsider's memory.
pub const SLOT: usize = 256;
/// How many attempts may do so.
pub const SLOTS: usize = 16;

/// A unix socket that somebody outside listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `SOCK_STREAM`.
    Stream,
    /// `SOCK_DGRAM`.
    Datagram,
    /// `SOCK_SEQPACKET`.
    Packets,
}

/// A process outside, of the same uid as the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outsider {
    /// Its process id in the host's pid namespace.
    pub pid: i32,
    /// Where its [`SLOTS`] lie. On demand it sends what it finds there to the origin.
    pub memory: u64,
    /// Its descriptor of a datagram socket that is connected to the origin.
    pub socket: i32,
    /// Its descriptor of a pipe's reading end. It sends that to the origin, too.
    pub pipe: i32,
}

/// What is there to be reached.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stage {
    /// The process to be tampered with.
    pub outsider: Option<Outsider>,
    /// The process to be killed.
    pub mortal: Option<i32>,
    /// Stands in for the gateway where there is none: a process of root's.
    pub gateway: Option<i32>,
    /// Unix sockets by the attempt that talks to them; abstract names begin with `@`.
    pub sockets: BTreeMap<String, (String, Kind)>,
    /// A setuid-root copy of the `vector` program.
    pub setuid: Option<PathBuf>,
    /// Where cgroups are.
    pub cgroups: PathBuf,
    /// A cgroup outside, as a path from there.
    pub outside: PathBuf,
    /// The audit log.
    pub audit: Option<PathBuf>,
    /// A folder that everybody may write to.
    pub scratch: PathBuf,
}
