//! Connections.

use std::{
    ffi::CString,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nix::poll::PollFlags;
use socket2::{SockAddr, Socket};

use super::{Failed, Outcome, Target, call, failed, patience};

/// `TCP_FASTOPEN_NO_COOKIE`: data in the first packet without having met before.
const FASTOPEN_NO_COOKIE: i32 = 34;
/// `IPPROTO_MPTCP`.
const MPTCP: i32 = 262;

pub(super) fn v4(target: &Target) -> Outcome {
    exchange(&socket4()?, target.v4(), &target.marker)
}

/// Wherever it is.
pub(super) fn to(address: SocketAddr, target: &Target) -> Outcome {
    exchange(&socket4()?, address, &target.marker)
}

pub(super) fn v6(target: &Target) -> Outcome {
    exchange(&socket6()?, target.v6(), &target.marker)
}

pub(super) fn mapped(target: &Target) -> Outcome {
    exchange(&socket6()?, target.mapped(), &target.marker)
}

/// The kernel gives up on the handshake when the send timeout has passed.
pub(super) fn blocking(target: &Target) -> Outcome {
    let socket = socket4()?;
    socket
        .set_write_timeout(Some(patience()))
        .map_err(failed("setsockopt"))?;
    socket
        .connect(&target.v4().into())
        .map_err(failed("connect"))?;
    talk(&socket, &target.marker)
}

pub(super) fn any4(target: &Target) -> Outcome {
    let to = (Ipv4Addr::UNSPECIFIED, target.port).into();
    exchange(&socket4()?, to, &target.marker)
}

pub(super) fn any6(target: &Target) -> Outcome {
    let to = (Ipv6Addr::UNSPECIFIED, target.port).into();
    exchange(&socket6()?, to, &target.marker)
}

/// Another service of the node.
pub(super) fn local4(target: &Target) -> Outcome {
    let to = (Ipv4Addr::LOCALHOST, target.port).into();
    exchange(&socket4()?, to, &target.marker)
}

/// As above, over IPv6.
pub(super) fn local6(target: &Target) -> Outcome {
    let to = (Ipv6Addr::LOCALHOST, target.port).into();
    exchange(&socket6()?, to, &target.marker)
}

pub(super) fn fast_open_sendto(target: &Target) -> Outcome {
    let socket = socket4()?;
    call::set_number(&socket, libc::IPPROTO_TCP, FASTOPEN_NO_COOKIE, 1)
        .map_err(failed("setsockopt"))?;
    socket.set_nonblocking(true).map_err(failed("fcntl"))?;
    socket
        .send_to_with_flags(&target.marker, &target.v4().into(), libc::MSG_FASTOPEN)
        .map(drop)
        .or_else(under_way)
        .map_err(failed("sendto"))?;
    established(&socket)?;
    listen_to_end(&socket)
}

pub(super) fn fast_open_connect(target: &Target) -> Outcome {
    let socket = socket4()?;
    for name in [FASTOPEN_NO_COOKIE, libc::TCP_FASTOPEN_CONNECT] {
        call::set_number(&socket, libc::IPPROTO_TCP, name, 1).map_err(failed("setsockopt"))?;
    }
    socket.set_nonblocking(true).map_err(failed("fcntl"))?;
    // Answers at once; the handshake begins with the first bytes.
    socket
        .connect(&target.v4().into())
        .map_err(failed("connect"))?;
    (&socket)
        .write(&target.marker)
        .map(drop)
        .or_else(under_way)
        .map_err(failed("send"))?;
    established(&socket)?;
    listen_to_end(&socket)
}

pub(super) fn mptcp(target: &Target) -> Outcome {
    let socket = call::socket(libc::AF_INET, libc::SOCK_STREAM, MPTCP).map_err(failed("socket"))?;
    exchange(&socket, target.v4(), &target.marker)
}

pub(super) fn mptcp6(target: &Target) -> Outcome {
    let socket =
        call::socket(libc::AF_INET6, libc::SOCK_STREAM, MPTCP).map_err(failed("socket"))?;
    exchange(&socket, target.v6(), &target.marker)
}

/// One socket, twice: to the gateway or nobody, then dissolved, then out.
pub(super) fn reconnect(target: &Target) -> Outcome {
    let socket = socket4()?;
    let first = (Ipv4Addr::LOCALHOST, target.passable()).into();
    // Outside a boundary nobody listens there, and the socket is as good as new as well.
    connect(&socket, first).ok();
    call::dissolve(&socket).map_err(failed("dissolve"))?;
    exchange(&socket, target.v4(), &target.marker)
}

/// Bound to the interface that leads out.
pub(super) fn device(target: &Target) -> Outcome {
    let socket = socket4()?;
    bind_to_way_out(&socket)?;
    exchange(&socket, target.v4(), &target.marker)
}

/// Whom the socket says that it talks to. A server of names waits for a question, and so the
/// connection is still there when it is looked at.
pub(super) fn peer4(target: &Target) -> Outcome {
    peer(&socket4()?, (target.v4, super::udp::DNS).into())
}

/// As above, over IPv6.
pub(super) fn peer6(target: &Target) -> Outcome {
    peer(&socket6()?, (target.v6, super::udp::DNS).into())
}

fn peer(socket: &Socket, to: SocketAddr) -> Outcome {
    connect(socket, to)?;
    let address = socket.peer_addr().map_err(failed("getpeername"))?;
    Ok(address.as_socket())
}

/// A question to a server of the agent's choice.
pub(super) fn dns(target: &Target) -> Outcome {
    ask(
        &socket4()?,
        (Ipv4Addr::UNSPECIFIED, target.port).into(),
        (target.v4, super::udp::DNS).into(),
        target,
    )
}

/// As above, over IPv6.
pub(super) fn dns6(target: &Target) -> Outcome {
    ask(
        &socket6()?,
        (Ipv6Addr::UNSPECIFIED, target.port).into(),
        (target.v6, super::udp::DNS).into(),
        target,
    )
}

/// The destination's port is taken, so the source's is what tells attempts apart.
fn ask(socket: &Socket, from: SocketAddr, to: SocketAddr, target: &Target) -> Outcome {
    let question = super::udp::question(target);
    let length = u16::try_from(question.len()).map_or(0, |length| length);
    let mut message = length.to_be_bytes().to_vec();
    message.extend(question);
    socket.bind(&from.into()).map_err(failed("bind"))?;
    exchange(socket, to, &message)
}

/// Binds to the interface that leads out.
pub(super) fn bind_to_way_out(socket: &Socket) -> Result<(), Failed> {
    let (name, _) = way_out()?;
    socket
        .bind_device(Some(name.as_bytes()))
        .map_err(failed("setsockopt"))
}

/// Name and index of the first interface that is not loopback.
pub(super) fn way_out() -> Result<(CString, u32), Failed> {
    let interfaces = nix::net::if_::if_nameindex()
        .map_err(io::Error::from)
        .map_err(failed("if_nameindex"))?;
    interfaces
        .iter()
        .find(|interface| interface.name() != c"lo")
        .map(|interface| (interface.name().to_owned(), interface.index()))
        .ok_or_else(|| failed("if_nameindex")(io::ErrorKind::NotFound.into()))
}

fn socket4() -> Result<Socket, Failed> {
    call::socket(libc::AF_INET, libc::SOCK_STREAM, 0).map_err(failed("socket"))
}

fn socket6() -> Result<Socket, Failed> {
    call::socket(libc::AF_INET6, libc::SOCK_STREAM, 0).map_err(failed("socket"))
}

/// Connects, sends, and reads until the other side has had enough.
pub(super) fn exchange(socket: &Socket, to: SocketAddr, bytes: &[u8]) -> Outcome {
    connect(socket, to)?;
    talk(socket, bytes)
}

fn connect(socket: &Socket, to: SocketAddr) -> Result<(), Failed> {
    socket.set_nonblocking(true).map_err(failed("fcntl"))?;
    socket
        .connect(&SockAddr::from(to))
        .or_else(under_way)
        .map_err(failed("connect"))?;
    established(socket)
}

fn under_way(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::EINPROGRESS) {
        Ok(())
    } else {
        Err(error)
    }
}

fn established(socket: &Socket) -> Result<(), Failed> {
    call::ready(socket, PollFlags::POLLOUT).map_err(failed("connect"))?;
    match socket.take_error().map_err(failed("getsockopt"))? {
        // Whoever resets was reached.
        Some(error) if error.raw_os_error() == Some(libc::ECONNRESET) => Ok(()),
        Some(error) => Err(failed("connect")(error)),
        None => Ok(()),
    }
}

fn talk(mut socket: &Socket, bytes: &[u8]) -> Outcome {
    match socket.write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        result => result.map_err(failed("send"))?,
    }
    listen_to_end(socket)
}

/// Shuts its side and reads to the end. A reset is an end, too.
fn listen_to_end(mut socket: &Socket) -> Outcome {
    let seen = socket.peer_addr().ok().and_then(|it| it.as_socket());
    match socket.shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(seen),
        result => result.map_err(failed("shutdown"))?,
    }
    let mut buffer = [0; 512];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(seen),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(seen);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                call::ready(socket, PollFlags::POLLIN).map_err(failed("recv"))?;
            }
            Err(error) => return Err(failed("recv")(error)),
        }
    }
}
