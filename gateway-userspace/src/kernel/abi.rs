//! The one place for what the compiler cannot check: that shared layouts are plain data, that a
//! ring keeps its descriptor, and system calls that no crate makes.
#![expect(unsafe_code, reason = "see each SAFETY")]

use std::{
    ffi::{CString, c_int},
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use nix::libc;
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value as the kernel half has it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: `IntoBytes` and `FromBytes`, both checked at compile time, say that T has no padding
// and that every bit pattern is a T; `Wire` is transparent over it.
unsafe impl<T: Copy + FromBytes + IntoBytes + Immutable + 'static> aya::Pod for Wire<T> {}

/// A ring of the kernel half, to be waited on.
///
/// # Errors
/// If the descriptor cannot be registered with the runtime.
pub(super) fn pollable<R: Ring>(ring: R) -> io::Result<AsyncFd<R>> {
    // SAFETY: a `Ring` answers with the same descriptor, which it owns, for as long as it lives.
    let registered = unsafe { AsyncFd::register(ring) };
    registered.map_err(io::Error::from)
}

/// What owns one descriptor for life.
pub(super) trait Ring: AsRawFd {}

impl Ring for RingBuf<MapData> {}

impl Ring for EbpfLogger<&'static dyn log::Log> {}

/// The cookie of the network namespace that a socket was made in (`SO_NETNS_COOKIE`).
///
/// Minimum kernel 5.14.
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `cookie`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `BPF_CGROUP_SETSOCKOPT`, the attach type.
pub(super) const SETSOCKOPT: u32 = 22;

/// Attaches a program to a cgroup by a link (`BPF_LINK_CREATE`, kernel ≥ 5.7).
pub(super) fn link_to_cgroup(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    const LINK_CREATE: c_int = 28;
    /// `struct { … } link_create` in `union bpf_attr`.
    #[repr(C)]
    struct Arguments {
        program: RawFd,
        target: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let arguments = Arguments {
        program: program.as_fd().as_raw_fd(),
        target: cgroup.as_fd().as_raw_fd(),
        attach_type,
        flags: 0,
    };
    let link = bpf(LINK_CREATE, &arguments)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Pins a link on a BPF file system (`BPF_OBJ_PIN`).
pub(super) fn pin(link: &impl AsFd, path: &Path) -> io::Result<()> {
    const OBJ_PIN: c_int = 6;
    /// The anonymous struct for `BPF_OBJ_*` in `union bpf_attr`.
    #[repr(C)]
    struct Arguments {
        path: u64,
        object: RawFd,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let arguments = Arguments {
        path: path.as_ptr().addr() as u64,
        object: link.as_fd().as_raw_fd(),
        flags: 0,
    };
    bpf(OBJ_PIN, &arguments).map(drop)
}

/// The `bpf(2)` system call with the part of `union bpf_attr` that a command reads; the kernel
/// takes what is missing for zero.
fn bpf<A>(command: c_int, arguments: &A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told, which is the size of A, and what the
    // pointers in it lead to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(arguments),
            size_of::<A>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(descriptor) if descriptor >= 0 => Ok(descriptor),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
