//! Datagrams.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use nix::poll::PollFlags;
use socket2::Socket;

use super::{Failed, Outcome, Target, call, failed, tcp};

/// The DNS port.
pub(super) const DNS: u16 = 53;
/// `UDP_CORK`.
const CORK: i32 = 1;
/// A group of the range for documentation (RFC 5771, MCAST-TEST-NET).
const GROUP: Ipv4Addr = Ipv4Addr::new(233, 252, 0, 1);
/// All nodes of the link (RFC 4291).
const NEIGHBOURS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// A resolver that is not there, of the range for documentation (RFC 5737).
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);

pub(super) fn connect(target: &Target) -> Outcome {
    connected(&socket(libc::AF_INET)?, target.v4(), &target.marker)
}

pub(super) fn connect6(target: &Target) -> Outcome {
    connected(&socket(libc::AF_INET6)?, target.v6(), &target.marker)
}

pub(super) fn send_to(target: &Target) -> Outcome {
    send(&socket(libc::AF_INET)?, target.v4(), &target.marker)
}

pub(super) fn send_to6(target: &Target) -> Outcome {
    send(&socket(libc::AF_INET6)?, target.v6(), &target.marker)
}

pub(super) fn mapped(target: &Target) -> Outcome {
    send(&socket(libc::AF_INET6)?, target.mapped(), &target.marker)
}

pub(super) fn mapped_connect(target: &Target) -> Outcome {
    connected(&socket(libc::AF_INET6)?, target.mapped(), &target.marker)
}

/// An IPv4 address on an IPv6 socket, which the kernel takes for what it is.
pub(super) fn inet_on_6(target: &Target) -> Outcome {
    send(&socket(libc::AF_INET6)?, target.v4(), &target.marker)
}

/// As above.
pub(super) fn inet_on_6_connect(target: &Target) -> Outcome {
    connected(&socket(libc::AF_INET6)?, target.v4(), &target.marker)
}

/// Another service of the node.
pub(super) fn local(target: &Target) -> Outcome {
    let to = (Ipv4Addr::LOCALHOST, target.port).into();
    send(&socket(libc::AF_INET)?, to, &target.marker)
}

/// One socket, twice: to what a boundary lets pass, then dissolved, then out.
pub(super) fn reconnect(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    let first = SocketAddr::from((target.v4, DNS));
    socket.connect(&first.into()).map_err(failed("connect"))?;
    call::dissolve(&socket).map_err(failed("dissolve"))?;
    connected(&socket, target.v4(), &target.marker)
}

/// Nothing leaves before the last piece is there.
pub(super) fn more(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    let to = target.v4().into();
    socket
        .send_to_with_flags(&target.marker, &to, libc::MSG_MORE)
        .map_err(failed("sendto"))?;
    send(&socket, target.v4(), b"the end")
}

pub(super) fn send_mmsg(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    call::send_many(&socket, target.v4(), &target.marker).map_err(failed("sendmmsg"))?;
    Ok(None)
}

/// An address whose family says `AF_UNSPEC`.
pub(super) fn unspec(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    let to = SocketAddrV4::new(target.v4, target.port);
    call::send_to_unspec(&socket, to, &target.marker).map_err(failed("sendto"))?;
    Ok(None)
}

/// Connected to what a boundary lets pass, then sent elsewhere.
pub(super) fn elsewhere(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    let first = SocketAddr::from((target.v4, DNS));
    socket.connect(&first.into()).map_err(failed("connect"))?;
    send(&socket, target.v4(), &target.marker)
}

pub(super) fn cork(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    let cork = |on| call::set_number(&socket, libc::IPPROTO_UDP, CORK, on);
    cork(1).map_err(failed("setsockopt"))?;
    send(&socket, target.v4(), &target.marker)?;
    cork(0).map_err(failed("uncork"))?;
    Ok(None)
}

pub(super) fn device(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    tcp::bind_to_way_out(&socket)?;
    send(&socket, target.v4(), &target.marker)
}

pub(super) fn multicast(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    tcp::bind_to_way_out(&socket)?;
    send(&socket, (GROUP, target.port).into(), &target.marker)
}

pub(super) fn multicast6(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET6)?;
    let to = SocketAddrV6::new(NEIGHBOURS, target.port, 0, tcp::way_out()?.1);
    send(&socket, to.into(), &target.marker)
}

pub(super) fn broadcast(target: &Target) -> Outcome {
    let socket = socket(libc::AF_INET)?;
    socket.set_broadcast(true).map_err(failed("setsockopt"))?;
    tcp::bind_to_way_out(&socket)?;
    send(
        &socket,
        (Ipv4Addr::BROADCAST, target.port).into(),
        &target.marker,
    )
}

pub(super) fn lite4(target: &Target) -> Outcome {
    lite(libc::AF_INET, target.v4(), &target.marker)
}

pub(super) fn lite6(target: &Target) -> Outcome {
    lite(libc::AF_INET6, target.v6(), &target.marker)
}

fn lite(family: i32, to: SocketAddr, bytes: &[u8]) -> Outcome {
    let socket =
        call::socket(family, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE).map_err(failed("socket"))?;
    send(&socket, to, bytes)
}

pub(super) fn dns4(target: &Target) -> Outcome {
    ask(&socket(libc::AF_INET)?, (target.v4, DNS).into(), target)
}

pub(super) fn dns6(target: &Target) -> Outcome {
    ask(&socket(libc::AF_INET6)?, (target.v6, DNS).into(), target)
}

/// Somebody whom no route but the default one leads to.
pub(super) fn dns_elsewhere(target: &Target) -> Outcome {
    ask(&socket(libc::AF_INET)?, (ELSEWHERE, DNS).into(), target)
}

/// Asks; sees who answered.
fn ask(socket: &Socket, to: SocketAddr, target: &Target) -> Outcome {
    send(socket, to, &question(target))?;
    call::ready(socket, PollFlags::POLLIN).map_err(failed("recv"))?;
    let mut answer = [std::mem::MaybeUninit::uninit(); 512];
    let (_, from) = socket.recv_from(&mut answer).map_err(failed("recv"))?;
    Ok(from.as_socket())
}

/// A question for the address of a name that says which attempt this is.
pub(super) fn question(target: &Target) -> Vec<u8> {
    let marker = &target.marker;
    // Id, recursion desired, one question.
    let mut message = vec![0x51, 0x1c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let length = u8::try_from(marker.len()).map_or(0, |length| length);
    message.push(length);
    message.extend(marker);
    message.extend(b"\x07example\0");
    message.extend([0, 1, 0, 1]);
    message
}

fn socket(family: i32) -> Result<Socket, Failed> {
    call::socket(family, libc::SOCK_DGRAM, 0).map_err(failed("socket"))
}

fn send(socket: &Socket, to: SocketAddr, bytes: &[u8]) -> Outcome {
    socket
        .send_to(bytes, &to.into())
        .map_err(failed("sendto"))?;
    Ok(None)
}

fn connected(mut socket: &Socket, to: SocketAddr, bytes: &[u8]) -> Outcome {
    socket.connect(&to.into()).map_err(failed("connect"))?;
    socket.write_all(bytes).map_err(failed("send"))?;
    Ok(None)
}
