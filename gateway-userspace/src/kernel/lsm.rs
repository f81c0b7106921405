//! The LSM programs (kernel ≥ 6.0, `bpf` among the active security modules): attached to the
//! agent's cgroup, so that nobody else meets them.
//!
//! Without `bpf` in the kernel's list they load and attach without a word and do nothing. So the
//! list is read first, and what was attached counts only once it was seen to refuse.

use std::os::fd::AsFd as _;

use aya::{
    Btf, Ebpf,
    programs::{LsmCgroup, ProgramError},
};

use super::{
    BoundaryError,
    attach::{Attached, Place, attach_loaded},
    probe,
};

/// `BPF_LSM_CGROUP`.
const ATTACH_TYPE: u32 = 43;

/// The programs. The kernel has room for ten hooks on all cgroups together, each counted once
/// however many cgroups it is on.
pub const LSM_PROGRAMS: [&str; 9] = [
    "lsm_socket_create",
    "lsm_file_receive",
    "lsm_ptrace_access_check",
    "lsm_bpf",
    "lsm_sb_mount",
    "lsm_sb_umount",
    "lsm_unix_stream_connect",
    "lsm_unix_may_send",
    "lsm_file_open",
];

/// Whether it is worth attaching them: `bpf` is an active security module, or nobody can tell.
pub(super) fn may_hold() -> bool {
    let modules = probe::security_modules();
    modules.is_empty() || modules.iter().any(|module| module == "bpf")
}

/// Verifies one of them and attaches it.
pub(super) fn attach(
    name: &'static str,
    ebpf: &mut Ebpf,
    types: &Btf,
    place: Place<'_>,
) -> Result<Attached, BoundaryError> {
    let failed = |source: ProgramError| BoundaryError::Program {
        action: "verifying",
        program: name,
        source: Box::new(source),
    };
    let program = ebpf.program_mut(name).ok_or(BoundaryError::Missing(name))?;
    let program = <&mut LsmCgroup>::try_from(program).map_err(failed)?;
    let hook = name
        .strip_prefix("lsm_")
        .ok_or(BoundaryError::Missing(name))?;
    program.load(hook, types).map_err(failed)?;
    let descriptor = program.fd().map_err(failed)?;
    attach_loaded(name, descriptor.as_fd(), place, ATTACH_TYPE)
}
