//! The kernel half of Sluice: attributes and modules, no logic.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "aya's attribute macros wrap each program in a public function of their own"
)]

mod attribution;
mod connect;
mod ctx;
mod devices;
mod emit;
mod gateway;
mod lsm;
mod maps;
mod names;
mod own;
mod packets;
mod processes;
mod sockets;
mod unix;

use aya_ebpf::{
    macros::{
        cgroup_device, cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, lsm_cgroup,
        raw_tracepoint, sock_ops,
    },
    programs::{
        DeviceContext, LsmContext, RawTracePointContext, SkBuffContext, SockAddrContext,
        SockContext, SockOpsContext, SockoptContext,
    },
};
use gateway_common::event::Hook;

/// `socket(2)`: the allow-list of socket types.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    sockets::create(&ctx)
}

/// `setsockopt(2)`: what would make the kernel itself speak, or steer packets past the gateway.
#[cgroup_sockopt(setsockopt)]
pub fn setsockopt(ctx: SockoptContext) -> i32 {
    sockets::set_option(&ctx)
}

/// `bind(2)`, IPv4: loopback and the wildcard.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    sockets::bind::<false>(&ctx, Hook::Bind4)
}

/// `bind(2)`, IPv6.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    sockets::bind::<true>(&ctx, Hook::Bind6)
}

/// Opening or making a device node: the allow-list.
#[cgroup_device]
pub fn device(ctx: DeviceContext) -> i32 {
    devices::open(&ctx)
}

/// `connect(2)`, IPv4.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::direct::<false>(&ctx, Hook::Connect4)
}

/// `connect(2)`, IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::direct::<true>(&ctx, Hook::Connect6)
}

/// `sendmsg(2)` on an unconnected UDP socket, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::direct::<false>(&ctx, Hook::Sendmsg4)
}

/// `sendmsg(2)` on an unconnected UDP socket, IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::direct::<true>(&ctx, Hook::Sendmsg6)
}

/// `recvmsg(2)` on UDP, IPv4: where the answer seems to come from.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    names::show_original::<false>(&ctx)
}

/// `recvmsg(2)` on UDP, IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    names::show_original::<true>(&ctx)
}

/// `getpeername(2)`, IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    names::show_original::<false>(&ctx)
}

/// `getpeername(2)`, IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    names::show_original::<true>(&ctx)
}

/// `connect(2)` on a unix socket. aya has no type for it: the loader gives the kernel the right
/// one, whatever the section says.
#[cgroup_sock_addr(connect4)]
pub fn unix_connect(ctx: SockAddrContext) -> i32 {
    unix::reach(&ctx, Hook::UnixConnect)
}

/// `sendmsg(2)` on an unconnected unix socket; likewise.
#[cgroup_sock_addr(sendmsg4)]
pub fn unix_sendmsg(ctx: SockAddrContext) -> i32 {
    unix::reach(&ctx, Hook::UnixSendmsg)
}

/// A packet leaves: the backstop.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    packets::leave(&ctx)
}

/// A packet arrives.
#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    packets::arrive(&ctx)
}

/// TCP states of the agent's sockets.
#[sock_ops]
pub fn agent_ops(ctx: SockOpsContext) -> u32 {
    attribution::agent(&ctx)
}

/// TCP states of the gateway's sockets.
#[sock_ops]
pub fn gateway_ops(ctx: SockOpsContext) -> u32 {
    attribution::gateway(&ctx)
}

/// A task executed a program: `sched_process_exec(task, old_pid, binprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    processes::exec(&ctx)
}

/// A task made another: `sched_process_fork(parent, child)`.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    processes::fork(&ctx)
}

/// A task ends: `sched_process_exit(task)`.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn process_exit(ctx: RawTracePointContext) -> i32 {
    processes::exit(&ctx)
}

/// A task was moved: `cgroup_attach_task(destination, path, task, threadgroup)`.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub fn process_move(ctx: RawTracePointContext) -> i32 {
    processes::moved(&ctx)
}

/// LSM hook `socket_create`.
#[lsm_cgroup(hook = "socket_create")]
pub fn lsm_socket_create(ctx: LsmContext) -> i32 {
    lsm::socket_create(&ctx)
}

/// LSM hook `file_receive`.
#[lsm_cgroup(hook = "file_receive")]
pub fn lsm_file_receive(ctx: LsmContext) -> i32 {
    lsm::file_receive(&ctx)
}

/// LSM hook `ptrace_access_check`.
#[lsm_cgroup(hook = "ptrace_access_check")]
pub fn lsm_ptrace_access_check(ctx: LsmContext) -> i32 {
    lsm::ptrace_access_check(&ctx)
}

/// LSM hook `bpf`.
#[lsm_cgroup(hook = "bpf")]
pub fn lsm_bpf(ctx: LsmContext) -> i32 {
    lsm::bpf(&ctx)
}

/// LSM hook `sb_mount`.
#[lsm_cgroup(hook = "sb_mount")]
pub fn lsm_sb_mount(ctx: LsmContext) -> i32 {
    lsm::mount(&ctx, Hook::LsmMount)
}

/// LSM hook `sb_umount`.
#[lsm_cgroup(hook = "sb_umount")]
pub fn lsm_sb_umount(ctx: LsmContext) -> i32 {
    lsm::mount(&ctx, Hook::LsmUmount)
}

/// LSM hook `unix_stream_connect`.
#[lsm_cgroup(hook = "unix_stream_connect")]
pub fn lsm_unix_stream_connect(ctx: LsmContext) -> i32 {
    lsm::unix_stream_connect(&ctx)
}

/// LSM hook `unix_may_send`.
#[lsm_cgroup(hook = "unix_may_send")]
pub fn lsm_unix_may_send(ctx: LsmContext) -> i32 {
    lsm::unix_may_send(&ctx)
}

/// LSM hook `file_open`.
#[lsm_cgroup(hook = "file_open")]
pub fn lsm_file_open(ctx: LsmContext) -> i32 {
    lsm::file_open(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel gives some helpers only to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
