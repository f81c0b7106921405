//! `recvmsg(2)` and `getpeername(2)`: the agent sees the address it asked for, not the gateway.

use aya_ebpf::programs::SockAddrContext;
use gateway_common::flow::KIND_REDIRECTED;

use crate::{
    ctx::{self, PASS},
    maps::{self, FLOWS},
};

/// Shows the original destination where the gateway's address would be shown.
///
/// These hooks may not refuse: whatever happens, the answer is to go on.
#[inline(always)]
pub(crate) fn show_original<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let config = maps::agent();
    let call = ctx::call::<V6>(ctx);
    if !call.endpoint.is_gateway_address() || call.endpoint.port != config.gateway_port {
        return PASS;
    }
    if let Some(flow) = ctx::stored(&FLOWS, call.sk)
        && flow.kind == KIND_REDIRECTED
        && (V6 || flow.original.is_v4())
    {
        ctx::rewrite::<V6>(ctx, &flow.original);
    }
    PASS
}
