//! The kernel-side rule: one body for the eBPF programs, `explain` and the tests.
//!
//! Everything that no line allows is refused. Observe mode is not decided here: the programs
//! ask for the verdict first and then, in observe mode, record a refusal without carrying it
//! out.

use crate::{
    agent::{AgentConfig, DIRECT_REDIRECT, DNS_GATEWAY, INBOUND_ALLOW, INBOUND_LOOPBACK},
    endpoint::Endpoint,
    packet::{Header, TCP, UDP},
    reason::Reason,
    unix::UNIX_ANY,
    verdict::Verdict,
};

/// `SOCK_STREAM`.
pub const STREAM: u32 = 1;
/// `SOCK_DGRAM`.
pub const DGRAM: u32 = 2;
/// The DNS port.
pub const DNS_PORT: u16 = 53;
/// Interface index of loopback in every network namespace.
pub const LOOPBACK_INTERFACE: u32 = 1;

/// May this socket be made? `protocol` is what the kernel resolved it to.
#[inline(always)]
pub const fn socket(config: &AgentConfig, kind: u32, protocol: u32) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    match (kind, protocol) {
        (STREAM, 6) | (DGRAM, 17) => Verdict::Pass(Reason::SocketAllowed),
        (0..=u32::MAX, 0..=u32::MAX) => Verdict::Refuse(Reason::SocketType),
    }
}

/// Where does this `connect` or datagram go? `declared` says whether policy declares the
/// destination's port as a local one. Of a verdict that names the gateway, the caller checks
/// that the gateway's marked listener is there.
#[inline(always)]
pub const fn connect(
    config: &AgentConfig,
    protocol: u8,
    destination: &Endpoint,
    declared: bool,
) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    if destination.is_gateway_address() && destination.port == config.gateway_port {
        return match protocol {
            TCP | UDP => Verdict::Pass(Reason::Gateway),
            0..=u8::MAX => Verdict::Refuse(Reason::SocketType),
        };
    }
    let dns = destination.port == DNS_PORT && config.dns == DNS_GATEWAY;
    match protocol {
        TCP if declared && destination.is_gateway_address() => {
            Verdict::Pass(Reason::DeclaredLoopback)
        }
        TCP | UDP if dns => Verdict::Redirect(Reason::DnsRedirected),
        // With DNS off, port 53 is nobody's business but the resolver's, which is off.
        TCP if config.direct == DIRECT_REDIRECT && destination.port != DNS_PORT => {
            Verdict::Redirect(Reason::Redirected)
        }
        TCP => Verdict::Refuse(Reason::DirectConnect),
        UDP => Verdict::Refuse(Reason::Datagram),
        0..=u8::MAX => Verdict::Refuse(Reason::SocketType),
    }
}

/// May this unix socket be reached? `mode` is the agent's [`UNIX_ANY`] or another, `named` whether
/// policy names the socket.
#[inline(always)]
pub const fn unix(config: &AgentConfig, mode: u32, named: bool) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    if mode == UNIX_ANY || named {
        Verdict::Pass(Reason::UnixAllowed)
    } else {
        Verdict::Refuse(Reason::UnixSocket)
    }
}

/// `IPPROTO_IP` and `IPPROTO_IPV6`, as levels of socket options.
const LEVEL_IP: i32 = 0;
const LEVEL_IPV6: i32 = 41;

/// May this socket option be set?
///
/// Only what makes the kernel itself speak is refused here: a report of group membership belongs
/// to no socket, so no packet hook sees it, and it carries an address of the caller's choice.
#[inline(always)]
pub const fn option(config: &AgentConfig, level: i32, name: i32) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    let joins = match level {
        // IP_ADD_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER.
        LEVEL_IP => matches!(name, 35 | 39 | 41) || joins_group(name),
        // IPV6_JOIN_GROUP, IPV6_JOIN_ANYCAST.
        LEVEL_IPV6 => matches!(name, 20 | 27) || joins_group(name),
        i32::MIN..=i32::MAX => false,
    };
    if joins {
        Verdict::Refuse(Reason::GroupMembership)
    } else {
        Verdict::Pass(Reason::SocketAllowed)
    }
}

/// MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER: the same at both levels.
#[inline(always)]
const fn joins_group(name: i32) -> bool {
    matches!(name, 42 | 46 | 48)
}

/// What a packet hook knows besides the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Surroundings {
    /// Index of the interface that the packet leaves or came in by.
    pub interface: u32,
    /// The socket listens, or somebody else opened the connection to it.
    pub passive: bool,
    /// Policy declares the other end's port as a local one.
    pub declared: bool,
}

/// May this packet leave?
#[inline(always)]
pub const fn egress(config: &AgentConfig, header: &Header, around: Surroundings) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    match local_flow(config, header.protocol, &header.destination, around) {
        Some(reason) => Verdict::Pass(reason),
        None if may_answer(config, header, around) => Verdict::Pass(Reason::Inbound),
        None if around.interface != LOOPBACK_INTERFACE => Verdict::Refuse(Reason::Interface),
        None => Verdict::Refuse(Reason::Destination),
    }
}

/// May this packet come in?
#[inline(always)]
pub const fn ingress(config: &AgentConfig, header: &Header, around: Surroundings) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    match local_flow(config, header.protocol, &header.source, around) {
        Some(reason) => Verdict::Pass(reason),
        None if may_answer(config, header, around) => Verdict::Pass(Reason::Inbound),
        None => Verdict::Refuse(Reason::InboundRefused),
    }
}

/// Whether `peer` is the gateway or a declared local port, reached over loopback.
#[inline(always)]
const fn local_flow(
    config: &AgentConfig,
    protocol: u8,
    peer: &Endpoint,
    around: Surroundings,
) -> Option<Reason> {
    if around.interface != LOOPBACK_INTERFACE || !peer.is_gateway_address() {
        return None;
    }
    if peer.port == config.gateway_port {
        return Some(Reason::Gateway);
    }
    if protocol == TCP && around.declared {
        return Some(Reason::DeclaredLoopback);
    }
    None
}

/// Whether policy lets somebody else open this connection to the agent.
#[inline(always)]
const fn may_answer(config: &AgentConfig, header: &Header, around: Surroundings) -> bool {
    if header.protocol != TCP || !around.passive {
        return false;
    }
    match config.inbound {
        INBOUND_ALLOW => true,
        INBOUND_LOOPBACK => around.interface == LOOPBACK_INTERFACE,
        0..=u32::MAX => false,
    }
}
