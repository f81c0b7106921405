//! Descriptors that were not made by this process.

use std::{io, os::fd::RawFd};

use nix::errno::Errno;

use super::{Outcome, Target, call, failed};

/// The highest number tried.
const LAST: RawFd = 64;

/// Sends on whatever descriptor takes it. Fails only if none does.
pub(super) fn inherited(target: &Target) -> Outcome {
    let mut outcome = Err(io::Error::from(Errno::EBADF));
    for number in 0..=LAST {
        match call::send_on(number, &target.marker) {
            Ok(()) => outcome = Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            // A socket that refuses is a socket.
            Err(error) => {
                if outcome.is_err() {
                    outcome = Err(error);
                }
            }
        }
    }
    outcome.map(|()| None).map_err(failed("send"))
}
