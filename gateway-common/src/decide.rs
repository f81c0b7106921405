//! The kernel-side rule: one body for the eBPF programs, `explain` and the tests.
//!
//! Everything that no line allows is refused. Observe mode is not decided here: the programs
//! ask for the verdict first and then, in observe mode, record a refusal without carrying it
//! out.

use crate::{
    agent::{
        AgentConfig, DEVICE_CHARACTER, DIRECT_REDIRECT, DNS_GATEWAY, Device, FEATURE_OWN_LOOPBACK,
        INBOUND_ALLOW, INBOUND_LOOPBACK,
    },
    endpoint::Endpoint,
    packet::{Header, TCP, UDP},
    reason::Reason,
    unix::{UNIX_ANY, UNIX_OWN},
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
    if mode == UNIX_ANY || mode == UNIX_OWN || named {
        Verdict::Pass(Reason::UnixAllowed)
    } else {
        Verdict::Refuse(Reason::UnixSocket)
    }
}

/// Could a connection from here lead to a listener of the agent's own, over loopback? Of one that
/// could, the caller looks at the listener.
#[inline(always)]
pub const fn may_be_own(config: &AgentConfig, protocol: u8, destination: &Endpoint) -> bool {
    config.is_configured()
        && config.has(FEATURE_OWN_LOOPBACK)
        && protocol == TCP
        && (destination.is_gateway_address() || destination.is_any())
        && destination.port != config.gateway_port
}

/// Could a packet be one of a connection of the agent's with itself, over loopback? Of one that
/// could, the caller looks at the sockets.
#[inline(always)]
pub const fn may_be_own_packet(config: &AgentConfig, header: &Header, interface: u32) -> bool {
    config.is_configured()
        && config.has(FEATURE_OWN_LOOPBACK)
        && interface == LOOPBACK_INTERFACE
        && header.protocol == TCP
        && header.source.is_gateway_address()
        && header.destination.is_gateway_address()
}

/// May a socket be bound to this address? Others than loopback and the wildcard say who is to come,
/// and nobody may, unless policy lets them in.
#[inline(always)]
pub const fn bind(config: &AgentConfig, address: &Endpoint) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    if address.is_loopback_or_any() || config.inbound == INBOUND_ALLOW {
        Verdict::Pass(Reason::BindAllowed)
    } else {
        Verdict::Refuse(Reason::BindAddress)
    }
}

/// May this device be opened, or a node for it made? `named` says whether policy names it.
#[inline(always)]
pub const fn device(config: &AgentConfig, device: &Device, named: bool) -> Verdict {
    if !config.is_configured() {
        return Verdict::Refuse(Reason::NotConfigured);
    }
    let everybodys = match (device.kind, device.major, device.minor) {
        // null, zero, full, random, urandom; tty and ptmx.
        (DEVICE_CHARACTER, 1, 3 | 5 | 7 | 8 | 9) | (DEVICE_CHARACTER, 5, 0 | 2) => true,
        // Pseudo terminals.
        (DEVICE_CHARACTER, 136..=143, _) => true,
        (0..=u32::MAX, 0..=u32::MAX, 0..=u32::MAX) => false,
    };
    if everybodys || named {
        Verdict::Pass(Reason::DeviceAllowed)
    } else {
        Verdict::Refuse(Reason::Device)
    }
}

/// `SOL_SOCKET`, `IPPROTO_IP`, `IPPROTO_TCP` and `IPPROTO_IPV6`, as levels of socket options.
const LEVEL_SOCKET: i32 = 1;
const LEVEL_IP: i32 = 0;
const LEVEL_TCP: i32 = 6;
const LEVEL_IPV6: i32 = 41;

/// May this socket option be set?
///
/// Two kinds are refused. What makes the kernel itself speak: a report of group membership belongs
/// to no socket, so no packet hook sees it, and it carries an address of the caller's choice. And
/// what steers packets past the gateway: the packet hooks would stop those as well, but a program
/// that is told so by `setsockopt` need not wait for a time-out.
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
    } else if steers(level, name) {
        Verdict::Refuse(Reason::SocketOption)
    } else {
        Verdict::Pass(Reason::SocketAllowed)
    }
}

/// MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER: the same at both levels.
#[inline(always)]
const fn joins_group(name: i32) -> bool {
    matches!(name, 42 | 46 | 48)
}

/// Whether an option changes where packets go, by which way, or what they seem to come from.
#[inline(always)]
const fn steers(level: i32, name: i32) -> bool {
    match level {
        // SO_BINDTODEVICE, SO_MARK, SO_BINDTOIFINDEX.
        LEVEL_SOCKET => matches!(name, 25 | 36 | 62),
        // IP_HDRINCL, IP_OPTIONS, IP_FREEBIND, IP_IPSEC_POLICY, IP_XFRM_POLICY, IP_TRANSPARENT,
        // IP_MULTICAST_IF, IP_UNICAST_IF.
        LEVEL_IP => matches!(name, 3 | 4 | 15 | 16 | 17 | 19 | 32 | 50),
        // TCP_REPAIR, which makes a connection without asking for it.
        LEVEL_TCP => name == 19,
        // IPV6_2292HOPOPTS, IPV6_2292DSTOPTS, IPV6_2292RTHDR, IPV6_2292PKTOPTIONS, IPV6_NEXTHOP,
        // IPV6_MULTICAST_IF, IPV6_IPSEC_POLICY, IPV6_XFRM_POLICY, IPV6_HDRINCL, IPV6_PKTINFO,
        // IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS, IPV6_TRANSPARENT,
        // IPV6_UNICAST_IF, IPV6_FREEBIND.
        LEVEL_IPV6 => matches!(
            name,
            3 | 4 | 5 | 6 | 9 | 17 | 34 | 35 | 36 | 50 | 54 | 55 | 57 | 59 | 75 | 76 | 78
        ),
        i32::MIN..=i32::MAX => false,
    }
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
    if protocol == TCP && is_draining(config, peer) {
        return Some(Reason::Draining);
    }
    None
}

/// Whether an endpoint is the gateway that this one took over from. Its connections go on to
/// their end, and a new one goes to the gateway that is there now.
#[inline(always)]
#[must_use]
pub const fn is_draining(config: &AgentConfig, endpoint: &Endpoint) -> bool {
    config.draining_port != 0
        && endpoint.port == config.draining_port
        && endpoint.is_gateway_address()
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
