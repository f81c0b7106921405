//! The call names what may be reached, and the packet goes elsewhere: by source routing, or out
//! of an interface where somebody else has that address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::Socket;

use super::{Failed, Outcome, Target, call, failed, tcp};

/// `IPV6_RTHDR`.
const RTHDR: i32 = 57;

pub(super) fn header_tcp(target: &Target) -> Outcome {
    let socket = routed6(libc::SOCK_STREAM, target)?;
    tcp::exchange(&socket, passable6(target), &target.marker)
}

pub(super) fn header_udp(target: &Target) -> Outcome {
    let socket = routed6(libc::SOCK_DGRAM, target)?;
    send(&socket, passable6(target), target, None)
}

pub(super) fn header_cmsg(target: &Target) -> Outcome {
    let socket = bound6(libc::SOCK_DGRAM, target)?;
    let header = mobility_header(target.v6);
    let control = (libc::IPPROTO_IPV6, RTHDR, header.as_slice());
    send(&socket, passable6(target), target, Some(control))
}

pub(super) fn option_tcp(target: &Target) -> Outcome {
    let socket = routed4(libc::SOCK_STREAM, target)?;
    tcp::exchange(&socket, passable4(target), &target.marker)
}

pub(super) fn option_udp(target: &Target) -> Outcome {
    let socket = routed4(libc::SOCK_DGRAM, target)?;
    send(&socket, passable4(target), target, None)
}

pub(super) fn option_cmsg(target: &Target) -> Outcome {
    let socket = bound4(libc::SOCK_DGRAM, target)?;
    let option = source_route(target.v4);
    let control = (libc::IPPROTO_IP, libc::IP_RETOPTS, option.as_slice());
    send(&socket, passable4(target), target, Some(control))
}

pub(super) fn device_udp(target: &Target) -> Outcome {
    let socket = bound4(libc::SOCK_DGRAM, target)?;
    tcp::bind_to_way_out(&socket)?;
    send(&socket, passable4(target), target, None)
}

pub(super) fn interface_udp4(target: &Target) -> Outcome {
    let socket = bound4(libc::SOCK_DGRAM, target)?;
    choose(&socket, libc::IPPROTO_IP, libc::IP_UNICAST_IF)?;
    send(&socket, passable4(target), target, None)
}

pub(super) fn interface_udp6(target: &Target) -> Outcome {
    let socket = bound6(libc::SOCK_DGRAM, target)?;
    choose(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF)?;
    send(&socket, passable6(target), target, None)
}

/// The interface for what leaves, which the kernel takes in network order.
fn choose(socket: &Socket, level: i32, name: i32) -> Result<(), Failed> {
    let index = tcp::way_out()?.1.to_be_bytes();
    call::set_option(socket, level, name, &index).map_err(failed("setsockopt"))
}

pub(super) fn info_cmsg4(target: &Target) -> Outcome {
    let socket = bound4(libc::SOCK_DGRAM, target)?;
    // struct in_pktinfo: index, local address, destination.
    let mut info = tcp::way_out()?.1.to_ne_bytes().to_vec();
    info.extend([0; 8]);
    let control = (libc::IPPROTO_IP, libc::IP_PKTINFO, info.as_slice());
    send(&socket, passable4(target), target, Some(control))
}

pub(super) fn info_cmsg6(target: &Target) -> Outcome {
    let socket = bound6(libc::SOCK_DGRAM, target)?;
    // struct in6_pktinfo: source, index.
    let mut info = vec![0; 16];
    info.extend(tcp::way_out()?.1.to_ne_bytes());
    let control = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info.as_slice());
    send(&socket, passable6(target), target, Some(control))
}

fn passable4(target: &Target) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, target.passable()).into()
}

fn passable6(target: &Target) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, target.passable()).into()
}

fn send(
    socket: &Socket,
    to: SocketAddr,
    target: &Target,
    control: Option<(i32, i32, &[u8])>,
) -> Outcome {
    call::send_message(socket, to, &target.marker, control).map_err(failed("sendmsg"))?;
    Ok(None)
}

fn routed6(kind: i32, target: &Target) -> Result<Socket, Failed> {
    let socket = bound6(kind, target)?;
    call::set_option(
        &socket,
        libc::IPPROTO_IPV6,
        RTHDR,
        &routing_header(target.v6),
    )
    .map_err(failed("setsockopt"))?;
    Ok(socket)
}

fn routed4(kind: i32, target: &Target) -> Result<Socket, Failed> {
    let socket = bound4(kind, target)?;
    call::set_option(
        &socket,
        libc::IPPROTO_IP,
        libc::IP_OPTIONS,
        &source_route(target.v4),
    )
    .map_err(failed("setsockopt"))?;
    Ok(socket)
}

/// The destination's port is the gateway's, so the source's is what tells attempts apart.
fn bound6(kind: i32, target: &Target) -> Result<Socket, Failed> {
    bound(
        libc::AF_INET6,
        kind,
        (Ipv6Addr::UNSPECIFIED, target.port).into(),
    )
}

fn bound4(kind: i32, target: &Target) -> Result<Socket, Failed> {
    bound(
        libc::AF_INET,
        kind,
        (Ipv4Addr::UNSPECIFIED, target.port).into(),
    )
}

fn bound(family: i32, kind: i32, from: SocketAddr) -> Result<Socket, Failed> {
    let socket = call::socket(family, kind, 0).map_err(failed("socket"))?;
    socket.bind(&from.into()).map_err(failed("bind"))?;
    Ok(socket)
}

/// A segment routing header (RFC 8754) with one stop. The kernel puts the destination into the
/// first place of the list and sends to the stop.
fn routing_header(stop: Ipv6Addr) -> Vec<u8> {
    let (length, kind, left, last) = (4, 4, 1, 1);
    let mut header = vec![0, length, kind, left, last, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(stop.octets());
    header
}

/// A routing header of mobile IPv6 (RFC 6275), the one kind that a control message may carry.
fn mobility_header(stop: Ipv6Addr) -> Vec<u8> {
    let (length, kind, left) = (2, 2, 1);
    let mut header = vec![0, length, kind, left, 0, 0, 0, 0];
    header.extend(stop.octets());
    header
}

/// Loose source and record route (RFC 791) with one stop. The kernel appends the destination.
fn source_route(stop: Ipv4Addr) -> Vec<u8> {
    let (no_operation, kind, length, pointer) = (1, 131, 7, 4);
    let mut option = vec![no_operation, kind, length, pointer];
    option.extend(stop.octets());
    option
}
