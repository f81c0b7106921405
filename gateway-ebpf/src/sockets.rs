//! `socket(2)`: TCP and UDP, nothing else. `setsockopt(2)`: nothing that makes the kernel itself
//! speak.

use aya_ebpf::programs::{SockContext, SockoptContext};
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
                task: ctx::current_task(),
                source: Endpoint::NONE,
                destination: Endpoint::NONE,
                cookie: 0,
                family: 0,
                socket_type: 0,
                protocol: 0,
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
