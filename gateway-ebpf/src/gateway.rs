//! Is the gateway there? Its listener carries a mark that only the daemon can set and that
//! dies with the socket, so a thief on the port is no gateway.

use core::{mem, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_tuple,
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use gateway_common::{LISTENER_MARK, agent::AgentConfig, endpoint::Endpoint, packet::TCP};

use crate::{ctx, maps::LISTENERS};

/// The socket's own network namespace.
pub(crate) const CURRENT_NETNS: u64 = u64::MAX;
/// Size of the IPv4 half of a `bpf_sock_tuple`, bytes.
pub(crate) const V4_TUPLE: u32 = 12;
/// Size of the IPv6 half of a `bpf_sock_tuple`, bytes.
pub(crate) const V6_TUPLE: u32 = 36;

/// Whether the gateway listens, for this protocol, at the address that goes with the family of
/// `destination`. Asked of a call before it is let through, and of each packet that begins
/// something: between the two the gateway may have gone, and somebody else come.
#[inline(always)]
pub(crate) fn listens(
    ctx: &impl EbpfContext,
    config: &AgentConfig,
    destination: &Endpoint,
    protocol: u8,
) -> bool {
    let port = config.gateway_port.to_be();
    // SAFETY: a tuple of zeroes is a valid tuple; the helpers read the size they are given. A
    // looked-up socket is released exactly once, and not used afterwards.
    unsafe {
        let mut tuple: bpf_sock_tuple = mem::zeroed();
        let size = if destination.is_v4() {
            tuple.__bindgen_anon_1.ipv4.daddr = u32::from_ne_bytes([127, 0, 0, 1]);
            tuple.__bindgen_anon_1.ipv4.dport = port;
            V4_TUPLE
        } else {
            tuple.__bindgen_anon_1.ipv6.daddr = [0, 0, 0, 1u32.to_be()];
            tuple.__bindgen_anon_1.ipv6.dport = port;
            V6_TUPLE
        };
        let tuple = ptr::from_mut(&mut tuple);
        let sk = if protocol == TCP {
            bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), tuple, size, CURRENT_NETNS, 0)
        };
        if sk.is_null() {
            return false;
        }
        let marked = ctx::stored(&LISTENERS, sk.cast()).is_some_and(|mark| *mark == LISTENER_MARK);
        bpf_sk_release(sk.cast());
        marked
    }
}
