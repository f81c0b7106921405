//! The one place for what the compiler cannot check: that shared layouts are plain data, that a
//! ring keeps its descriptor, and a socket option that no crate reads.
#![expect(unsafe_code, reason = "see each SAFETY")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
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
