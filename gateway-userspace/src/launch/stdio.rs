//! Standard input, output and error: the only descriptors an agent inherits, and none of them
//! may be a way out.

use std::os::fd::AsFd;

use nix::sys::{
    socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname},
    stat::{SFlag, fstat},
};

/// A descriptor that would be a way out.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is a network socket, which no boundary can close once the agent holds it; \
     put a pipe between, e.g. `cat | sluice run …`"
)]
pub struct OpenDoor {
    name: &'static str,
}

/// Refuses standard descriptors that are sockets of any family but AF_UNIX.
///
/// A socket belongs to the cgroup it was made in, so the agent's programs never see it. Answers
/// with those that are unix sockets: whoever is at their other end can hand over descriptors.
///
/// # Errors
/// [`OpenDoor`] names the first such descriptor.
pub fn check() -> Result<Vec<String>, OpenDoor> {
    let mut unix = Vec::new();
    for (name, is_unix) in [
        (
            "standard input",
            check_one("standard input", std::io::stdin())?,
        ),
        (
            "standard output",
            check_one("standard output", std::io::stdout())?,
        ),
        (
            "standard error",
            check_one("standard error", std::io::stderr())?,
        ),
    ] {
        if is_unix {
            unix.push(name.to_owned());
        }
    }
    Ok(unix)
}

/// Whether it is a unix socket.
fn check_one(name: &'static str, descriptor: impl AsFd) -> Result<bool, OpenDoor> {
    let is_socket = fstat(&descriptor).is_ok_and(|stat| {
        SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
    });
    if !is_socket {
        return Ok(false);
    }
    use std::os::fd::AsRawFd as _;
    let family = getsockname::<SockaddrStorage>(descriptor.as_fd().as_raw_fd())
        .ok()
        .and_then(|address| address.family());
    match family {
        Some(AddressFamily::Unix) => Ok(true),
        // A family that cannot be told is no exception.
        Some(_) | None => Err(OpenDoor { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_sockets_are_refused_and_others_are_not() {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("socket");
        assert!(check_one("x", &udp).is_err());
        let (unix, _other) = std::os::unix::net::UnixStream::pair().expect("pair");
        assert!(check_one("x", &unix).is_ok_and(|is_unix| is_unix));
        let file = std::fs::File::open("/dev/null").expect("null");
        assert!(check_one("x", &file).is_ok_and(|is_unix| !is_unix));
    }
}
