//! The kernel half, seen from user space: the only module that knows aya.
//!
//! It loads the programs with an agent's constants, attaches them to the agent's and the
//! gateway's cgroups, pins the links so that they outlive this process, and reads back who is on
//! the line and what was refused. It decides nothing.

mod abi;
mod attach;
mod boundary;
pub mod bpffs;
mod btf;
pub mod cgroup;
mod denials;
mod devices;
mod exe;
mod flows;
mod held;
mod layout;
mod leavers;
mod logs;
mod lsm;
mod object;
mod passages;
pub mod probe;
mod processes;
mod spec;
mod tenure;
mod unix;

pub(crate) use abi::load_nothing;
pub use abi::{bpf_is_refused, netns_cookie};
pub use boundary::{
    AGENT_PROGRAMS, Boundary, BoundaryError, GATEWAY_PROGRAM, OPTIONAL_PROGRAMS, PROCESS_PROGRAMS,
};
pub use denials::{Denials, NSCD};
pub use devices::DeviceError;
pub use flows::KernelIdentity;
pub use held::KernelHeld;
pub use logs::forward_logs;
pub use lsm::LSM_PROGRAMS;
pub use passages::Passages;
pub use spec::AgentSpec;
pub use unix::{UnixPathError, check_paths as check_unix_paths};
