//! What this kernel can do, found out by doing it: each program is loaded and attached to a
//! scratch cgroup. A version number proves nothing, and neither does a configuration file.

use std::fs;

use aya::{Btf, EbpfError};
use gateway_common::process::KernelLayout;

use super::{
    AGENT_PROGRAMS, BoundaryError, GATEWAY_PROGRAM, PROCESS_PROGRAMS,
    attach::{self, Place},
    cgroup::Cgroup,
    layout,
    lsm::{self, LSM_PROGRAMS},
    object,
    spec::AgentSpec,
    unix,
};

/// One program's answer.
#[derive(Debug)]
pub struct ProgramProbe {
    /// Its name.
    pub program: &'static str,
    /// Whether an agent may start without it.
    pub optional: bool,
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
    let layout = layout::of_kernel(scratch.level()?, true).unwrap_or(KernelLayout::UNKNOWN);
    let mut ebpf = object::load(&spec, layout, None)?;
    let cgroup = scratch.open()?;
    let place = Place {
        cgroup: &cgroup,
        id: scratch.id()?,
        before: None,
    };
    let names = AGENT_PROGRAMS.into_iter().chain([GATEWAY_PROGRAM]);
    let mut probes: Vec<_> = names
        .map(|name| ProgramProbe {
            program: name,
            optional: false,
            result: match ebpf.program_mut(name) {
                // The link is dropped, and with it the attachment.
                Some(program) => attach::verify(name, program)
                    .and_then(|()| attach::attach(name, program, place).map(drop)),
                None => Err(BoundaryError::Missing(name)),
            },
        })
        .collect();
    probes.extend(
        unix::PROGRAMS
            .into_iter()
            .map(|(name, attach_type)| ProgramProbe {
                program: name,
                optional: true,
                result: unix::attach(name, attach_type, object::OBJECT, &ebpf, place).map(drop),
            }),
    );
    let types = Btf::from_sys_fs().map_err(|source| BoundaryError::Load {
        source: Box::new(EbpfError::BtfError(source)),
    });
    if let Ok(types) = types {
        probes.extend(LSM_PROGRAMS.into_iter().map(|name| ProgramProbe {
            program: name,
            optional: true,
            result: lsm::attach(name, &mut ebpf, &types, place).map(drop),
        }));
    }
    for name in PROCESS_PROGRAMS {
        probes.push(ProgramProbe {
            program: name,
            optional: true,
            result: match ebpf.program_mut(name) {
                Some(program) => attach::attach_trace(name, program).map(drop),
                None => Err(BoundaryError::Missing(name)),
            },
        });
    }
    Ok(probes)
}

/// Whether the kernel has hooks on unix sockets (≥ 6.7).
#[must_use]
pub fn has_unix_hooks() -> bool {
    unix::support().hooks
}

/// Whether the programs on unix sockets can tell them by their names.
#[must_use]
pub fn reads_unix_names() -> bool {
    unix::support().offsets.is_some()
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
