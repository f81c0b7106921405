//! Attaches a program by a link, whatever its kind, and pins the link.
//!
//! Only a link outlives this process once it is pinned. Links to a cgroup are multi: a program of
//! somebody else on the same hook neither replaces ours nor is replaced by it. The calls are our
//! own: aya gives out the links of some kinds of programs only, and can exchange the program
//! behind none.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya::programs::{
    CgroupDevice, CgroupSkb, CgroupSock, CgroupSockAddr, CgroupSockopt, Program, ProgramError,
    RawTracePoint, SockOps,
    links::{FdLink, PinnedLink},
};

use super::{BoundaryError, abi};

/// An attached program. Dropped before it is pinned, it is detached.
#[derive(Debug)]
pub(super) struct Attached {
    link: OwnedFd,
    /// Where it is pinned already, by the boundary that it belonged to before.
    pinned: bool,
}

impl Attached {
    /// Pins the link, so that it outlives this process.
    pub(super) fn pin(
        self,
        program: &'static str,
        path: &Path,
        before: Option<&Path>,
    ) -> Result<PinnedLink, BoundaryError> {
        let failed = |source| BoundaryError::Attach { program, source };
        match before {
            // It is pinned all the while.
            Some(before) if self.pinned => fs::rename(before, path).map_err(failed)?,
            Some(_) | None => abi::pin(&self.link, path).map_err(failed)?,
        }
        PinnedLink::from_pin(path).map_err(|source| BoundaryError::Reopen { program, source })
    }
}

/// Where a program goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The cgroup, opened.
    pub(super) cgroup: &'a File,
    /// Its id.
    pub(super) id: u64,
    /// The pinned link of the boundary that was there before, to be taken over.
    pub(super) before: Option<&'a Path>,
}

/// Attaches a program to a cgroup that [`verify`] was happy with.
pub(super) fn attach(
    name: &'static str,
    program: &Program,
    place: Place<'_>,
) -> Result<Attached, BoundaryError> {
    let attach_type = attach_type(name).ok_or(BoundaryError::Missing(name))?;
    let descriptor = program.fd().map_err(unverified(name))?;
    attach_loaded(name, descriptor.as_fd(), place, attach_type)
}

/// Attaches a program that the kernel has verified. Where the boundary before had a link of this
/// name to the same cgroup, the program behind that link is exchanged: between the two there is
/// no moment without either.
pub(super) fn attach_loaded(
    program: &'static str,
    descriptor: BorrowedFd<'_>,
    place: Place<'_>,
    attach_type: u32,
) -> Result<Attached, BoundaryError> {
    let failed = |source| BoundaryError::Attach { program, source };
    let before = place.before.and_then(|path| taken_over(path, place.id));
    if let Some(link) = before {
        abi::exchange_program(&link, descriptor).map_err(failed)?;
        return Ok(Attached { link, pinned: true });
    }
    abi::link_to_cgroup(descriptor, place.cgroup, attach_type)
        .map(|link| Attached {
            link,
            pinned: false,
        })
        .map_err(|source| refused(program, place.cgroup, attach_type, source))
}

/// The link that is pinned there, if it is still one to this cgroup: one to a cgroup that was
/// removed is dead, whatever has its path now.
fn taken_over(path: &Path, cgroup: u64) -> Option<OwnedFd> {
    let link = abi::open_pinned(path).ok()?;
    (abi::ends_of_link(&link).ok()?.cgroup == cgroup).then_some(link)
}

/// Why the kernel refuses a link; where somebody else's program is in the way, which.
fn refused(
    program: &'static str,
    cgroup: &File,
    attach_type: u32,
    source: io::Error,
) -> BoundaryError {
    let in_the_way = source.raw_os_error() == Some(nix::libc::EPERM);
    match abi::attached_alone(cgroup, attach_type) {
        Ok(Some(id)) if in_the_way => BoundaryError::InTheWay { program, id },
        Ok(_) | Err(_) => BoundaryError::Attach { program, source },
    }
}

/// Verifies a program of `PROCESS_PROGRAMS`, attaches it to its tracepoint, for all tasks of the
/// host, and pins the link. Nothing can exchange the program behind such a link: one before stays
/// until its pin goes.
pub(super) fn trace(
    name: &'static str,
    program: &mut Program,
    pin: &Path,
) -> Result<PinnedLink, BoundaryError> {
    attach_trace(name, program)?
        .pin(pin)
        .map_err(|source| BoundaryError::Pin {
            program: name,
            source,
        })
}

/// The same without the pin.
pub(super) fn attach_trace(
    name: &'static str,
    program: &mut Program,
) -> Result<FdLink, BoundaryError> {
    let failed = |action: &'static str| {
        move |source: ProgramError| BoundaryError::Program {
            action,
            program: name,
            source: Box::new(source),
        }
    };
    let tracepoint = tracepoint(name).ok_or(BoundaryError::Missing(name))?;
    let program = <&mut RawTracePoint>::try_from(program).map_err(failed("verifying"))?;
    program.load().map_err(failed("verifying"))?;
    let id = program.attach(tracepoint).map_err(failed("attaching"))?;
    let link = program.take_link(id).map_err(failed("detaching"))?;
    Ok(FdLink::from(link))
}

/// Where in the kernel a program of `PROCESS_PROGRAMS` is attached.
fn tracepoint(program: &str) -> Option<&'static str> {
    match program {
        "process_exec" => Some("sched_process_exec"),
        "process_fork" => Some("sched_process_fork"),
        "process_exit" => Some("sched_process_exit"),
        "process_move" => Some("cgroup_attach_task"),
        _ => None,
    }
}

/// Attach types, as in `enum bpf_attach_type`.
fn attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "ingress" => 0,
        "egress" => 1,
        "sock_create" => 2,
        "agent_ops" | "gateway_ops" => 3,
        "device" => 6,
        "bind4" => 8,
        "bind6" => 9,
        "connect4" => 10,
        "connect6" => 11,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "recvmsg4" => 19,
        "recvmsg6" => 20,
        "setsockopt" => 22,
        "getpeername4" => 29,
        "getpeername6" => 30,
        _ => return None,
    })
}

fn unverified(program: &'static str) -> impl FnOnce(ProgramError) -> BoundaryError {
    move |source| BoundaryError::Program {
        action: "verifying",
        program,
        source: Box::new(source),
    }
}

/// Has the kernel verify a program for a cgroup.
pub(super) fn verify(name: &'static str, program: &mut Program) -> Result<(), BoundaryError> {
    /// Loads a program of one of these kinds.
    macro_rules! load {
        ($($kind:ident),*) => {
            $(if let Ok(program) = <&mut $kind>::try_from(&mut *program) {
                return program.load().map_err(unverified(name));
            })*
        };
    }
    load!(
        CgroupSockAddr,
        CgroupSock,
        SockOps,
        CgroupDevice,
        CgroupSkb,
        CgroupSockopt
    );
    Err(BoundaryError::Missing(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{AGENT_PROGRAMS, GATEWAY_PROGRAM, PROCESS_PROGRAMS};

    #[test]
    fn every_program_has_a_hook() {
        for program in AGENT_PROGRAMS.into_iter().chain([GATEWAY_PROGRAM]) {
            assert!(attach_type(program).is_some(), "{program}");
        }
        for program in PROCESS_PROGRAMS {
            assert!(tracepoint(program).is_some(), "{program}");
        }
    }
}
