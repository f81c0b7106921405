//! Starts the agent inside its boundary, and waits for it.
//!
//! The agent's process is made by re-executing this binary: [`enter`] runs in the new process,
//! which has one thread, joins the cgroup, gives up what it must not have, and becomes the
//! command. Nothing runs between the fork and that.

pub mod assurance;
pub mod canary;
pub mod enter;
pub mod stdio;
pub mod supervise;
pub mod user;
