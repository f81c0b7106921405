//! `socket(2)`: TCP and UDP, nothing else. `bind(2)`: no address that others could reach.
//! `setsockopt(2)`: nothing that makes the kernel itself speak or steers packets past the gateway.

use aya_ebpf::programs::{SockAddrContext, SockContext, SockoptContext};
use gateway_common::{
    decide,
    endpoint::Endpoint,
    event::Hook,
    verdict::{Verdict, errno},
};

use crate::{
    ctx::{self, PASS},
    emit::{self, Facts},
    maps::{self, OWNERS},
};

/// Decides about a new socket and remembers who made it.
#[inline(always)]
pub(crate) fn create(ctx: &SockContext) -> i32 {
    let config = maps::agent();
    let (family, kind, protocol) = ctx::new_socket(ctx.sock);
    let task = ctx::current_task();
    match decide::socket(&config, kind, protocol) {
        // Without room for the owner, packet events name nobody; the boundary holds all the same.
        Verdict::Pass(_) | Verdict::Redirect(_) => {
            ctx::store(&OWNERS, ctx.sock.cast(), &task);
            PASS
        }
        Verdict::Refuse(reason) => {
            let facts = Facts {
                task,
                source: Endpoint::NONE,
                destination: Endpoint::NONE,
                cookie: 0,
                family: family as u16,
                socket_type: kind as u16,
                protocol: protocol as u16,
            };
            emit::refusal(ctx, &config, Hook::SockCreate, reason, &facts);
            if config.observes() {
                PASS
            } else {
                ctx::refuse_with(errno(reason))
            }
        }
    }
}

/// Decides about an address that a socket is to have.
#[inline(always)]
pub(crate) fn bind<const V6: bool>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let config = maps::agent();
    let call = ctx::call::<V6>(ctx);
    match decide::bind(&config, &call.endpoint) {
        Verdict::Pass(_) | Verdict::Redirect(_) => PASS,
        Verdict::Refuse(reason) => {
            let facts = Facts {
                destination: call.endpoint,
                family: call.family,
                socket_type: call.kind,
                protocol: u16::from(call.protocol),
                ..Facts::of(ctx::current_task())
            };
            emit::refusal(ctx, &config, hook, reason, &facts);
            if config.observes() {
                PASS
            } else {
                ctx::refuse_with(errno(reason))
            }
        }
    }
}

/// Decides about a socket option. Its value is not looked at.
#[inline(always)]
pub(crate) fn set_option(ctx: &SockoptContext) -> i32 {
    let config = maps::agent();
    let (level, name) = ctx::option(ctx);
    match decide::option(&config, level, name) {
        Verdict::Pass(_) | Verdict::Redirect(_) => {
            ctx::leave_value(ctx);
            PASS
        }
        Verdict::Refuse(reason) => {
            let facts = Facts {
                // Which option it was.
                family: level as u16,
                protocol: name as u16,
                ..Facts::of(ctx::current_task())
            };
            emit::refusal(ctx, &config, Hook::Setsockopt, reason, &facts);
            if config.observes() {
                ctx::leave_value(ctx);
                PASS
            } else {
                ctx::refuse_with(errno(reason))
            }
        }
    }
}
