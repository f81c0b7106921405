//! What both halves of Sluice share: the kernel-side rule, the layouts that cross the
//! kernel boundary, and the numbers that bound them.
//!
//! One body of code serves the eBPF programs, `sluice policy explain` and the tests, so the
//! three cannot disagree. This crate never allocates, never does I/O and knows nothing of aya.
#![no_std]
#![forbid(unsafe_code)]

pub mod agent;
pub mod decide;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod packet;
pub mod passage;
pub mod process;
pub mod reason;
pub mod unix;
pub mod verdict;

/// Version of everything in this crate that crosses the kernel boundary.
///
/// It is part of the pin path and of each struct that the kernel half reads first: a loader
/// never adopts pins of another version. Raise it whenever `abi.txt` changes.
pub const ABI_VERSION: u32 = 2;

/// Entries in the hash that carries a flow from the agent's `connect` to the gateway's
/// `accept` (one per handshake or DNS question in flight, not one per connection).
pub const TUPLES_MAX: u32 = 16_384;

/// Bytes in the ring that carries denials to user space. A power of two, page-aligned.
pub const DENIALS_RING_BYTES: u32 = 1 << 18;

/// Bytes in the ring that carries the kernel's ledger to user space. A power of two, page-aligned.
/// An entry without room is a connection that the gateway will refuse.
pub const PASSAGES_RING_BYTES: u32 = 1 << 19;

/// Denials of one reason that one CPU reports at once before it starts to fold repeats.
pub const EVENT_BURST: u64 = 64;

/// Nanoseconds after which one more denial of a reason may be reported by a CPU.
pub const EVENT_REFILL_NS: u64 = 50_000_000;

/// Local ports other than the gateway's that a policy may declare for one agent.
pub const LOOPBACK_PORTS_MAX: usize = 32;

/// Network namespaces in which the gateway of one agent may listen.
pub const NAMESPACES_MAX: u32 = 64;

/// Value of the mark that only the daemon can put on a listener's socket storage.
pub const LISTENER_MARK: u32 = 0x51_75_1c_e1;
