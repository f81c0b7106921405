//! `connect(2)` and `sendmsg(2)` on unix sockets: those that policy names, no others.
//!
//! Socket pairs, and sockets that were connected by somebody else, meet neither.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_socket_cookie, programs::SockAddrContext};
use gateway_common::{
    decide,
    endpoint::Endpoint,
    event::Hook,
    verdict::{Verdict, errno},
};

use crate::{
    ctx::{self, PASS},
    emit::{self, Facts},
    maps,
};

/// `AF_UNIX`.
const AF_UNIX: u16 = 1;

/// Decides whether the agent may reach the socket that the call names.
#[inline(always)]
pub(crate) fn reach(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let config = maps::agent();
    let unix = maps::unix();
    let name = ctx::unix_name(ctx, &unix);
    match decide::unix(&config, unix.mode, maps::names(&unix, &name)) {
        Verdict::Pass(_) | Verdict::Redirect(_) => PASS,
        Verdict::Refuse(reason) => {
            let facts = Facts {
                task: ctx::current_task(),
                source: Endpoint::NONE,
                destination: Endpoint::NONE,
                // SAFETY: the helper takes this hook's context and answers a number.
                cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
                family: AF_UNIX,
                socket_type: 0,
                protocol: 0,
            };
            emit::refusal_of_name(ctx, &config, hook, reason, &facts, &name);
            if config.observes() {
                PASS
            } else {
                ctx::refuse_with(errno(reason))
            }
        }
    }
}
