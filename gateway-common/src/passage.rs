//! The kernel's ledger: what the kernel half let through, told to user space as it happens.
//!
//! User space holds it against the gateway's own sessions. What only one of the two saw is a
//! finding.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::flow::Flow;

/// One connection that was established, or one DNS question that left.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Passage {
    /// [`crate::ABI_VERSION`].
    pub abi: u32,
    /// CPU that wrote the entry.
    pub cpu: u32,
    /// Per-CPU number, counted up also when the ring had no room: a gap is the exact loss.
    pub sequence: u64,
    /// What was let through.
    pub flow: Flow,
    /// DNS transaction id for a question, else 0.
    pub token: u16,
    /// Always zero.
    pub zero: [u8; 6],
}
