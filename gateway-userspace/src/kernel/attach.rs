//! Attaches a program by a link, whatever its kind, and pins the link.
//!
//! Only a link outlives this process once it is pinned. Links to a cgroup are multi: a program of
//! somebody else on the same hook neither replaces ours nor is replaced by it.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, CgroupSockopt,
    Program, ProgramError, RawTracePoint, SockOps,
    links::{FdLink, PinnedLink},
};

use super::{BoundaryError, abi};

/// `Single` is the only mode that aya passes on to links, and the kernel takes it for multi.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// An attached program. Dropped before it is pinned, it is detached.
#[derive(Debug)]
pub(super) enum Attached {
    /// By aya.
    Link(FdLink),
    /// By the system call itself, for kinds of programs whose link aya does not give out.
    Descriptor(OwnedFd),
}

impl Attached {
    /// Pins the link, so that it outlives this process.
    pub(super) fn pin(
        self,
        program: &'static str,
        path: &Path,
    ) -> Result<PinnedLink, BoundaryError> {
        match self {
            Self::Link(link) => link
                .pin(path)
                .map_err(|source| BoundaryError::Pin { program, source }),
            Self::Descriptor(link) => {
                abi::pin(&link, path)
                    .map_err(|source| BoundaryError::Attach { program, source })?;
                PinnedLink::from_pin(path)
                    .map_err(|source| BoundaryError::Reopen { program, source })
            }
        }
    }
}

/// Where in the kernel a program of `PROCESS_PROGRAMS` is attached, for all tasks of the host.
fn tracepoint(program: &str) -> Option<&'static str> {
    match program {
        "process_exec" => Some("sched_process_exec"),
        "process_fork" => Some("sched_process_fork"),
        "process_exit" => Some("sched_process_exit"),
        "process_move" => Some("cgroup_attach_task"),
        _ => None,
    }
}

/// Verifies a program and attaches it to a cgroup, or to its tracepoint.
pub(super) fn attach(
    name: &'static str,
    program: &mut Program,
    cgroup: impl AsFd,
) -> Result<Attached, BoundaryError> {
    let failed = |action: &'static str| {
        move |source: ProgramError| BoundaryError::Program {
            action,
            program: name,
            source: Box::new(source),
        }
    };
    /// Loads, attaches and takes the link out of aya's hands, which would detach it.
    macro_rules! link {
        ($program:ident $(, $direction:expr)?) => {{
            $program.load().map_err(failed("verifying"))?;
            let id = $program
                .attach(cgroup, $($direction,)? MODE)
                .map_err(failed("attaching"))?;
            FdLink::try_from($program.take_link(id).map_err(failed("detaching"))?)
        }};
    }
    let link = if let Ok(program) = <&mut CgroupSockAddr>::try_from(&mut *program) {
        link!(program)
    } else if let Ok(program) = <&mut CgroupSock>::try_from(&mut *program) {
        link!(program)
    } else if let Ok(program) = <&mut SockOps>::try_from(&mut *program) {
        link!(program)
    } else if let Ok(program) = <&mut CgroupSkb>::try_from(&mut *program) {
        let direction = match program.expected_attach_type() {
            Some(CgroupSkbAttachType::Egress) => CgroupSkbAttachType::Egress,
            Some(CgroupSkbAttachType::Ingress) => CgroupSkbAttachType::Ingress,
            None => return Err(BoundaryError::Missing(name)),
        };
        link!(program, direction)
    } else if let Ok(program) = <&mut RawTracePoint>::try_from(&mut *program) {
        let tracepoint = tracepoint(name).ok_or(BoundaryError::Missing(name))?;
        program.load().map_err(failed("verifying"))?;
        let id = program.attach(tracepoint).map_err(failed("attaching"))?;
        Ok(FdLink::from(
            program.take_link(id).map_err(failed("detaching"))?,
        ))
    } else if let Ok(program) = <&mut CgroupSockopt>::try_from(&mut *program) {
        program.load().map_err(failed("verifying"))?;
        let descriptor = program.fd().map_err(failed("verifying"))?;
        return abi::link_to_cgroup(descriptor, cgroup, abi::SETSOCKOPT)
            .map(Attached::Descriptor)
            .map_err(|source| BoundaryError::Attach {
                program: name,
                source,
            });
    } else {
        return Err(BoundaryError::Missing(name));
    };
    link.map(Attached::Link)
        .map_err(|source| BoundaryError::NoLink {
            program: name,
            source,
        })
}
