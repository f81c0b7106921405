//! What this kernel can do, found out by doing it: each program is loaded and attached to a
//! scratch cgroup. A version number proves nothing, and neither does a configuration file.

use std::fs;

use gateway_common::process::KernelLayout;

use super::{
    AGENT_PROGRAMS, BoundaryError, GATEWAY_PROGRAM, attach, cgroup::Cgroup, layout, object,
    spec::AgentSpec,
};

/// One program's answer.
#[derive(Debug)]
pub struct ProgramProbe {
    /// Its name.
    pub program: &'static str,
    /// Whether the kernel verified and attached it.
    pub result: Result<(), BoundaryError>,
}

/// Verifies each program and attaches it to `scratch`, which must have no processes.
///
/// Nothing stays attached.
///
/// # Errors
/// If the object as a whole, its maps among it, is refused.
pub fn programs(scratch: &Cgroup) -> Result<Vec<ProgramProbe>, BoundaryError> {
    let spec = AgentSpec::widest();
    let layout = layout::of_kernel(scratch.level()?).unwrap_or(KernelLayout::UNKNOWN);
    let mut ebpf = object::load(spec.config, &spec.loopback, layout)?;
    let cgroup = scratch.open()?;
    let names = AGENT_PROGRAMS.into_iter().chain([GATEWAY_PROGRAM]);
    Ok(names
        .map(|name| ProgramProbe {
            program: name,
            result: match ebpf.program_mut(name) {
                // The link is dropped, and with it the attachment.
                Some(program) => attach::attach(name, program, &cgroup).map(drop),
                None => Err(BoundaryError::Missing(name)),
            },
        })
        .collect())
}

/// The active security modules, in their order; empty if they cannot be told.
#[must_use]
pub fn security_modules() -> Vec<String> {
    fs::read_to_string("/sys/kernel/security/lsm")
        .map(|list| list.trim().split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Whether the kernel carries its own type information.
#[must_use]
pub fn has_btf() -> bool {
    fs::metadata("/sys/kernel/btf/vmlinux").is_ok()
}
