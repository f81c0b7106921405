//! Connections within one agent, over loopback: to its own listeners and nobody else's.
//!
//! Every socket of an agent carries a mark that no other has: `sock_create` leaves the owner, and
//! a socket that came of an accept has its place in `INBOUND`. Both maps are this agent's alone.
//! Whose a packet is to be, or whose it was, is asked of the sockets themselves, for each packet:
//! between two of them a listener may end, and somebody else take its port.

use core::{mem, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_tcp, bpf_sk_release},
};
use gateway_common::{endpoint::Endpoint, flow::KIND_OWN, packet::Header};

use crate::{
    ctx,
    gateway::{CURRENT_NETNS, V4_TUPLE, V6_TUPLE},
    maps::{FLOWS, INBOUND, OWNERS},
};

/// Somebody connected to the agent, and nothing else is known.
pub(crate) const INBOUND_ANYBODY: u32 = 1;
/// The agent connected to itself.
pub(crate) const INBOUND_OWN: u32 = 2;

/// Whose socket is at an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// The agent's.
    Agent,
    /// Somebody else's.
    Other,
    /// There is none, or one that takes in nothing any more.
    Nobody,
}

/// Whether the agent itself listens at this destination, on loopback.
#[inline(always)]
pub(crate) fn listens(ctx: &impl EbpfContext, destination: &Endpoint) -> bool {
    let to = Endpoint::new(destination.loopback_of_same_family(), destination.port);
    holder(ctx, &Endpoint::NONE, &to) == Holder::Agent
}

/// Whether a packet that leaves is for a socket of the agent's own. `opens` says whether it is the
/// first of its connection.
#[inline(always)]
pub(crate) fn receives(
    ctx: &impl EbpfContext,
    header: &Header,
    sk: *mut bpf_sock,
    opens: bool,
) -> bool {
    is_own(holder(ctx, &header.source, &header.destination), sk, opens)
}

/// Whether a packet that came in is from a socket of the agent's own.
#[inline(always)]
pub(crate) fn sends(
    ctx: &impl EbpfContext,
    header: &Header,
    sk: *mut bpf_sock,
    opens: bool,
) -> bool {
    is_own(holder(ctx, &header.destination, &header.source), sk, opens)
}

/// Judges the other end, and remembers that a connection is the agent's own: its last packets find
/// nobody there any more.
#[inline(always)]
fn is_own(holder: Holder, sk: *mut bpf_sock, opens: bool) -> bool {
    if sk.is_null() {
        return false;
    }
    let accepted = ctx::stored(&INBOUND, sk.cast()).copied();
    match holder {
        Holder::Agent => {
            if accepted == Some(INBOUND_ANYBODY) {
                ctx::store(&INBOUND, sk.cast(), &INBOUND_OWN);
            }
            true
        }
        Holder::Other => false,
        Holder::Nobody => {
            !opens
                && (accepted == Some(INBOUND_OWN)
                    || ctx::stored(&FLOWS, sk.cast()).is_some_and(|flow| flow.kind == KIND_OWN))
        }
    }
}

/// Whose socket gets what `from` sends to `to`.
#[inline(always)]
fn holder(ctx: &impl EbpfContext, from: &Endpoint, to: &Endpoint) -> Holder {
    // SAFETY: a tuple of zeroes is a valid tuple; the helper reads the size it is given. A
    // looked-up socket is released exactly once, and not used afterwards.
    unsafe {
        let mut tuple: bpf_sock_tuple = mem::zeroed();
        let size = if to.is_v4() {
            let v4 = &mut tuple.__bindgen_anon_1.ipv4;
            // Nobody's address is no IPv4 one; its last word is zero all the same.
            v4.saddr = from.v4();
            v4.sport = from.port.to_be();
            v4.daddr = to.v4();
            v4.dport = to.port.to_be();
            V4_TUPLE
        } else {
            let v6 = &mut tuple.__bindgen_anon_1.ipv6;
            v6.saddr = from.address;
            v6.sport = from.port.to_be();
            v6.daddr = to.address;
            v6.dport = to.port.to_be();
            V6_TUPLE
        };
        let tuple = ptr::from_mut(&mut tuple);
        let sk = bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0);
        if sk.is_null() {
            return Holder::Nobody;
        }
        let agents =
            ctx::stored(&OWNERS, sk.cast()).is_some() || ctx::stored(&INBOUND, sk.cast()).is_some();
        bpf_sk_release(sk.cast());
        if agents { Holder::Agent } else { Holder::Other }
    }
}
