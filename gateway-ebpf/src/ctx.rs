//! Every read of and write to kernel memory. The hooks see plain values.
//!
//! Fields of a context are read one by one and volatile: the compiler would otherwise merge two
//! loads into one through a computed pointer, which the verifier refuses.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_send_signal, bpf_set_retval,
        bpf_sk_storage_get, bpf_skb_load_bytes,
        generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str},
    },
    programs::{DeviceContext, SkBuffContext, SockAddrContext, SockOpsContext, SockoptContext},
};
use gateway_common::{
    agent::Device,
    endpoint::{Endpoint, mapped},
    flow::Task,
    unix::{UnixConfig, UnixName},
};
use zerocopy::FromBytes;

use crate::maps;

/// Reads one field of a context.
macro_rules! read {
    ($context:expr, $($field:tt)+) => {
        ptr::read_volatile(&raw const (*$context).$($field)+)
    };
}

/// The answer of a hook that lets the call go on.
pub(crate) const PASS: i32 = 1;
/// The answer of a hook that does not.
pub(crate) const REFUSE: i32 = 0;

/// Refuses the system call with this errno.
#[inline(always)]
pub(crate) fn refuse_with(errno: i32) -> i32 {
    // SAFETY: the helper takes a plain number; it is there for every hook that calls this
    // (kernel ≥ 5.18).
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

/// The task that runs this program.
#[inline(always)]
pub(crate) fn current_task() -> Task {
    // SAFETY: the helpers read the current task.
    unsafe {
        let pid_tgid = bpf_get_current_pid_tgid();
        let uid_gid = bpf_get_current_uid_gid();
        // It fails for no task that makes socket calls.
        let comm = bpf_get_current_comm().unwrap_or([0; 16]);
        Task {
            cgroup: bpf_get_current_cgroup_id(),
            since_ns: maps::since((pid_tgid >> 32) as u32),
            tgid: (pid_tgid >> 32) as u32,
            pid: pid_tgid as u32,
            uid: uid_gid as u32,
            gid: (uid_gid >> 32) as u32,
            comm,
        }
    }
}

/// Process id of the current task.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether the current task is in this cgroup, which lies this deep, or below it.
#[inline(always)]
pub(crate) fn current_within(cgroup: u64, level: u32) -> bool {
    // SAFETY: the helper takes a plain number, and answers 0 where the task is not that deep.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) == cgroup }
}

/// Kills the process of the current task before it returns to user space. Answers whether the
/// kernel took the order.
#[inline(always)]
pub(crate) fn kill_current() -> bool {
    const SIGKILL: u32 = 9;
    // SAFETY: the helper takes a plain number.
    unsafe { bpf_send_signal(SIGKILL) == 0 }
}

/// Reads from kernel memory, `offset` bytes behind `base`.
#[inline(always)]
pub(crate) fn kernel_memory<T: FromBytes>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as T has, or fails, as on an address that cannot be
    // read; any bytes are a T.
    unsafe {
        let failed = bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            kernel_address(base + u64::from(offset)),
        );
        if failed == 0 {
            Some(value.assume_init())
        } else {
            None
        }
    }
}

/// Copies a string of the kernel's, cut to `N` bytes with its NUL. Answers whether it is there.
///
/// # Safety
/// `to` is writable memory of the program, such as a reserved entry of a ring.
#[inline(always)]
pub(crate) unsafe fn kernel_string<const N: usize>(address: u64, to: *mut [u8; N]) -> bool {
    // SAFETY: the helper writes at most N bytes, and fails on an address that cannot be read.
    unsafe { bpf_probe_read_kernel_str(to.cast(), N as u32, kernel_address(address)) >= 0 }
}

/// An address of the kernel's, for a helper that reads it.
#[inline(always)]
const fn kernel_address(address: u64) -> *const c_void {
    ptr::with_exposed_provenance(address as usize)
}

/// The value that a socket's storage holds, if any.
#[inline(always)]
pub(crate) fn stored<T>(map: &'static SkStorage<T>, sk: *mut c_void) -> Option<&'static T> {
    // SAFETY: the verifier checks that `sk` is a socket or this hook's context; the map outlives
    // the program, and the value lives as long as the socket, which is longer than this run.
    unsafe {
        bpf_sk_storage_get(map_pointer(map), sk, ptr::null_mut(), 0)
            .cast::<T>()
            .as_ref()
    }
}

/// Puts a value into a socket's storage. Answers whether it is there now.
#[inline(always)]
pub(crate) fn store<T: Copy>(map: &'static SkStorage<T>, sk: *mut c_void, value: &T) -> bool {
    // SAFETY: as in `stored`; the kernel copies the initial value before it returns.
    unsafe {
        let slot = bpf_sk_storage_get(
            map_pointer(map),
            sk,
            ptr::from_ref(value).cast_mut().cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast::<T>();
        if slot.is_null() {
            return false;
        }
        // A value that was there before is not touched by the call above.
        slot.write(*value);
        true
    }
}

/// The kernel knows a storage map by the address of its static.
#[inline(always)]
fn map_pointer<T>(map: &'static SkStorage<T>) -> *mut c_void {
    ptr::from_ref(map).cast_mut().cast()
}

/// What `setsockopt(2)` asks for: level and name of the option.
#[inline(always)]
pub(crate) fn option(ctx: &SockoptContext) -> (i32, i32) {
    // SAFETY: the kernel gives a valid context.
    unsafe { (read!(ctx.sockopt, level), read!(ctx.sockopt, optname)) }
}

/// Leaves an option's value to the kernel as the caller gave it.
///
/// Otherwise the kernel takes the copy it made for the program, and that ends at a page: older
/// kernels would refuse a longer value.
#[inline(always)]
pub(crate) fn leave_value(ctx: &SockoptContext) {
    // SAFETY: the field is writable, and 0 stands for "nothing was changed".
    unsafe { ptr::write_volatile(&raw mut (*ctx.sockopt).optlen, 0) };
}

/// The device that is to be opened, or for which a node is to be made.
#[inline(always)]
pub(crate) fn device(ctx: &DeviceContext) -> Device {
    // SAFETY: the kernel gives a valid context.
    unsafe {
        Device {
            // The upper half says what is to be done with it.
            kind: read!(ctx.device, access_type) & 0xffff,
            major: read!(ctx.device, major),
            minor: read!(ctx.device, minor),
        }
    }
}

/// What a call on a socket address says.
pub(crate) struct Call {
    /// The address and port that the caller gave, or that is shown to it.
    pub(crate) endpoint: Endpoint,
    /// The socket.
    pub(crate) sk: *mut c_void,
    /// Its family.
    pub(crate) family: u16,
    /// Its type.
    pub(crate) kind: u16,
    /// Its protocol; 0 for one that does not fit, which no rule allows.
    pub(crate) protocol: u8,
}

/// Reads a `bpf_sock_addr`. `V6` is whether the hook is one of the IPv6 ones.
#[inline(always)]
pub(crate) fn call<const V6: bool>(ctx: &SockAddrContext) -> Call {
    // SAFETY: the kernel gives a valid context; each field is one that this attach type may
    // read.
    unsafe {
        let raw = ctx.sock_addr;
        let port = read!(raw, user_port) as u16;
        let kind = read!(raw, type_);
        let protocol = read!(raw, protocol);
        let family = read!(raw, family);
        let sk = read!(raw, __bindgen_anon_1.sk);
        let address = if V6 {
            [
                read!(raw, user_ip6[0]),
                read!(raw, user_ip6[1]),
                read!(raw, user_ip6[2]),
                read!(raw, user_ip6[3]),
            ]
        } else {
            mapped(read!(raw, user_ip4))
        };
        Call {
            endpoint: Endpoint::new(address, u16::from_be(port)),
            sk: sk.cast(),
            family: family as u16,
            kind: kind as u16,
            protocol: if protocol > 255 { 0 } else { protocol as u8 },
        }
    }
}

/// Writes another address and port into a `bpf_sock_addr`.
#[inline(always)]
pub(crate) fn rewrite<const V6: bool>(ctx: &SockAddrContext, to: &Endpoint) {
    // SAFETY: the fields are writable in every hook that calls this.
    unsafe {
        let raw = ctx.sock_addr;
        if V6 {
            (*raw).user_ip6[0] = to.address[0];
            (*raw).user_ip6[1] = to.address[1];
            (*raw).user_ip6[2] = to.address[2];
            (*raw).user_ip6[3] = to.address[3];
        } else {
            (*raw).user_ip4 = to.v4();
        }
        (*raw).user_port = u32::from(to.port.to_be());
    }
}

/// The two ends of a TCP connection, and its socket.
pub(crate) struct Ends {
    /// This end.
    pub(crate) local: Endpoint,
    /// The other end.
    pub(crate) remote: Endpoint,
    /// The socket; null if it is no full one.
    pub(crate) sk: *mut bpf_sock,
    /// The first two arguments of the callback.
    pub(crate) args: [u32; 2],
}

/// `AF_INET6`.
const AF_INET6: u32 = 10;

/// Reads a `bpf_sock_ops`.
#[inline(always)]
pub(crate) fn ends(ctx: &SockOpsContext) -> Ends {
    // SAFETY: the kernel gives a valid context; all of these fields may be read.
    unsafe {
        let raw = ctx.ops;
        let family = read!(raw, family);
        let local_port = read!(raw, local_port);
        let remote_port = read!(raw, remote_port);
        let local_ip4 = read!(raw, local_ip4);
        let remote_ip4 = read!(raw, remote_ip4);
        let local_ip6 = [
            read!(raw, local_ip6[0]),
            read!(raw, local_ip6[1]),
            read!(raw, local_ip6[2]),
            read!(raw, local_ip6[3]),
        ];
        let remote_ip6 = [
            read!(raw, remote_ip6[0]),
            read!(raw, remote_ip6[1]),
            read!(raw, remote_ip6[2]),
            read!(raw, remote_ip6[3]),
        ];
        let args = [
            read!(raw, __bindgen_anon_1.args[0]),
            read!(raw, __bindgen_anon_1.args[1]),
        ];
        let sk = read!(raw, __bindgen_anon_2.sk);
        let (local, remote) = if family == AF_INET6 {
            (local_ip6, remote_ip6)
        } else {
            (mapped(local_ip4), mapped(remote_ip4))
        };
        Ends {
            local: Endpoint::new(local, local_port as u16),
            // The kernel gives the other port in network order, as a word.
            remote: Endpoint::new(remote, u32::from_be(remote_port) as u16),
            sk,
            args,
        }
    }
}

/// Counts a per-CPU number up and answers the new one.
///
/// Atomic, because a softirq may run another hook in between on the same CPU. The atomics of
/// `core` stop at loads and stores on this target, and the compiler gives out fetch-and-add only
/// for newer instruction sets; the kernel has had it since 5.12.
///
/// # Safety
/// `slot` is an aligned slot of a map.
#[inline(always)]
pub(crate) unsafe fn count_up(slot: *mut u64) -> u64 {
    let mut number: u64 = 1;
    // SAFETY: the caller vouches for the slot, and maps outlive the program. The instruction
    // adds the register to the slot and leaves the old value in the register.
    unsafe {
        core::arch::asm!(
            "{number} = atomic_fetch_add((u64 *)({slot} + 0), {number})",
            slot = in(reg) slot,
            number = inout(reg) number,
            options(nostack),
        );
    }
    number + 1
}

/// Copies a piece of a packet, `offset` bytes behind the start of its IP header; none if the
/// packet ends before.
#[inline(always)]
pub(crate) fn packet<T: FromBytes>(ctx: &SkBuffContext, offset: u32) -> Option<T> {
    let mut piece = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes as many bytes as T has, or fails; any bytes are a T.
    unsafe {
        let failed = bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            offset,
            piece.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        if failed == 0 {
            Some(piece.assume_init())
        } else {
            None
        }
    }
}

/// Index of the interface that a packet leaves or came in by.
#[inline(always)]
pub(crate) fn interface(ctx: &SkBuffContext) -> u32 {
    // SAFETY: the kernel gives a valid context.
    unsafe { read!(ctx.skb.skb, ifindex) }
}

/// The socket of a packet; null if it has none.
#[inline(always)]
pub(crate) fn packet_socket(ctx: &SkBuffContext) -> *mut bpf_sock {
    // SAFETY: the kernel gives a valid context.
    unsafe { read!(ctx.skb.skb, __bindgen_anon_2.sk) }
}

/// The state of a full socket, as in `TCP_LISTEN`.
#[inline(always)]
pub(crate) fn socket_state(sk: *mut bpf_sock) -> u32 {
    // SAFETY: callers checked for null, and the verifier checks that they did.
    unsafe { read!(sk, state) }
}

/// What `socket(2)` asks for: family, type, protocol.
#[inline(always)]
pub(crate) fn new_socket(sk: *mut bpf_sock) -> (u32, u32, u32) {
    // SAFETY: the kernel gives a valid context.
    unsafe { (read!(sk, family), read!(sk, type_), read!(sk, protocol)) }
}

/// Where `sun_path` starts in a `sockaddr_un`.
const SUN_PATH: u32 = 2;
/// Size of `sun_path`.
const SUN_PATH_SIZE: u32 = 108;

/// Reads the name that a call on a unix socket gives; [`UnixName::NONE`] where it cannot be read.
///
/// The hook shows no address of a unix socket. At run time its context is the kernel's own
/// `bpf_sock_addr_kern`, which is read where the kernel's type information says.
#[inline(always)]
pub(crate) fn unix_name(ctx: &SockAddrContext, unix: &UnixConfig) -> UnixName {
    let name = UnixName::NONE;
    if unix.address_offset == 0 {
        return name;
    }
    let kernel = ctx.sock_addr.cast::<u8>().cast_const();
    // SAFETY: the helper reads any kernel address, or fails, and writes as many bytes as it is
    // told: `name` has room for all of `sun_path`. The offsets are the kernel's.
    unsafe {
        let mut address: u64 = 0;
        let mut length: u32 = 0;
        let from = kernel.add(unix.address_offset as usize);
        let failed = bpf_probe_read_kernel((&raw mut address).cast(), 8, from.cast())
            | bpf_probe_read_kernel(
                (&raw mut length).cast(),
                4,
                kernel.add(unix.length_offset as usize).cast(),
            );
        if failed != 0 {
            return name;
        }
        name_at(address, length)
    }
}

/// The name in a `sockaddr_un` of the kernel's, which is `length` bytes long.
#[inline(always)]
pub(crate) fn name_at(address: u64, length: u32) -> UnixName {
    let mut name = UnixName::NONE;
    if length <= SUN_PATH || length > SUN_PATH + SUN_PATH_SIZE {
        return name;
    }
    let size = masked(length - SUN_PATH);
    let path = kernel_address(address + u64::from(SUN_PATH));
    let into: *mut c_void = (&raw mut name.bytes).cast();
    let mut first: u8 = 0;
    // SAFETY: the helpers read any kernel address, or fail, and write as many bytes as they are
    // told: `name` has room for all of `sun_path`.
    unsafe {
        if bpf_probe_read_kernel((&raw mut first).cast(), 1, path) != 0 {
            return name;
        }
        if first == 0 {
            if bpf_probe_read_kernel(into, size, path) == 0 {
                name.length = size as u16;
            }
        } else {
            // A path ends with its first NUL or with the address, and what lies behind is the
            // caller's whim. The helper puts a NUL into the last byte it is given.
            let copied = bpf_probe_read_kernel_str(into, size + 1, path);
            if copied > 0 {
                name.length = (copied - 1) as u16;
            }
        }
    }
    name
}

/// The last seven bits of a size, which is all of it: told in one instruction that the compiler
/// cannot take apart, so that the verifier sees the bound where the size is used.
#[inline(always)]
fn masked(size: u32) -> u32 {
    const { assert!(SUN_PATH_SIZE < 0x7f && size_of::<UnixName>() == 0x80) };
    let mut size = u64::from(size);
    // SAFETY: the instruction changes the register it is given and nothing else.
    unsafe {
        core::arch::asm!("{size} &= 0x7f", size = inout(reg) size, options(nomem, nostack));
    }
    size as u32
}
