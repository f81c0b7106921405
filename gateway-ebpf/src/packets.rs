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
    packet::{self, Header, UDP, V4_HEADER, V6_HEADER},
    reason::Reason,
    verdict::Verdict,
};

use crate::{
    attribution,
    ctx::{self, PASS, REFUSE},
    emit::{self, Facts},
    maps::{self, FLOWS, INBOUND, OWNERS},
};

/// `TCP_LISTEN`.
const LISTEN: u32 = 10;
/// Where a UDP payload starts behind the IP header, bytes.
const UDP_HEADER: u32 = 8;

/// A header, and where its payload's protocol header starts.
struct Parsed {
    header: Header,
    transport: u32,
}

/// A packet leaves.
#[inline(always)]
pub(crate) fn leave(ctx: &SkBuffContext) -> i32 {
    let config = maps::agent();
    let sk = full_socket(ctx);
    let parsed = match parse(ctx) {
        Ok(parsed) => parsed,
        Err(reason) => return refuse(ctx, &config, Hook::Egress, reason, sk, None),
    };
    let around = Surroundings {
        interface: ctx::interface(ctx),
        passive: passive(&config, sk),
        declared: maps::declares(&config, parsed.header.destination.port),
    };
    match decide::egress(&config, &parsed.header, around) {
        Verdict::Pass(Reason::Gateway) if parsed.header.protocol == UDP => {
            publish_question(ctx, &config, &parsed, sk)
        }
        Verdict::Pass(_) | Verdict::Redirect(_) => PASS,
        Verdict::Refuse(reason) => {
            refuse(ctx, &config, Hook::Egress, reason, sk, Some(&parsed.header))
        }
    }
}

/// A packet arrives.
#[inline(always)]
pub(crate) fn arrive(ctx: &SkBuffContext) -> i32 {
    let config = maps::agent();
    let sk = full_socket(ctx);
    let header = match parse(ctx) {
        Ok(parsed) => parsed.header,
        Err(reason) => return refuse(ctx, &config, Hook::Ingress, reason, sk, None),
    };
    let around = Surroundings {
        interface: ctx::interface(ctx),
        passive: passive(&config, sk),
        declared: maps::declares(&config, header.source.port),
    };
    match decide::ingress(&config, &header, around) {
        Verdict::Pass(_) | Verdict::Redirect(_) => PASS,
        Verdict::Refuse(reason) => refuse(ctx, &config, Hook::Ingress, reason, sk, Some(&header)),
    }
}

/// Reads the packet's header.
#[inline(always)]
fn parse(ctx: &SkBuffContext) -> Result<Parsed, Reason> {
    let malformed = Reason::HeaderMalformed;
    let [first] = ctx::packet_bytes::<1>(ctx, 0).ok_or(malformed)?;
    if packet::version(first)? == 4 {
        let ip = ctx::packet_bytes::<V4_HEADER>(ctx, 0).ok_or(malformed)?;
        // Ports before options: a header with options has none where we look, and is refused.
        let ports = ctx::packet_bytes::<4>(ctx, V4_HEADER as u32).unwrap_or([0; 4]);
        Ok(Parsed {
            header: packet::parse_v4(&ip, &ports)?,
            transport: V4_HEADER as u32,
        })
    } else {
        let ip = ctx::packet_bytes::<V6_HEADER>(ctx, 0).ok_or(malformed)?;
        let ports = ctx::packet_bytes::<4>(ctx, V6_HEADER as u32).unwrap_or([0; 4]);
        Ok(Parsed {
            header: packet::parse_v6(&ip, &ports)?,
            transport: V6_HEADER as u32,
        })
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

/// Publishes who asks, so that the gateway can tell whose question a datagram is.
#[inline(always)]
fn publish_question(
    ctx: &SkBuffContext,
    config: &AgentConfig,
    parsed: &Parsed,
    sk: *mut bpf_sock,
) -> i32 {
    let header = &parsed.header;
    let id = ctx::packet_bytes::<2>(ctx, parsed.transport + UDP_HEADER);
    let published = match id {
        Some(id) if !sk.is_null() => attribution::publish_datagram(header, id, sk),
        Some(_) | None => false,
    };
    if published {
        PASS
    } else {
        refuse(
            ctx,
            config,
            Hook::Egress,
            Reason::FlowTableFull,
            sk,
            Some(header),
        )
    }
}

/// Reports a refusal and carries it out, unless the agent is only observed.
#[inline(always)]
fn refuse(
    ctx: &SkBuffContext,
    config: &AgentConfig,
    hook: Hook,
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
