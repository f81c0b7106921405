//! Unix sockets of somebody outside who has a way out.

use std::{
    io::{self, IoSliceMut, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    poll::PollFlags,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendto},
};
use socket2::Socket;

use super::{Failed, Outcome, Target, call, failed, stage::Kind};

/// Connects to the attempt's socket, whatever its kind, and says what it has to say.
pub(super) fn connected(target: &Target) -> Outcome {
    let mut socket = &connect(target)?;
    socket.write_all(&target.marker).map_err(failed("send"))?;
    Ok(None)
}

/// A datagram from a socket that is not connected.
pub(super) fn unconnected(target: &Target) -> Outcome {
    let (socket, address) = socket(target)?;
    sendto(
        socket.as_raw_fd(),
        &target.marker,
        &address,
        MsgFlags::empty(),
    )
    .map_err(|error| failed("sendto")(error.into()))?;
    Ok(None)
}

/// Gets a socket of theirs, and sends on that.
pub(super) fn passed(target: &Target) -> Outcome {
    let socket = connect(target)?;
    let got = receive(&socket).map_err(failed("recvmsg"))?;
    let mut got = &Socket::from(got);
    got.write_all(&target.marker).map_err(failed("send"))?;
    Ok(None)
}

fn connect(target: &Target) -> Result<Socket, Failed> {
    let (socket, address) = socket(target)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &address)
        .map_err(|error| failed("connect")(error.into()))?;
    Ok(socket)
}

fn socket(target: &Target) -> Result<(Socket, UnixAddr), Failed> {
    let named = target.stage.sockets.get(&target.name);
    let (path, kind) = named.ok_or_else(|| failed("stage")(io::ErrorKind::NotFound.into()))?;
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Datagram => libc::SOCK_DGRAM,
        Kind::Packets => libc::SOCK_SEQPACKET,
    };
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(path.as_str()),
    };
    let address = address.map_err(|error| failed("address")(error.into()))?;
    let socket = call::socket(libc::AF_UNIX, kind, 0).map_err(failed("socket"))?;
    Ok((socket, address))
}

/// The one descriptor that comes over a socket.
fn receive(socket: &Socket) -> io::Result<OwnedFd> {
    call::ready(socket, PollFlags::POLLIN)?;
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut room = cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    let numbers = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    // A kernel that lets no descriptor through delivers the message without it.
    let number = numbers.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
