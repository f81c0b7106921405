//! Making somebody outside do it: a process of the same uid that has a way out.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::FileExt as _};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use super::{
    Failed, Outcome, Target, call, failed,
    stage::{Outsider, SLOT, SLOTS},
};

/// Changes its memory as a debugger does.
pub(super) fn trace(target: &Target) -> Outcome {
    let outsider = outsider(target)?;
    let process = Pid::from_raw(outsider.pid);
    ptrace::attach(process).map_err(system("ptrace"))?;
    // Stopped by that, a child of this process or not.
    waitpid(process, Some(WaitPidFlag::__WALL)).map_err(system("waitpid"))?;
    for (at, word) in (slot(target, outsider)..)
        .step_by(8)
        .zip(target.marker.chunks(8))
    {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        ptrace::write(
            process,
            at as ptrace::AddressType,
            i64::from_ne_bytes(bytes),
        )
        .map_err(system("ptrace"))?;
    }
    ptrace::detach(process, None).map_err(system("ptrace"))?;
    Ok(None)
}

/// Changes its memory by the call for that.
pub(super) fn write(target: &Target) -> Outcome {
    let outsider = outsider(target)?;
    call::write_memory(outsider.pid, slot(target, outsider), &target.marker)
        .map_err(failed("process_vm_writev"))?;
    Ok(None)
}

/// Changes its memory as a file.
pub(super) fn memory(target: &Target) -> Outcome {
    let outsider = outsider(target)?;
    let path = format!("/proc/{}/mem", outsider.pid);
    let file = OpenOptions::new().write(true).open(path);
    file.map_err(failed("open"))?
        .write_all_at(&target.marker, slot(target, outsider))
        .map_err(failed("pwrite"))?;
    Ok(None)
}

/// Takes its socket.
pub(super) fn take(target: &Target) -> Outcome {
    let outsider = outsider(target)?;
    let process = call::pidfd_open(outsider.pid).map_err(failed("pidfd_open"))?;
    let socket = call::pidfd_getfd(&process, outsider.socket).map_err(failed("pidfd_getfd"))?;
    let mut socket = &socket2::Socket::from(socket);
    socket.write_all(&target.marker).map_err(failed("send"))?;
    Ok(None)
}

/// Opens its pipe once more.
pub(super) fn reopen(target: &Target) -> Outcome {
    let outsider = outsider(target)?;
    let path = format!("/proc/{}/fd/{}", outsider.pid, outsider.pipe);
    let pipe = OpenOptions::new().write(true).open(path);
    pipe.map_err(failed("open"))?
        .write_all(&target.marker)
        .map_err(failed("write"))?;
    Ok(None)
}

/// Compares descriptors, which tells what it has open.
pub(super) fn compare(target: &Target) -> Outcome {
    call::compare(outsider(target)?.pid).map_err(failed("kcmp"))?;
    Ok(None)
}

/// Ends a process outside.
pub(super) fn end(target: &Target) -> Outcome {
    let victim = target.stage.mortal.ok_or_else(nobody)?;
    kill(Pid::from_raw(victim), Signal::SIGKILL).map_err(system("kill"))?;
    Ok(None)
}

/// Types at a terminal that somebody else reads as well.
pub(super) fn type_at_terminal(target: &Target) -> Outcome {
    for &byte in target.marker.iter().chain(b"\n") {
        call::type_byte(byte).map_err(failed("ioctl"))?;
    }
    Ok(None)
}

fn outsider(target: &Target) -> Result<&Outsider, Failed> {
    target.stage.outsider.as_ref().ok_or_else(nobody)
}

/// The place of this attempt alone.
fn slot(target: &Target, outsider: &Outsider) -> u64 {
    let number = usize::from(target.port) % SLOTS;
    outsider.memory + (number * SLOT) as u64
}

/// Nobody there: only a test that set no stage sees this.
fn nobody() -> Failed {
    failed("stage")(std::io::ErrorKind::NotFound.into())
}

fn system(call: &'static str) -> impl Fn(nix::Error) -> Failed {
    move |error| failed(call)(error.into())
}
