//! `connect(2)` and `sendmsg(2)`: decide, send to the gateway, remember the flow.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::SockAddrContext,
};
use gateway_common::{
    agent::AgentConfig,
    decide,
    endpoint::Endpoint,
    event::Hook,
    flow::{Flow, KIND_EXPLICIT, KIND_LOCAL, KIND_OBSERVED, KIND_REDIRECTED},
    reason::Reason,
    verdict::{Verdict, errno},
};

use crate::{
    ctx::{self, Call, PASS},
    emit::{self, Facts},
    gateway,
    maps::{self, FLOWS},
};

/// Decides where a call that names a destination goes. `V6` is whether the hook is an IPv6 one.
#[inline(always)]
pub(crate) fn direct<const V6: bool>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let config = maps::agent();
    let call = ctx::call::<V6>(ctx);
    match verdict(ctx, &config, &call) {
        Verdict::Pass(Reason::Gateway) => remember(ctx, &config, &call, KIND_EXPLICIT, hook),
        Verdict::Pass(_) => remember(ctx, &config, &call, KIND_LOCAL, hook),
        Verdict::Redirect(_) => {
            let answer = remember(ctx, &config, &call, KIND_REDIRECTED, hook);
            if answer == PASS {
                let gateway =
                    Endpoint::new(call.endpoint.loopback_of_same_family(), config.gateway_port);
                ctx::rewrite::<V6>(ctx, &gateway);
            }
            answer
        }
        Verdict::Refuse(reason) => refuse(ctx, &config, &call, reason, hook),
    }
}

/// The rule's verdict, withdrawn where it leads to the gateway and the gateway is not there.
#[inline(always)]
fn verdict(ctx: &SockAddrContext, config: &AgentConfig, call: &Call) -> Verdict {
    let declared = maps::declares(config, call.endpoint.port);
    let verdict = decide::connect(config, call.protocol, &call.endpoint, declared);
    match verdict {
        Verdict::Pass(Reason::Gateway) | Verdict::Redirect(_) => {
            if gateway::listens(ctx, config, call) {
                verdict
            } else {
                Verdict::Refuse(Reason::GatewayDown)
            }
        }
        Verdict::Pass(_) | Verdict::Refuse(_) => verdict,
    }
}

/// Writes the flow into the socket's storage. Without it nobody could say later who is on the
/// line, so no room means no connection.
#[inline(always)]
fn remember(ctx: &SockAddrContext, config: &AgentConfig, call: &Call, kind: u8, hook: Hook) -> i32 {
    if ctx::store(&FLOWS, call.sk, &flow(ctx, config, call, kind)) {
        PASS
    } else {
        refuse(ctx, config, call, Reason::FlowTableFull, hook)
    }
}

/// Reports a refusal and carries it out, unless the agent is only observed.
#[inline(always)]
fn refuse(
    ctx: &SockAddrContext,
    config: &AgentConfig,
    call: &Call,
    reason: Reason,
    hook: Hook,
) -> i32 {
    let flow = flow(ctx, config, call, KIND_OBSERVED);
    let facts = Facts {
        task: flow.task,
        source: Endpoint::NONE,
        destination: flow.original,
        cookie: flow.cookie,
        family: call.family,
        socket_type: call.kind,
        protocol: u16::from(call.protocol),
    };
    emit::refusal(ctx, config, hook, reason, &facts);
    if config.observes() {
        // Without room the packets of this socket are recorded once more.
        ctx::store(&FLOWS, call.sk, &flow);
        return PASS;
    }
    ctx::refuse_with(errno(reason))
}

/// What is remembered of a call.
#[inline(always)]
fn flow(ctx: &SockAddrContext, config: &AgentConfig, call: &Call, kind: u8) -> Flow {
    Flow {
        time_ns: emit::now(),
        // SAFETY: both helpers take this hook's context and answer a number.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        // SAFETY: as above.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        task: ctx::current_task(),
        original: call.endpoint,
        agent: config.agent,
        kind,
        protocol: call.protocol,
        zero: [0; 6],
    }
}
