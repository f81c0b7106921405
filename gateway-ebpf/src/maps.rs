//! Every map and global, each with who writes and who reads it.
//!
//! No security state sits in an LRU map, and no missing entry means that something is allowed.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf, SkStorage},
    macros::btf_map,
};
use gateway_common::{
    DENIALS_RING_BYTES, NAMESPACES_MAX, PASSAGES_RING_BYTES, TUPLES_MAX,
    agent::{
        AgentConfig, DEVICES_MAX, Device, FEATURE_DEVICES, LOOPBACK_WORDS, LoopbackPorts,
        loopback_bit,
    },
    event::{Event, Fold},
    flow::{Flow, Task, Tuple},
    passage::Passage,
    process::{
        KernelLayout, LEAVERS_RING_BYTES, Leaver, MEMBER_LEFT, MEMBERS_MAX, Member,
        PROCESSES_RING_BYTES, ProcessEvent,
    },
    reason::REASON_SLOTS,
    unix::{UNIX_NAMES_MAX, UnixConfig, UnixName},
};

/// Constants of this agent. Written by the loader before the kernel freezes them.
#[unsafe(no_mangle)]
static AGENT: AgentConfig = AgentConfig::SHUT;

/// Declared local ports of this agent. Written by the loader likewise.
#[unsafe(no_mangle)]
static LOOPBACK: LoopbackPorts = [0; LOOPBACK_WORDS];

/// Where the kernel keeps what the tracepoints and LSM programs read. Written by the loader
/// likewise.
#[unsafe(no_mangle)]
pub(crate) static KERNEL: KernelLayout = KernelLayout::UNKNOWN;

/// Processes of the agent by process id, until their last thread ends. Written by the
/// tracepoints, read by every hook that names a task, and by the daemon.
#[btf_map]
pub(crate) static MEMBERS: HashMap<
    u32,
    Member,
    { MEMBERS_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// What becomes of the agent's processes. Written by the tracepoints, read by the daemon.
#[btf_map]
pub(crate) static PROCESSES: RingBuf<ProcessEvent, { PROCESSES_RING_BYTES as usize }> =
    RingBuf::new();

/// Last sequence number used in `PROCESSES`. Counted up by the tracepoints.
#[btf_map]
pub(crate) static PROCESS_SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Whom the daemon has to kill. Written by the tracepoints, read by the daemon.
#[btf_map]
pub(crate) static LEAVERS: RingBuf<Leaver, { LEAVERS_RING_BYTES as usize }> = RingBuf::new();

/// Unix sockets that this agent may reach. Written by the loader likewise.
#[unsafe(no_mangle)]
static UNIX: UnixConfig = UnixConfig::SHUT;

/// Names of those sockets. Written by the loader before anything is attached, read by the programs
/// on unix sockets.
#[btf_map]
pub(crate) static UNIX_NAMES: HashMap<
    UnixName,
    u32,
    UNIX_NAMES_MAX,
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Devices that this agent may open beside those that all agents may. Written by the loader
/// before anything is attached, read by the program on devices.
#[btf_map]
pub(crate) static DEVICES: HashMap<Device, u32, DEVICES_MAX, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// 1 once the agent's command is about to start. Written by the daemon, read by the LSM programs
/// on mounts.
#[btf_map]
pub(crate) static ARMED: Array<u32, 1> = Array::new();

/// Flow of an agent's socket. Written by connect and sendmsg, read by all later hooks.
#[btf_map]
pub(crate) static FLOWS: SkStorage<Flow> = SkStorage::new();

/// Who made an agent's socket. Written by `sock_create`, read by the packet hooks.
#[btf_map]
pub(crate) static OWNERS: SkStorage<Task> = SkStorage::new();

/// Marks connections that somebody opened to the agent: one of `own`'s constants. Written by
/// `agent_ops` and the packet hooks, read by the packet hooks.
#[btf_map]
pub(crate) static INBOUND: SkStorage<u32> = SkStorage::new();

/// Marks the gateway's sockets. Written by the daemon alone, read by connect and sendmsg.
#[btf_map]
pub(crate) static LISTENERS: SkStorage<u32> = SkStorage::new();

/// Cookies of the network namespaces that the gateway serves. Written by the daemon alone, read
/// where a call is refused, to say why: what a call needs is a marked listener in its own
/// namespace, and this map lets nothing through.
#[btf_map]
pub(crate) static NAMESPACES: HashMap<u64, u32, { NAMESPACES_MAX as usize }> = HashMap::new();

/// Flow of an accepted connection. Written by `gateway_ops`, read by the daemon by descriptor.
#[btf_map]
pub(crate) static ACCEPTED: SkStorage<Flow> = SkStorage::new();

/// Flows on their way to the gateway. Written by `agent_ops` and egress, taken by
/// `gateway_ops` and, for DNS questions, by the daemon.
///
/// Memory for an entry is taken when it is made: a node has hundreds of agents, and few of them
/// connect at once. Where there is none, the flow is refused as in a full table.
#[btf_map]
pub(crate) static TUPLES: HashMap<
    Tuple,
    Flow,
    { TUPLES_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Refusals. Written by every deciding hook, read by the daemon.
#[btf_map]
pub(crate) static DENIALS: RingBuf<Event, { DENIALS_RING_BYTES as usize }> = RingBuf::new();

/// Last sequence number used in `DENIALS`. Counted up by the hooks, read by the daemon.
#[btf_map]
pub(crate) static SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// What is let through. Written when a connection is established and when a question leaves,
/// read by the daemon.
#[btf_map]
pub(crate) static PASSAGES: RingBuf<Passage, { PASSAGES_RING_BYTES as usize }> = RingBuf::new();

/// Last sequence number used in `PASSAGES`. Counted up by the hooks, read by nobody else.
#[btf_map]
pub(crate) static PASSAGE_SEQUENCE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Exact totals by reason, and what may still be reported singly. Written by the hooks, read
/// by the daemon.
#[btf_map]
pub(crate) static FOLDS: PerCpuArray<Fold, { REASON_SLOTS as usize }> = PerCpuArray::new();

/// This agent's constants.
#[inline(always)]
pub(crate) fn agent() -> AgentConfig {
    // SAFETY: the static is valid and aligned. The read is volatile because the loader replaces
    // the value that the compiler sees.
    unsafe { core::ptr::read_volatile(&raw const AGENT) }
}

/// One field of [`KERNEL`]; the verifier folds it.
macro_rules! kernel {
    ($field:ident) => {{
        // SAFETY: the static is valid and aligned; volatile as in `agent`.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::KERNEL.$field) }
    }};
}
pub(crate) use kernel;

/// What is known of a process; none if it is none of the agent's.
#[inline(always)]
pub(crate) fn member(tgid: u32) -> Option<Member> {
    // SAFETY: a value may change while it is copied, field by field, each of them whole.
    unsafe { MEMBERS.get(tgid).copied() }
}

/// Since when a process is what it is; 0 if it is none of the agent's.
#[inline(always)]
pub(crate) fn since(tgid: u32) -> u64 {
    member(tgid).map_or(0, |member| member.since_ns)
}

/// Marks a process of the agent as one that left.
#[inline(always)]
pub(crate) fn mark_left(tgid: u32) {
    if let Some(member) = MEMBERS.get_ptr_mut(tgid) {
        // SAFETY: the entry is there while this program runs; the field is written whole.
        unsafe { (&raw mut (*member).state).write_volatile(MEMBER_LEFT) }
    }
}

/// Whether policy declares this local port for the agent.
#[inline(always)]
pub(crate) fn declares(config: &AgentConfig, port: u16) -> bool {
    if config.has_loopback == 0 || port == 0 {
        return false;
    }
    let (word, bit) = loopback_bit(port);
    // SAFETY: every port's word is within the array; volatile as in `agent`.
    unsafe { core::ptr::read_volatile(&raw const LOOPBACK[word]) & bit != 0 }
}

/// The constants for unix sockets.
#[inline(always)]
pub(crate) fn unix() -> UnixConfig {
    // SAFETY: as in `agent`.
    unsafe { core::ptr::read_volatile(&raw const UNIX) }
}

/// Whether policy names this unix socket for the agent.
#[inline(always)]
pub(crate) fn names(unix: &UnixConfig, name: &UnixName) -> bool {
    // SAFETY: nobody writes the map once the programs are attached.
    unix.has_names != 0 && name.length != 0 && unsafe { UNIX_NAMES.get(name) }.is_some()
}

/// Whether the agent's command is about to start, or runs.
#[inline(always)]
pub(crate) fn is_armed() -> bool {
    ARMED.get(0).is_some_and(|armed| *armed != 0)
}

/// Whether policy names this device for the agent.
#[inline(always)]
pub(crate) fn has_device(config: &AgentConfig, device: &Device) -> bool {
    // SAFETY: nobody writes the map once the programs are attached.
    config.has(FEATURE_DEVICES) && unsafe { DEVICES.get(device) }.is_some()
}
