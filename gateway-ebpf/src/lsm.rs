//! What only a security module sees, for the tasks and sockets of one agent's cgroup: families of
//! sockets, descriptors that arrive, other processes, `bpf(2)`, mounts, the own unix sockets, and
//! the files that move processes between cgroups.
//!
//! All of them are attached to the cgroup (`BPF_LSM_CGROUP`): nobody else meets them.

use aya_ebpf::programs::LsmContext;
use gateway_common::{
    endpoint::Endpoint,
    event::Hook,
    reason::Reason,
    unix::{UNIX_ANY, UnixName},
    verdict::errno,
};

use crate::{
    ctx::{self, PASS},
    emit::{self, Facts},
    maps::{self, kernel},
    processes::{cgroup_within, task_within},
};

const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;

/// `FMODE_WRITE`.
const WRITE: u32 = 2;
/// `S_IFMT` and `S_IFSOCK`.
const KIND: u16 = 0o170_000;
const SOCKET: u16 = 0o140_000;
/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC`.
const CGROUP1: u64 = 0x0027_e0eb;
const CGROUP2: u64 = 0x6367_7270;

/// Records a refusal, and carries it out unless the agent is only observed.
#[inline(always)]
fn refuse(ctx: &LsmContext, hook: Hook, reason: Reason, socket: [i32; 3]) -> i32 {
    refuse_name(ctx, hook, reason, socket, &UnixName::NONE)
}

#[inline(always)]
fn refuse_name(
    ctx: &LsmContext,
    hook: Hook,
    reason: Reason,
    [family, kind, protocol]: [i32; 3],
    name: &UnixName,
) -> i32 {
    let config = maps::agent();
    let facts = Facts {
        task: ctx::current_task(),
        source: Endpoint::NONE,
        destination: Endpoint::NONE,
        cookie: 0,
        family: family as u16,
        socket_type: kind as u16,
        protocol: protocol as u16,
    };
    if name.length == 0 {
        emit::refusal(ctx, &config, hook, reason, &facts);
    } else {
        emit::refusal_of_name(ctx, &config, hook, reason, &facts, name);
    }
    if config.observes() {
        PASS
    } else {
        ctx::refuse_with(errno(reason))
    }
}

/// `socket_create(family, type, protocol, kern)`.
#[inline(always)]
pub(crate) fn socket_create(ctx: &LsmContext) -> i32 {
    let socket: [i32; 3] = [ctx.arg(0), ctx.arg(1), ctx.arg(2)];
    let by_kernel: i32 = ctx.arg(3);
    let [family, _, protocol] = socket;
    let known = family == AF_UNIX || family == AF_INET || family == AF_INET6;
    let routes = family == AF_NETLINK && protocol == NETLINK_ROUTE;
    if by_kernel != 0 || known || routes {
        return PASS;
    }
    refuse(ctx, Hook::LsmSocketCreate, Reason::SocketFamily, socket)
}

/// `file_receive(file)`: over a unix socket, or by `pidfd_getfd(2)`.
#[inline(always)]
pub(crate) fn file_receive(ctx: &LsmContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let inode: u64 = ctx::kernel_memory(file, kernel!(file_inode)).unwrap_or(0);
    // What cannot be read is taken for a socket, and then for a stranger's.
    let mode: u16 = ctx::kernel_memory(inode, kernel!(inode_mode)).unwrap_or(SOCKET);
    if mode & KIND != SOCKET {
        return PASS;
    }
    let socket: u64 = ctx::kernel_memory(file, kernel!(file_private)).unwrap_or(0);
    let sock: u64 = ctx::kernel_memory(socket, kernel!(socket_sock)).unwrap_or(0);
    if is_own(sock) {
        return PASS;
    }
    let family: u16 = ctx::kernel_memory(sock, kernel!(sock_family)).unwrap_or(0);
    let socket = [i32::from(family), 0, 0];
    refuse(
        ctx,
        Hook::LsmFileReceive,
        Reason::DescriptorReceived,
        socket,
    )
}

/// `ptrace_access_check(child, mode)`: reading another's memory and descriptors asks it as well.
#[inline(always)]
pub(crate) fn ptrace_access_check(ctx: &LsmContext) -> i32 {
    if task_within(ctx.arg(0), &maps::agent()) {
        return PASS;
    }
    refuse(ctx, Hook::LsmPtrace, Reason::ProcessAccess, [0; 3])
}

/// `bpf(command, attributes, size)`.
#[inline(always)]
pub(crate) fn bpf(ctx: &LsmContext) -> i32 {
    refuse(ctx, Hook::LsmBpf, Reason::BpfCall, [0; 3])
}

/// `sb_mount(…)` and `sb_umount(…)`. The launcher mounts what the agent sees from within, so they
/// hold from when the agent's command is about to start.
#[inline(always)]
pub(crate) fn mount(ctx: &LsmContext, hook: Hook) -> i32 {
    if !maps::is_armed() {
        return PASS;
    }
    refuse(ctx, hook, Reason::Mount, [0; 3])
}

/// `unix_stream_connect(sock, other, newsk)`.
#[inline(always)]
pub(crate) fn unix_stream_connect(ctx: &LsmContext) -> i32 {
    unix(ctx, ctx.arg(1), Hook::LsmUnixConnect)
}

/// `unix_may_send(socket, other)`.
#[inline(always)]
pub(crate) fn unix_may_send(ctx: &LsmContext) -> i32 {
    let sock = ctx::kernel_memory(ctx.arg(1), kernel!(socket_sock));
    unix(ctx, sock.unwrap_or(0), Hook::LsmUnixSend)
}

/// Whether the agent may reach this unix socket, where that is not for the cgroup's own hooks to
/// say: policy allows the agent's own, or the kernel has no such hooks.
#[inline(always)]
fn unix(ctx: &LsmContext, other: u64, hook: Hook) -> i32 {
    let unix = maps::unix();
    if kernel!(unix_by_lsm) != 1 || unix.mode == UNIX_ANY || is_own(other) {
        return PASS;
    }
    let address: u64 = ctx::kernel_memory(other, kernel!(unix_address)).unwrap_or(0);
    let length: u32 = ctx::kernel_memory(address, kernel!(address_length)).unwrap_or(0);
    let name = ctx::name_at(address + u64::from(kernel!(address_name)), length);
    if maps::names(&unix, &name) {
        return PASS;
    }
    refuse_name(ctx, hook, Reason::UnixSocket, [AF_UNIX, 0, 0], &name)
}

/// `file_open(file)`: nothing of a cgroup hierarchy is opened for writing.
#[inline(always)]
pub(crate) fn file_open(ctx: &LsmContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let mode: u32 = ctx::kernel_memory(file, kernel!(file_mode)).unwrap_or(0);
    if mode & WRITE == 0 {
        return PASS;
    }
    let inode: u64 = ctx::kernel_memory(file, kernel!(file_inode)).unwrap_or(0);
    let filesystem: u64 = ctx::kernel_memory(inode, kernel!(inode_super)).unwrap_or(0);
    let magic: u64 = ctx::kernel_memory(filesystem, kernel!(super_magic)).unwrap_or(0);
    if magic != CGROUP1 && magic != CGROUP2 {
        return PASS;
    }
    refuse(ctx, Hook::LsmFileOpen, Reason::CgroupWrite, [0; 3])
}

/// Whether a socket was made in the agent's cgroup or below it.
#[inline(always)]
fn is_own(sock: u64) -> bool {
    let cgroup = ctx::kernel_memory(sock, kernel!(sock_cgroup)).unwrap_or(0);
    cgroup_within(cgroup, &maps::agent())
}
