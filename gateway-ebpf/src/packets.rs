//! Packets: the backstop that reads headers itself and denies whatever no rule names.

use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{bpf_get_socket_cookie, bpf_sk_fullsock},
    programs::SkBuffContext,
};
use gateway_common::{
    agent::{AgentConfig, INBOUND_DENY},
    decide::{self, Surroundings},
    endpoint::Endpoint,
    event::Hook,
    flow::{KIND_OBSERVED, Task},
    packet::{self, Header, UDP, V4_WORDS, V6_WORDS},
    reason::Reason,
    verdict::Verdict,
};

use crate::{
    attribution,
    ctx::{self, PASS, REFUSE},
    emit::{self, Facts},
    gateway,
    maps::{self, FLOWS, INBOUND, OWNERS},
    own,
};

/// `TCP_LISTEN`.
const LISTEN: u32 = 10;
/// Bytes of a plain IPv4 header.
const V4_HEADER: u32 = 20;
/// Bytes of an IPv6 header.
const V6_HEADER: u32 = 40;
/// Where a UDP payload starts behind the UDP header's start, bytes.
const UDP_HEADER: u32 = 8;
/// Where the flags are in a TCP header, bytes.
const TCP_FLAGS: u32 = 13;
/// The flag of a segment that opens a connection.
const SYN: u8 = 0x02;
/// The flag of every segment but the first.
const ACK: u8 = 0x10;

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Out,
    In,
}

/// A packet leaves.
#[inline(always)]
pub(crate) fn leave(ctx: &SkBuffContext) -> i32 {
    judge(ctx, Direction::Out)
}

/// A packet arrives.
#[inline(always)]
pub(crate) fn arrive(ctx: &SkBuffContext) -> i32 {
    judge(ctx, Direction::In)
}

#[inline(always)]
fn judge(ctx: &SkBuffContext, direction: Direction) -> i32 {
    let config = maps::agent();
    let sk = full_socket(ctx);
    let parsed = parse(ctx);
    let refusal = match &parsed {
        Err(reason) => Some(*reason),
        Ok(header) => refusal(ctx, &config, direction, header, sk),
    };
    match refusal {
        None => PASS,
        Some(reason) => {
            let header = parsed.ok();
            refuse(ctx, &config, direction, reason, sk, header.as_ref())
        }
    }
}

/// Why this packet may not go on; none if it may.
#[inline(always)]
fn refusal(
    ctx: &SkBuffContext,
    config: &AgentConfig,
    direction: Direction,
    header: &Header,
    sk: *mut bpf_sock,
) -> Option<Reason> {
    let peer = match direction {
        Direction::Out => &header.destination,
        Direction::In => &header.source,
    };
    let around = Surroundings {
        interface: ctx::interface(ctx),
        passive: passive(config, sk),
        declared: maps::declares(config, peer.port),
    };
    let verdict = match direction {
        Direction::Out => decide::egress(config, header, around),
        Direction::In => decide::ingress(config, header, around),
    };
    match verdict {
        Verdict::Refuse(reason) => {
            (!is_own(ctx, config, direction, header, sk, around.interface)).then_some(reason)
        }
        Verdict::Pass(Reason::Gateway) if direction == Direction::Out => {
            refusal_at_gateway(ctx, config, header, sk)
        }
        Verdict::Pass(Reason::Draining)
            if direction == Direction::Out && opens_connection(ctx, header) =>
        {
            Some(Reason::GatewayDown)
        }
        Verdict::Pass(_) | Verdict::Redirect(_) => None,
    }
}

/// Whether a packet is one of a connection of the agent's with itself.
#[inline(always)]
fn is_own(
    ctx: &SkBuffContext,
    config: &AgentConfig,
    direction: Direction,
    header: &Header,
    sk: *mut bpf_sock,
    interface: u32,
) -> bool {
    if !decide::may_be_own_packet(config, header, interface) {
        return false;
    }
    let opens = opens_connection(ctx, header);
    match direction {
        Direction::Out => own::receives(ctx, header, sk, opens),
        Direction::In => own::sends(ctx, header, sk, opens),
    }
}

/// Why a packet for the gateway may not go on.
///
/// A datagram of a connected socket, and a SYN that was put off, meet no other hook: whoever
/// listens now need not be the gateway that was there when the socket was connected.
#[inline(always)]
fn refusal_at_gateway(
    ctx: &SkBuffContext,
    config: &AgentConfig,
    header: &Header,
    sk: *mut bpf_sock,
) -> Option<Reason> {
    let is_datagram = header.protocol == UDP;
    if (is_datagram || opens_connection(ctx, header))
        && !gateway::listens(ctx, config, &header.destination, header.protocol)
    {
        return Some(Reason::GatewayDown);
    }
    if is_datagram {
        return publish_question(ctx, header, sk);
    }
    None
}

/// Whether a TCP segment is the first of its connection; so is one that cannot be read. Those
/// after it belong to the socket that accepted.
#[inline(always)]
fn opens_connection(ctx: &SkBuffContext, header: &Header) -> bool {
    let flags: Option<u8> = ctx::packet(ctx, transport(header) + TCP_FLAGS);
    flags.is_none_or(|flags| flags & (SYN | ACK) == SYN)
}

/// Where the transport header starts.
#[inline(always)]
fn transport(header: &Header) -> u32 {
    if header.source.is_v4() {
        V4_HEADER
    } else {
        V6_HEADER
    }
}

/// Reads the packet's header.
#[inline(always)]
fn parse(ctx: &SkBuffContext) -> Result<Header, Reason> {
    let malformed = Reason::HeaderMalformed;
    let first: u8 = ctx::packet(ctx, 0).ok_or(malformed)?;
    if packet::version(first)? == 4 {
        let ip: [u32; V4_WORDS] = ctx::packet(ctx, 0).ok_or(malformed)?;
        // A header with options has no ports where we look, and is refused for the options.
        let ports: u32 = ctx::packet(ctx, V4_HEADER).unwrap_or(0);
        packet::parse_v4(&ip, ports)
    } else {
        let ip: [u32; V6_WORDS] = ctx::packet(ctx, 0).ok_or(malformed)?;
        let ports: u32 = ctx::packet(ctx, V6_HEADER).unwrap_or(0);
        packet::parse_v6(&ip, ports)
    }
}

/// The packet's socket if it is a full one, else null.
#[inline(always)]
fn full_socket(ctx: &SkBuffContext) -> *mut bpf_sock {
    let sk = ctx::packet_socket(ctx);
    if sk.is_null() {
        return sk;
    }
    // SAFETY: the helper takes any socket that is not null and answers a full one or null.
    unsafe { bpf_sk_fullsock(sk) }
}

/// Whether the socket listens, or somebody else opened the connection to it.
#[inline(always)]
fn passive(config: &AgentConfig, sk: *mut bpf_sock) -> bool {
    if config.inbound == INBOUND_DENY || sk.is_null() {
        return false;
    }
    ctx::socket_state(sk) == LISTEN || ctx::stored(&INBOUND, sk.cast()).is_some()
}

/// Publishes who asks, so that the gateway can tell whose question a datagram is. Answers why the
/// question may not go on, if it may not.
#[inline(always)]
fn publish_question(ctx: &SkBuffContext, header: &Header, sk: *mut bpf_sock) -> Option<Reason> {
    let id: Option<u16> = ctx::packet(ctx, transport(header) + UDP_HEADER);
    match id {
        // Too short for a question.
        None => Some(Reason::HeaderMalformed),
        Some(_) if sk.is_null() => Some(Reason::Datagram),
        Some(id) => attribution::publish_datagram(header, u16::from_be(id), sk),
    }
}

/// Reports a refusal and carries it out, unless the agent is only observed.
#[inline(always)]
fn refuse(
    ctx: &SkBuffContext,
    config: &AgentConfig,
    direction: Direction,
    reason: Reason,
    sk: *mut bpf_sock,
    header: Option<&Header>,
) -> i32 {
    let (task, observed) = if sk.is_null() {
        (None, false)
    } else {
        (
            ctx::stored(&OWNERS, sk.cast()).copied(),
            ctx::stored(&FLOWS, sk.cast()).is_some_and(|flow| flow.kind == KIND_OBSERVED),
        )
    };
    // In observe mode the call itself has been recorded; its packets are no news.
    if config.observes() && observed {
        return PASS;
    }
    let hook = match direction {
        Direction::Out => Hook::Egress,
        Direction::In => Hook::Ingress,
    };
    let facts = Facts {
        task: task.unwrap_or(Task::NONE),
        source: header.map_or(Endpoint::NONE, |header| header.source),
        destination: header.map_or(Endpoint::NONE, |header| header.destination),
        // SAFETY: the helper takes this hook's context and answers a number.
        cookie: unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) },
        family: 0,
        socket_type: 0,
        protocol: header.map_or(0, |header| u16::from(header.protocol)),
    };
    emit::refusal(ctx, config, hook, reason, &facts);
    if config.observes() { PASS } else { REFUSE }
}
