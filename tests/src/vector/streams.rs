//! Bytes that reach a socket by other calls than those that are named for sending.

use std::{
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
};

use socket2::Socket;

use super::{Failed, Outcome, Target, call, failed};

/// The port of HTTP over QUIC.
const QUIC: u16 = 443;

/// From a pipe.
pub(super) fn splice(target: &Target) -> Outcome {
    let socket = connected(target.v4().port(), target)?;
    let (out, into) = pipe()?;
    io::stdout().flush().map_err(failed("flush"))?;
    nix::unistd::write(&into, &target.marker).map_err(io_failed("write"))?;
    let flags = nix::fcntl::SpliceFFlags::empty();
    nix::fcntl::splice(&out, None, &socket, None, target.marker.len(), flags)
        .map_err(io_failed("splice"))?;
    Ok(None)
}

/// From a file.
pub(super) fn send_file(target: &Target) -> Outcome {
    let socket = connected(target.v4().port(), target)?;
    let file = memory_file(&target.marker)?;
    let mut offset = 0;
    let length = target.marker.len();
    nix::sys::sendfile::sendfile(&socket, &file, Some(&mut offset), length)
        .map_err(io_failed("sendfile"))?;
    Ok(None)
}

/// A long header, version 1, as the first datagram of a connection has it.
pub(super) fn quic(target: &Target) -> Outcome {
    let mut socket = &connected(QUIC, target)?;
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend([0x51; 8]);
    packet.extend([0, 0]);
    packet.extend(&target.marker);
    packet.resize(1_200, 0);
    socket.write_all(&packet).map_err(failed("send"))?;
    Ok(None)
}

fn connected(port: u16, target: &Target) -> Result<Socket, Failed> {
    let socket = call::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(failed("socket"))?;
    let to = std::net::SocketAddr::from((target.v4, port));
    socket.connect(&to.into()).map_err(failed("connect"))?;
    Ok(socket)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failed> {
    nix::unistd::pipe().map_err(io_failed("pipe"))
}

fn memory_file(bytes: &[u8]) -> Result<impl AsFd + use<>, Failed> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let file = nix::sys::memfd::memfd_create(c"marker", flags).map_err(io_failed("memfd"))?;
    nix::unistd::write(&file, bytes).map_err(io_failed("write"))?;
    Ok(file)
}

fn io_failed(call: &'static str) -> impl FnOnce(nix::Error) -> Failed {
    move |error| failed(call)(error.into())
}
