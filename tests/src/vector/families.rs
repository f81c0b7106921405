//! Socket families: all numbers, and those that could carry bytes away.

use nix::sched::{CloneFlags, unshare};

use super::{Attempt, Failed, Outcome, Target, call, failed, tcp};

/// As of kernel 7.0.
const AF_MAX: i32 = 46;
/// One more than the highest family number tried: beyond what any kernel knows.
pub const FAMILIES: i32 = AF_MAX + 8;
/// One more than the highest socket type tried; 7 to 9 are nobody's.
pub const TYPES: i32 = 11;
/// One more than the highest protocol of netlink.
pub const NETLINKS: i32 = 32;
/// An Ethernet type for experiments (IEEE 802).
const EXPERIMENT: u16 = 0x88b5;

/// Makes a socket of every family and type, with protocol 0, and of every netlink protocol;
/// prints what came of each as `family/F/T/P`.
pub(super) fn sweep(_: &Target) -> Outcome {
    let plain = (0..FAMILIES).flat_map(|family| (1..TYPES).map(move |kind| (family, kind, 0)));
    let netlink = (1..NETLINKS).map(|protocol| (libc::AF_NETLINK, libc::SOCK_RAW, protocol));
    for (family, kind, protocol) in plain.chain(netlink) {
        let outcome = call::socket(family, kind, protocol)
            .map(|_| None)
            .map_err(failed("socket"));
        let name = format!("family/{family}/{kind}/{protocol}");
        Attempt::of(&name, outcome)
            .print()
            .map_err(failed("print"))?;
    }
    Ok(None)
}

/// A whole frame, past everything above the link.
pub(super) fn packet_raw(target: &Target) -> Outcome {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x99]);
    frame.extend(EXPERIMENT.to_be_bytes());
    frame.extend(&target.marker);
    packet(libc::SOCK_RAW, &frame)
}

/// The kernel makes the frame's header.
pub(super) fn packet_datagram(target: &Target) -> Outcome {
    packet(libc::SOCK_DGRAM, &target.marker)
}

fn packet(kind: i32, bytes: &[u8]) -> Outcome {
    let socket = call::socket(libc::AF_PACKET, kind, 0).map_err(failed("socket"))?;
    let (_, index) = tcp::way_out()?;
    call::send_frame(&socket, index, EXPERIMENT, bytes).map_err(failed("sendto"))?;
    Ok(None)
}

/// Who may not make one here makes a namespace in which he may.
pub(super) fn packet_by_namespace(_: &Target) -> Outcome {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed("unshare")(error.into()))?;
    open(libc::AF_PACKET, libc::SOCK_RAW)
}

pub(super) fn xdp(_: &Target) -> Outcome {
    open(libc::AF_XDP, libc::SOCK_RAW)
}

pub(super) fn vsock(_: &Target) -> Outcome {
    open(libc::AF_VSOCK, libc::SOCK_STREAM)
}

pub(super) fn pppox(_: &Target) -> Outcome {
    open(libc::AF_PPPOX, libc::SOCK_STREAM)
}

pub(super) fn rds(_: &Target) -> Outcome {
    open(libc::AF_RDS, libc::SOCK_SEQPACKET)
}

pub(super) fn tipc(_: &Target) -> Outcome {
    open(libc::AF_TIPC, libc::SOCK_RDM)
}

pub(super) fn key(_: &Target) -> Outcome {
    let socket = call::socket(libc::AF_KEY, libc::SOCK_RAW, 2);
    socket.map(|_| None).map_err(failed("socket"))
}

pub(super) fn alg(_: &Target) -> Outcome {
    open(libc::AF_ALG, libc::SOCK_SEQPACKET)
}

pub(super) fn bluetooth(_: &Target) -> Outcome {
    open(libc::AF_BLUETOOTH, libc::SOCK_RAW)
}

pub(super) fn can(_: &Target) -> Outcome {
    let socket = call::socket(libc::AF_CAN, libc::SOCK_RAW, 1);
    socket.map(|_| None).map_err(failed("socket"))
}

/// Netlink beyond routes: watches what other sockets do.
pub(super) fn netlink_diag(_: &Target) -> Outcome {
    let socket = call::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG);
    socket.map(|_| None).map_err(failed("socket"))
}

fn open(family: i32, kind: i32) -> Outcome {
    let socket = call::socket(family, kind, 0);
    socket.map(|_| None).map_err(failed("socket"))
}

/// The 32-bit gate of a 64-bit kernel, for filters that only look at numbers.
pub(super) fn gate_udp(target: &Target) -> Outcome {
    let socket = gate_socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    call::gate::send_to(
        socket,
        &call::inet_address(target.v4, target.port),
        &target.marker,
    )
    .map_err(failed("sendto"))?;
    Ok(None)
}

pub(super) fn gate_packet(target: &Target) -> Outcome {
    let (_, index) = tcp::way_out()?;
    let socket = gate_socket(libc::AF_PACKET, libc::SOCK_DGRAM)?;
    call::gate::send_to(
        socket,
        &call::link_address(index, EXPERIMENT),
        &target.marker,
    )
    .map_err(failed("sendto"))?;
    Ok(None)
}

fn gate_socket(family: i32, kind: i32) -> Result<i32, Failed> {
    call::gate::socket(family, kind).map_err(failed("socket"))
}

/// The other numbering of a 64-bit kernel, where it has one.
pub(super) fn x32(target: &Target) -> Outcome {
    let socket = call::x32_socket(libc::AF_INET, libc::SOCK_DGRAM).map_err(failed("socket"))?;
    socket
        .send_to(&target.marker, &target.v4().into())
        .map_err(failed("sendto"))?;
    Ok(None)
}
