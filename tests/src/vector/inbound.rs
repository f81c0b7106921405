//! Letting somebody else open the connection, and asking to be sent to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::poll::PollFlags;
use socket2::Socket;

use super::{Failed, Outcome, Target, call, failed, pause};

/// Binds to its port on every address of both families.
pub(super) fn bound(target: &Target) -> Outcome {
    let socket = socket()?;
    let here = SocketAddr::from((Ipv6Addr::UNSPECIFIED, target.port));
    socket.bind(&here.into()).map_err(failed("bind"))?;
    accept(&socket)
}

/// Lets `listen(2)` choose the port: no bind hook sees that.
pub(super) fn unbound(_: &Target) -> Outcome {
    accept(&socket()?)
}

/// Says where it listens; once told that somebody has tried, sees who is there.
fn accept(socket: &Socket) -> Outcome {
    socket.listen(1).map_err(failed("listen"))?;
    let here = socket.local_addr().map_err(failed("getsockname"))?;
    pause("listening", here.as_socket())?;
    call::ready(socket, PollFlags::POLLIN).map_err(failed("accept"))?;
    let (_connection, from) = socket.accept().map_err(failed("accept"))?;
    Ok(from.as_socket())
}

fn socket() -> Result<Socket, Failed> {
    call::socket(libc::AF_INET6, libc::SOCK_STREAM, 0).map_err(failed("socket"))
}

/// Joins a group whose number is the message: the kernel reports it to the network.
pub(super) fn join4(target: &Target) -> Outcome {
    let socket = call::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).map_err(failed("socket"))?;
    let interface = socket2::InterfaceIndexOrAddress::Index(way_out()?);
    socket
        .join_multicast_v4_n(&group4(target.port), &interface)
        .map_err(failed("setsockopt"))?;
    Ok(None)
}

/// As above, over IPv6.
pub(super) fn join6(target: &Target) -> Outcome {
    let socket = call::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0).map_err(failed("socket"))?;
    socket
        .join_multicast_v6(&group6(target.port), way_out()?)
        .map_err(failed("setsockopt"))?;
    Ok(None)
}

fn way_out() -> Result<u32, Failed> {
    let names = nix::net::if_::if_nameindex().map_err(|error| Failed {
        call: "if_nameindex",
        error: error.into(),
    })?;
    names
        .iter()
        .find(|interface| interface.name().to_bytes() != b"lo")
        .map(|interface| interface.index())
        .ok_or_else(|| failed("if_nameindex")(std::io::ErrorKind::NotFound.into()))
}

/// The group that carries this port's number.
pub fn group4(port: u16) -> Ipv4Addr {
    let [high, low] = port.to_be_bytes();
    Ipv4Addr::new(239, 5, high, low)
}

/// The group that carries this port's number.
pub fn group6(port: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x515c, port)
}
