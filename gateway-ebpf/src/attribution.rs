//! Who is on the line: carries a flow from the agent's socket to the gateway's.
//!
//! connect saved the flow in the agent's socket. When the source port is known and the SYN is
//! not yet sent, it is published under the full tuple; when the gateway's end is established,
//! it moves to that socket's storage and the tuple is gone.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
    },
    helpers::bpf_get_netns_cookie,
    programs::SockOpsContext,
};
use gateway_common::{
    endpoint::Endpoint,
    event::Hook,
    flow::{Flow, KIND_EXPLICIT, KIND_REDIRECTED, Tuple},
    packet::{Header, TCP, UDP},
    reason::Reason,
};

use crate::{
    ctx::{self, Ends},
    emit::{self, Facts},
    maps::{self, ACCEPTED, FLOWS, INBOUND, TUPLES},
    own::INBOUND_ANYBODY,
};

/// `TCP_CLOSE`.
const CLOSE: u32 = 7;
/// What a sock_ops program answers.
const DONE: u32 = 1;

/// A TCP state change of an agent's socket.
#[inline(always)]
pub(crate) fn agent(ctx: &SockOpsContext) -> u32 {
    let op = ctx.op();
    let ends = ctx::ends(ctx);
    if ends.sk.is_null() {
        return DONE;
    }
    if op == BPF_SOCK_OPS_TCP_CONNECT_CB {
        publish_connection(ctx, &ends);
    } else if op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB {
        enter_connection(ctx, &ends);
    } else if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        // Without room the connection is no inbound one, and its packets are refused.
        ctx::store(&INBOUND, ends.sk.cast(), &INBOUND_ANYBODY);
    } else if op == BPF_SOCK_OPS_STATE_CB
        && ends.args[1] == CLOSE
        && let Some(flow) = ctx::stored(&FLOWS, ends.sk.cast())
    {
        // The gateway never accepted it.
        TUPLES
            .remove(tuple(flow, TCP, ends.local, ends.remote, 0))
            .ok();
    }
    DONE
}

/// A TCP state change of a gateway's socket.
#[inline(always)]
pub(crate) fn gateway(ctx: &SockOpsContext) -> u32 {
    if ctx.op() != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return DONE;
    }
    let ends = ctx::ends(ctx);
    if ends.sk.is_null() {
        return DONE;
    }
    let key = Tuple {
        // SAFETY: the helper takes this hook's context and answers a number.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        agent: ends.remote,
        gateway: ends.local,
        token: 0,
        protocol: TCP,
        zero: [0; 5],
    };
    // SAFETY: the tuple is this connection's alone; nobody writes the entry any more.
    if let Some(flow) = unsafe { TUPLES.get(key) } {
        // Without room nobody is on the line, and the daemon closes the connection.
        ctx::store(&ACCEPTED, ends.sk.cast(), flow);
        TUPLES.remove(key).ok();
    }
    DONE
}

/// Publishes the flow of a connection whose SYN is about to be sent.
#[inline(always)]
fn publish_connection(ctx: &SockOpsContext, ends: &Ends) {
    let Some(flow) = ctx::stored(&FLOWS, ends.sk.cast()) else {
        return;
    };
    if flow.kind != KIND_REDIRECTED && flow.kind != KIND_EXPLICIT {
        return;
    }
    let key = tuple(flow, TCP, ends.local, ends.remote, 0);
    if TUPLES.insert(key, flow, 0).is_err() {
        return refuse_connection(ctx, flow, ends, Reason::FlowTableFull);
    }
    // Asks for the callback above, in case the gateway never accepts.
    ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32).ok();
}

/// Enters an established connection into the ledger.
///
/// The gateway's end follows only on the acknowledgement that is yet to be sent. So a connection
/// for which there is no room is taken back: nobody is on the line, and the gateway closes it.
#[inline(always)]
fn enter_connection(ctx: &SockOpsContext, ends: &Ends) {
    let Some(flow) = ctx::stored(&FLOWS, ends.sk.cast()) else {
        return;
    };
    if emit::passage(flow, 0) {
        return;
    }
    TUPLES
        .remove(tuple(flow, TCP, ends.local, ends.remote, 0))
        .ok();
    refuse_connection(ctx, flow, ends, Reason::LedgerFull);
}

/// Reports a connection that the gateway will refuse.
#[inline(always)]
fn refuse_connection(ctx: &SockOpsContext, flow: &Flow, ends: &Ends, reason: Reason) {
    let facts = Facts {
        task: flow.task,
        source: ends.local,
        destination: flow.original,
        cookie: flow.cookie,
        family: 0,
        socket_type: 0,
        protocol: u16::from(TCP),
    };
    let config = maps::agent();
    emit::refusal(ctx, &config, Hook::AgentOps, reason, &facts);
}

/// Publishes the flow of one DNS question and enters it into the ledger. Answers why the question
/// may not go on, if it may not.
#[inline(always)]
pub(crate) fn publish_datagram(header: &Header, token: u16, sk: *mut bpf_sock) -> Option<Reason> {
    let Some(flow) = ctx::stored(&FLOWS, sk.cast()) else {
        return Some(Reason::FlowTableFull);
    };
    let key = tuple(flow, UDP, header.source, header.destination, token);
    if TUPLES.insert(key, flow, 0).is_err() {
        return Some(Reason::FlowTableFull);
    }
    if emit::passage(flow, token) {
        return None;
    }
    TUPLES.remove(key).ok();
    Some(Reason::LedgerFull)
}

#[inline(always)]
fn tuple(flow: &Flow, protocol: u8, agent: Endpoint, gateway: Endpoint, token: u16) -> Tuple {
    Tuple {
        netns: flow.netns,
        agent,
        gateway,
        token,
        protocol,
        zero: [0; 5],
    }
}
