//! Tells user space of a refusal: counts it exactly, reports it while the budget lasts.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
};
use aya_log_ebpf::debug;
use gateway_common::{
    ABI_VERSION,
    agent::AgentConfig,
    endpoint::Endpoint,
    event::{Event, FLAG_OBSERVED, Hook, NamedEvent},
    flow::{Flow, Task},
    passage::Passage,
    process::{Leaver, Member, ProcessEvent},
    reason::Reason,
    unix::UnixName,
};

use crate::ctx;
use crate::maps::{
    DENIALS, FOLDS, LEAVERS, PASSAGE_SEQUENCE, PASSAGES, PROCESS_SEQUENCE, PROCESSES, SEQUENCE,
    kernel,
};

/// What a hook knows of a refusal.
pub(crate) struct Facts {
    pub(crate) task: Task,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) cookie: u64,
    pub(crate) family: u16,
    pub(crate) socket_type: u16,
    pub(crate) protocol: u16,
}

impl Facts {
    /// Nothing is known but who called.
    #[inline(always)]
    pub(crate) const fn of(task: Task) -> Self {
        Self {
            task,
            source: Endpoint::NONE,
            destination: Endpoint::NONE,
            cookie: 0,
            family: 0,
            socket_type: 0,
            protocol: 0,
        }
    }
}

/// Nanoseconds since boot.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes nothing and answers a number.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Counts a refusal and reports it if this reason's budget on this CPU allows.
#[inline(always)]
pub(crate) fn refusal<C: EbpfContext>(
    context: &C,
    config: &AgentConfig,
    hook: Hook,
    reason: Reason,
    facts: &Facts,
) {
    let Some(report) = admit(context, hook, reason) else {
        return;
    };
    let Some(mut entry) = DENIALS.reserve(0) else {
        return;
    };
    entry.write(report.event(config, hook, reason, facts));
    entry.submit(0);
}

/// As [`refusal`], with the name of the unix socket.
#[inline(always)]
pub(crate) fn refusal_of_name<C: EbpfContext>(
    context: &C,
    config: &AgentConfig,
    hook: Hook,
    reason: Reason,
    facts: &Facts,
    name: &UnixName,
) {
    let Some(report) = admit(context, hook, reason) else {
        return;
    };
    let Some(mut entry) = DENIALS.reserve_untyped::<NamedEvent>(0) else {
        return;
    };
    let slot = entry.as_mut_ptr();
    // SAFETY: the ring gave out the place for both, which nobody else sees before it is
    // submitted. Written one by one, they need no second copy on the stack, which is small.
    unsafe {
        (&raw mut (*slot).event).write(report.event(config, hook, reason, facts));
        (&raw mut (*slot).name).write(*name);
    }
    entry.submit(0);
}

/// Numbers of a refusal that is to be reported singly.
struct Report {
    time_ns: u64,
    total: u64,
    sequence: u64,
}

impl Report {
    #[inline(always)]
    fn event(&self, config: &AgentConfig, hook: Hook, reason: Reason, facts: &Facts) -> Event {
        Event {
            abi: ABI_VERSION,
            // SAFETY: the helper takes nothing and answers a number.
            cpu: unsafe { bpf_get_smp_processor_id() },
            sequence: self.sequence,
            time_ns: self.time_ns,
            total: self.total,
            cookie: facts.cookie,
            task: facts.task,
            source: facts.source,
            destination: facts.destination,
            agent: config.agent,
            hook: hook as u16,
            reason: reason.code(),
            family: facts.family,
            socket_type: facts.socket_type,
            protocol: facts.protocol,
            flags: if config.observes() { FLAG_OBSERVED } else { 0 },
            zero: 0,
        }
    }
}

/// Counts a refusal; answers its numbers if this reason's budget on this CPU allows a report.
#[inline(always)]
fn admit<C: EbpfContext>(context: &C, hook: Hook, reason: Reason) -> Option<Report> {
    let fold = FOLDS.get_ptr_mut(u32::from(reason.code()))?;
    let now = now();
    // SAFETY: the slot belongs to this CPU and outlives the program. A softirq may run another
    // hook in between; the budget may be off by one then, the total is exact.
    let (total, report) = unsafe { (ctx::count_up(&raw mut (*fold).total), (*fold).admit(now)) };
    if !report {
        return None;
    }
    debug!(
        context,
        "refused: hook {} reason {}",
        hook as u16,
        reason.code()
    );
    let sequence = SEQUENCE.get_ptr_mut(0)?;
    // SAFETY: as above. It counts up whether or not the ring has room, so a gap is the loss.
    let sequence = unsafe { ctx::count_up(sequence) };
    Some(Report {
        time_ns: now,
        total,
        sequence,
    })
}

/// Enters what is let through into the ledger. Answers whether there was room.
#[inline(always)]
pub(crate) fn passage(flow: &Flow, token: u16) -> bool {
    let Some(sequence) = PASSAGE_SEQUENCE.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the slot belongs to this CPU and outlives the program.
    let sequence = unsafe { ctx::count_up(sequence) };
    let Some(mut entry) = PASSAGES.reserve(0) else {
        return false;
    };
    let slot: *mut Passage = entry.as_mut_ptr();
    // SAFETY: the slot is reserved, aligned and as large as a passage; every field is written.
    // One by one, because the whole would pass over the stack, which is short.
    unsafe {
        (&raw mut (*slot).abi).write(ABI_VERSION);
        (&raw mut (*slot).cpu).write(bpf_get_smp_processor_id());
        (&raw mut (*slot).sequence).write(sequence);
        (&raw mut (*slot).flow).copy_from_nonoverlapping(flow, 1);
        (&raw mut (*slot).token).write(token);
        (&raw mut (*slot).zero).write([0; 6]);
    }
    entry.submit(0);
    true
}

/// Has user space kill a process, or all of the agent. What finds no room here stands in
/// `MEMBERS`.
#[inline(always)]
pub(crate) fn order(kind: u32, tgid: u32, member: &Member) {
    let Some(mut entry) = LEAVERS.reserve(0) else {
        return;
    };
    entry.write(Leaver {
        abi: ABI_VERSION,
        kind,
        started_ns: member.started_ns,
        tgid,
        zero: 0,
    });
    entry.submit(0);
}

/// Tells user space what became of a process.
#[inline(always)]
pub(crate) fn process(
    kind: u32,
    tgid: u32,
    member: &Member,
    parent: (u32, u64),
    file: u64,
    name: u64,
) {
    let Some(sequence) = PROCESS_SEQUENCE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the slot belongs to this CPU and outlives the program. It counts up whether or not
    // the ring has room, so a gap is the loss.
    let sequence = unsafe { ctx::count_up(sequence) };
    let Some(mut entry) = PROCESSES.reserve(0) else {
        return;
    };
    let inode: u64 = ctx::kernel_memory(file, kernel!(file_inode)).unwrap_or(0);
    let filesystem: u64 = ctx::kernel_memory(inode, kernel!(inode_super)).unwrap_or(0);
    let number: u64 = ctx::kernel_memory(inode, kernel!(inode_number)).unwrap_or(0);
    let device: u32 = ctx::kernel_memory(filesystem, kernel!(super_device)).unwrap_or(0);
    let event: *mut ProcessEvent = entry.as_mut_ptr();
    // SAFETY: the entry has room for the whole event, field by field; what is not written of the
    // name comes behind its NUL.
    unsafe {
        (*event).abi = ABI_VERSION;
        (*event).cpu = bpf_get_smp_processor_id();
        (*event).sequence = sequence;
        (*event).since_ns = member.since_ns;
        (*event).started_ns = member.started_ns;
        (*event).parent_since_ns = parent.1;
        (*event).inode = number;
        (*event).device = device;
        (*event).kind = kind;
        (*event).tgid = tgid;
        (*event).parent_tgid = parent.0;
        if name == 0 || !ctx::kernel_string(name, &raw mut (*event).name) {
            (*event).name[0] = 0;
        }
    }
    entry.submit(0);
}
