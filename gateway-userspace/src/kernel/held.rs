//! What the kernel half holds for one agent: found by looking at what is attached, never by a
//! version number.

/// What is attached and in force for one agent, beside the programs without which no boundary is
/// raised at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KernelHeld {
    /// `unix_connect` and `unix_sendmsg` are attached (kernel ≥ 6.7).
    pub unix: bool,
    /// They tell sockets by their paths (needs the kernel's type information); without this it is
    /// all or nothing.
    pub unix_paths: bool,
    /// The LSM programs are attached, `bpf` is an active security module, and one of them was
    /// seen to refuse.
    pub lsm: bool,
    /// A task that leaves the agent's cgroup is killed.
    pub leavers: bool,
}

impl KernelHeld {
    /// All that there could be.
    pub const BEST: Self = Self {
        unix: true,
        unix_paths: true,
        lsm: true,
        leavers: true,
    };
}
