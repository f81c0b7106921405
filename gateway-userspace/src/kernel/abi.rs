//! The one place where shared layouts are vouched for to aya, and where a socket option is read
//! that no crate has.
#![expect(
    unsafe_code,
    reason = "aya::Pod is an unsafe trait, getsockopt a C function"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use nix::libc;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value as the kernel half has it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: `IntoBytes` and `FromBytes`, both checked at compile time, say that T has no padding
// and that every bit pattern is a T; `Wire` is transparent over it.
unsafe impl<T: Copy + FromBytes + IntoBytes + Immutable + 'static> aya::Pod for Wire<T> {}

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
