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
    flow::{Flow, KIND_EXPLICIT, KIND_LOCAL, KIND_OBSERVED, KIND_OWN, KIND_REDIRECTED},
    reason::Reason,
    verdict::{Verdict, errno},
};

use crate::{
    ctx::{self, Call, PASS},
    emit::{self, Facts},
    gateway,
    maps::{self, FLOWS, NAMESPACES},
    own,
};

/// Decides where a call that names a destination goes. `V6` is whether the hook is an IPv6 one.
#[inline(always)]
pub(crate) fn direct<const V6: bool>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let config = maps::agent();
    let mut call = ctx::call::<V6>(ctx);
    let moved = decide::is_draining(&config, &call.endpoint);
    if moved {
        call.endpoint.port = config.gateway_port;
    }
    let verdict = verdict(ctx, &config, &call);
    let kind = match verdict {
        Verdict::Pass(Reason::Gateway) => KIND_EXPLICIT,
        Verdict::Pass(Reason::OwnLoopback) => KIND_OWN,
        Verdict::Pass(_) => KIND_LOCAL,
        Verdict::Redirect(_) => KIND_REDIRECTED,
        Verdict::Refuse(_) => KIND_OBSERVED,
    };
    let flow = flow(ctx, &config, &call, kind);
    let refusal = match verdict {
        Verdict::Refuse(reason) => {
            if config.observes() {
                // Without room the packets of this socket are recorded once more.
                ctx::store(&FLOWS, call.sk, &flow);
            }
            Some(reason)
        }
        // Without the flow nobody could say later who is on the line.
        Verdict::Pass(_) | Verdict::Redirect(_) => {
            (!ctx::store(&FLOWS, call.sk, &flow)).then_some(Reason::FlowTableFull)
        }
    };
    if let Some(reason) = refusal {
        let facts = Facts {
            task: flow.task,
            source: Endpoint::NONE,
            destination: flow.original,
            cookie: flow.cookie,
            family: call.family,
            socket_type: call.kind,
            protocol: u16::from(call.protocol),
        };
        emit::refusal(ctx, &config, hook, reason, &facts);
        if !config.observes() {
            return ctx::refuse_with(errno(reason));
        }
    } else if kind == KIND_REDIRECTED || moved {
        let gateway = Endpoint::new(call.endpoint.loopback_of_same_family(), config.gateway_port);
        ctx::rewrite::<V6>(ctx, &gateway);
    }
    PASS
}

/// The rule's verdict, withdrawn where it leads to the gateway and the gateway is not there.
#[inline(always)]
fn verdict(ctx: &SockAddrContext, config: &AgentConfig, call: &Call) -> Verdict {
    if decide::may_be_own(config, call.protocol, &call.endpoint)
        && own::listens(ctx, &call.endpoint)
    {
        return Verdict::Pass(Reason::OwnLoopback);
    }
    let declared = maps::declares(config, call.endpoint.port);
    let verdict = decide::connect(config, call.protocol, &call.endpoint, declared);
    match verdict {
        Verdict::Pass(Reason::Gateway) | Verdict::Redirect(_) => {
            if gateway::listens(ctx, config, &call.endpoint, call.protocol) {
                verdict
            } else {
                Verdict::Refuse(without_gateway(ctx))
            }
        }
        Verdict::Pass(_) | Verdict::Refuse(_) => verdict,
    }
}

/// Why there is no gateway for this call.
#[inline(always)]
fn without_gateway(ctx: &SockAddrContext) -> Reason {
    // SAFETY: the helper takes this hook's context and answers a number.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: nobody reads through the pointer.
    if unsafe { NAMESPACES.get(namespace) }.is_some() {
        Reason::GatewayDown
    } else {
        Reason::UnknownNamespace
    }
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
