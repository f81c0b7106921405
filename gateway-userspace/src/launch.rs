//! Starts the agent inside its boundary, and waits for it.
//!
//! `sluice run` re-executes this binary as [`enter`], with an empty environment and one thread.
//! That makes the [`init`] of a new pid namespace right inside the agent's cgroup, and stays
//! outside to wait for it. The init shuts itself in (namespaces, mounts, capabilities, Landlock,
//! seccomp), reports, and waits to be looked at; only when it is told to go does it start the
//! command, which inherits all of that.

mod abi;
pub mod assurance;
pub mod canary;
pub mod channel;
pub mod enter;
mod init;
mod landlock;
pub mod order;
pub mod readback;
mod seccomp;
pub mod stdio;
pub mod supervise;
pub mod terminal;
pub mod user;
mod view;

pub(crate) use abi::{Attempt, attempt, inherited};
