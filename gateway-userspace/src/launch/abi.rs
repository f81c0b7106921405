//! System calls of the start that no crate makes safely. Only for processes of one thread.
#![expect(unsafe_code, reason = "see each SAFETY")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{
    libc,
    sys::signal::{SigHandler, Signal, signal},
    unistd::Pid,
};

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    /// The new process.
    Child,
    /// The old one; the new one's id.
    Parent(Pid),
}

fn side(result: libc::c_long) -> io::Result<Side> {
    match i32::try_from(result) {
        Ok(0) => Ok(Side::Child),
        Ok(pid) if pid > 0 => Ok(Side::Parent(Pid::from_raw(pid))),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Forks the init of a new pid namespace right into a cgroup (`clone3`, kernel ≥ 5.7).
pub(super) fn clone_into(cgroup: &impl AsFd) -> io::Result<Side> {
    /// `struct clone_args` up to `cgroup`.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    /// `CLONE_INTO_CGROUP`.
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let descriptor = cgroup.as_fd().as_raw_fd();
    let arguments = Arguments {
        flags: INTO_CGROUP | libc::CLONE_NEWPID as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: u64::from(descriptor.unsigned_abs()),
        ..Arguments::default()
    };
    // SAFETY: without CLONE_VM the child has its own copy of all memory, and as the callers have
    // one thread no lock is held there by a thread that is not; the kernel reads as many bytes
    // as it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_ref(&arguments),
            size_of::<Arguments>(),
        )
    };
    side(result)
}

/// Forks.
pub(super) fn fork() -> io::Result<Side> {
    // SAFETY: the callers have one thread, so no lock is held in the child by another.
    side(libc::c_long::from(unsafe { libc::fork() }))
}

/// Lets these signals do what they do by themselves.
pub(super) fn default_actions(signals: &[Signal]) -> nix::Result<()> {
    for one in signals {
        // SAFETY: no handler is put in place, so no code of this process runs on the signal.
        unsafe { signal(*one, SigHandler::SigDfl) }?;
    }
    Ok(())
}

/// Gives this process a session keyring of its own, empty.
pub(super) fn new_session_keyring() -> io::Result<()> {
    /// `KEYCTL_JOIN_SESSION_KEYRING`.
    const JOIN: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<libc::c_char>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Takes over a descriptor that this process was started with, by its number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for this one call, which fails on a number that is not open.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is open, and this process was started with it for nobody else but the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What a worker that was taken over might try.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt {
    /// Stops this process to look into it.
    Ptrace(u32),
    /// Makes a ring of system calls.
    IoUring,
    /// Makes a process, which ends at once.
    Fork,
}

/// Tries it, and undoes it where it succeeds.
pub(crate) fn attempt(what: Attempt) -> io::Result<()> {
    let result = match what {
        Attempt::Ptrace(pid) => {
            // SAFETY: attaches to or detaches from a process; no memory of this one is touched.
            let call = |request| unsafe {
                libc::ptrace(request, libc::c_long::from(pid), 0_usize, 0_usize)
            };
            let attached = call(libc::PTRACE_SEIZE);
            let failed = io::Error::last_os_error();
            let _not_stopped = call(libc::PTRACE_DETACH);
            return if attached == -1 { Err(failed) } else { Ok(()) };
        }
        Attempt::IoUring => {
            let mut parameters = [0_u8; 120];
            // SAFETY: `struct io_uring_params` has 120 octets, which the kernel reads and writes.
            unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) }
        }
        Attempt::Fork => match fork()? {
            // SAFETY: ends the copy at once, without running what this process left to be run.
            Side::Child => unsafe { libc::_exit(0) },
            Side::Parent(pid) => {
                nix::sys::wait::waitpid(pid, None)?;
                0
            }
        },
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if let Ok(descriptor @ 1..) = RawFd::try_from(result) {
        drop(inherited(descriptor)?);
    }
    Ok(())
}
