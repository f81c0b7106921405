//! Protocols beside TCP and UDP.

use std::net::SocketAddr;

use super::{Outcome, Target, call, failed};

/// `SOCK_DCCP`.
const SOCK_DCCP: i32 = 6;
/// A protocol number for experiments (RFC 3692).
const EXPERIMENT: u8 = 253;

pub(super) fn sctp(target: &Target) -> Outcome {
    stream(libc::SOCK_STREAM, libc::IPPROTO_SCTP, target)
}

pub(super) fn dccp(target: &Target) -> Outcome {
    stream(SOCK_DCCP, libc::IPPROTO_DCCP, target)
}

fn stream(kind: i32, protocol: i32, target: &Target) -> Outcome {
    let socket = call::socket(libc::AF_INET, kind, protocol).map_err(failed("socket"))?;
    socket
        .connect_timeout(&target.v4().into(), super::patience())
        .map_err(failed("connect"))?;
    Ok(None)
}

/// An echo request by the unprivileged kind of socket.
pub(super) fn ping4(target: &Target) -> Outcome {
    let message = echo(8, &target.marker);
    let to = (target.v4, 0).into();
    send(
        libc::AF_INET,
        libc::SOCK_DGRAM,
        libc::IPPROTO_ICMP,
        to,
        &message,
    )
}

pub(super) fn ping6(target: &Target) -> Outcome {
    let message = echo(128, &target.marker);
    let to = (target.v6, 0).into();
    send(
        libc::AF_INET6,
        libc::SOCK_DGRAM,
        libc::IPPROTO_ICMPV6,
        to,
        &message,
    )
}

pub(super) fn raw4(target: &Target) -> Outcome {
    let to = (target.v4, 0).into();
    send(
        libc::AF_INET,
        libc::SOCK_RAW,
        EXPERIMENT.into(),
        to,
        &target.marker,
    )
}

pub(super) fn raw6(target: &Target) -> Outcome {
    let to = (target.v6, 0).into();
    send(
        libc::AF_INET6,
        libc::SOCK_RAW,
        EXPERIMENT.into(),
        to,
        &target.marker,
    )
}

/// The header is the sender's own; the kernel fills in source, length and checksum.
pub(super) fn raw_header(target: &Target) -> Outcome {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, EXPERIMENT, 0, 0, 0, 0, 0, 0];
    packet.extend(target.v4.octets());
    packet.extend(&target.marker);
    let to = (target.v4, 0).into();
    send(
        libc::AF_INET,
        libc::SOCK_RAW,
        libc::IPPROTO_RAW,
        to,
        &packet,
    )
}

fn send(family: i32, kind: i32, protocol: i32, to: SocketAddr, bytes: &[u8]) -> Outcome {
    let socket = call::socket(family, kind, protocol).map_err(failed("socket"))?;
    socket
        .send_to(bytes, &to.into())
        .map_err(failed("sendto"))?;
    Ok(None)
}

/// An echo request; ping sockets fill in identifier and checksum.
fn echo(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    message.extend(payload);
    message
}
