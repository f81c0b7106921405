//! The agent's processes: who they are, and that none of them leaves.
//!
//! These programs run for every task of the host, so each first asks whether this is the agent's.
//! An entry of `MEMBERS` is made when a process comes into the agent's cgroup and goes with its
//! last thread: a task that is outside by the time its move is seen is known by it.

use aya_ebpf::{EbpfContext, programs::RawTracePointContext};
use gateway_common::{
    agent::AgentConfig,
    endpoint::Endpoint,
    event::Hook,
    flow::Task,
    process::{
        LEAVER_LEFT, LEAVER_UNKNOWN, MEMBER_INSIDE, MEMBER_LEFT, Member, PROCESS_ENTER,
        PROCESS_EXEC, PROCESS_EXIT, PROCESS_FORK,
    },
    reason::Reason,
};

use crate::{
    ctx,
    emit::{self, Facts},
    maps::{self, MEMBERS, kernel},
};

/// What the kernel expects of a tracepoint's program.
const DONE: i32 = 0;

/// Which entry of `MEMBERS` is to be made or left alone (`BPF_NOEXIST`, `BPF_ANY`).
const ONLY_NEW: u64 = 1;
const ANY: u64 = 0;

/// Whether the loader filled everything in.
#[inline(always)]
fn is_ready(config: &AgentConfig) -> bool {
    config.is_configured() && kernel!(present) == 1
}

/// A task executed a program.
#[inline(always)]
pub(crate) fn exec(ctx: &RawTracePointContext) -> i32 {
    let config = maps::agent();
    if !is_ready(&config) {
        return DONE;
    }
    let inside = ctx::current_within(config.cgroup, kernel!(level));
    let tgid = ctx::current_tgid();
    let task: u64 = ctx.arg(0);
    let known = member(tgid, task);
    if !inside && known.is_none() {
        return DONE;
    }
    let binprm: u64 = ctx.arg(2);
    let mut member = known.unwrap_or(Member {
        since_ns: 0,
        started_ns: started(task),
        state: MEMBER_INSIDE,
        zero: 0,
    });
    if !inside || member.state == MEMBER_LEFT {
        left(ctx, &config, Hook::CgroupAttachTask, task, &member);
        return DONE;
    }
    member.since_ns = emit::now();
    if MEMBERS.insert(tgid, member, ANY).is_err() {
        overflow(ctx, &config, task);
        return DONE;
    }
    let file = ctx::kernel_memory(binprm, kernel!(binprm_file)).unwrap_or(0);
    let name = ctx::kernel_memory(binprm, kernel!(binprm_name)).unwrap_or(0);
    emit::process(PROCESS_EXEC, tgid, &member, (0, 0), file, name);
    DONE
}

/// A task made another, which has not run yet.
#[inline(always)]
pub(crate) fn fork(ctx: &RawTracePointContext) -> i32 {
    let config = maps::agent();
    if !is_ready(&config) {
        return DONE;
    }
    let (parent, child): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let inside = ctx::current_within(config.cgroup, kernel!(level));
    let sets: (Option<u64>, Option<u64>) = (
        ctx::kernel_memory(parent, kernel!(task_cgroups)),
        ctx::kernel_memory(child, kernel!(task_cgroups)),
    );
    // The same set, the same cgroups: all but those who use CLONE_INTO_CGROUP.
    let child_inside = if sets.0 == sets.1 {
        inside
    } else {
        task_within(child, &config)
    };
    let parent_tgid = ctx::current_tgid();
    let forked = member(parent_tgid, parent);
    if !inside && !child_inside && forked.is_none() {
        return DONE;
    }
    let tgid: u32 = ctx::kernel_memory(child, kernel!(task_tgid)).unwrap_or(0);
    if tgid == parent_tgid || tgid == 0 {
        // A thread: its process is known already.
        return DONE;
    }
    let stays = child_inside && forked.is_none_or(|parent| parent.state == MEMBER_INSIDE);
    let member = Member {
        since_ns: emit::now(),
        started_ns: started(child),
        state: MEMBER_INSIDE,
        zero: 0,
    };
    if MEMBERS.insert(tgid, member, ANY).is_err() {
        if config.observes() {
            return DONE;
        }
        // The one that forked dies now, so its place is the child's.
        overflow(ctx, &config, parent);
        if MEMBERS.remove(parent_tgid).is_err() || MEMBERS.insert(tgid, member, ANY).is_err() {
            emit::order(LEAVER_UNKNOWN, tgid, &member);
        }
        return DONE;
    }
    let parent_since = forked.map_or(0, |parent| parent.since_ns);
    emit::process(
        PROCESS_FORK,
        tgid,
        &member,
        (parent_tgid, parent_since),
        0,
        0,
    );
    if !stays {
        left(ctx, &config, Hook::ProcessFork, child, &member);
    }
    DONE
}

/// A task ends.
#[inline(always)]
pub(crate) fn exit(ctx: &RawTracePointContext) -> i32 {
    let tgid = ctx::current_tgid();
    let Some(member) = maps::member(tgid) else {
        return DONE;
    };
    let task: u64 = ctx.arg(0);
    let signal: u64 = ctx::kernel_memory(task, kernel!(task_signal)).unwrap_or(0);
    let live: u32 = ctx::kernel_memory(signal, kernel!(signal_live)).unwrap_or(1);
    // The count of threads went down before. Two that end at once both find it 0: the second
    // finds no entry.
    if live == 0 && MEMBERS.remove(tgid).is_ok() {
        emit::process(PROCESS_EXIT, tgid, &member, (0, 0), 0, 0);
    }
    DONE
}

/// A task was moved to another cgroup and has not returned to user space.
#[inline(always)]
pub(crate) fn moved(ctx: &RawTracePointContext) -> i32 {
    let config = maps::agent();
    if !is_ready(&config) {
        return DONE;
    }
    let (destination, task): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    // Hierarchies of version 1 are of no interest, and their cgroups' numbers are others.
    let root: u64 = ctx::kernel_memory(destination, kernel!(cgroup_root)).unwrap_or(0);
    let hierarchy: u32 = ctx::kernel_memory(root, kernel!(root_hierarchy)).unwrap_or(0);
    if hierarchy != 0 {
        return DONE;
    }
    let tgid: u32 = ctx::kernel_memory(task, kernel!(task_tgid)).unwrap_or(0);
    let known = member(tgid, task);
    let inside = cgroup_within(destination, &config);
    match known {
        None if !inside => {}
        None => entered(ctx, &config, task, tgid),
        // One that left and came back has to die all the same.
        Some(member) if inside && member.state == MEMBER_INSIDE => {}
        Some(member) => left(ctx, &config, Hook::CgroupAttachTask, task, &member),
    }
    DONE
}

/// A process that runs already came into the agent's cgroup.
#[inline(always)]
fn entered(ctx: &RawTracePointContext, config: &AgentConfig, task: u64, tgid: u32) {
    let started_ns = started(task);
    let member = Member {
        since_ns: started_ns,
        started_ns,
        state: MEMBER_INSIDE,
        zero: 0,
    };
    if MEMBERS.insert(tgid, member, ONLY_NEW).is_err() {
        if !config.observes() {
            emit::order(LEAVER_LEFT, tgid, &member);
            let reason = Reason::ProcessTableFull;
            record(ctx, config, Hook::CgroupAttachTask, reason, task, &member);
        }
        return;
    }
    let memory: u64 = ctx::kernel_memory(task, kernel!(task_mm)).unwrap_or(0);
    let file: u64 = ctx::kernel_memory(memory, kernel!(mm_exe)).unwrap_or(0);
    emit::process(PROCESS_ENTER, tgid, &member, (0, 0), file, 0);
}

/// Ends a process that is outside, and whoever took it there if that is one of the agent's.
#[inline(always)]
fn left(ctx: &RawTracePointContext, config: &AgentConfig, hook: Hook, task: u64, member: &Member) {
    let tgid: u32 = ctx::kernel_memory(task, kernel!(task_tgid)).unwrap_or(0);
    let again = member.state == MEMBER_LEFT;
    if config.observes() {
        // Told once, and free from then on.
        let gone = MEMBERS.remove(tgid);
        if gone.is_err() {
            return;
        }
    } else {
        maps::mark_left(tgid);
        // Itself, or another of the agent's that moved it or forked it.
        let current = ctx::current_tgid();
        if let Some(by) = maps::member(current)
            && !ctx::kill_current()
        {
            emit::order(LEAVER_LEFT, current, &by);
        }
        emit::order(LEAVER_LEFT, tgid, member);
    }
    if !again {
        record(ctx, config, hook, Reason::LeftCgroup, task, member);
    }
}

/// Ends the current process, one of the agent's, because one more cannot be kept account of.
#[inline(always)]
fn overflow(ctx: &RawTracePointContext, config: &AgentConfig, task: u64) {
    if config.observes() {
        return;
    }
    let member = Member {
        since_ns: maps::since(ctx::current_tgid()),
        started_ns: started(task),
        state: MEMBER_LEFT,
        zero: 0,
    };
    if !ctx::kill_current() {
        emit::order(LEAVER_LEFT, ctx::current_tgid(), &member);
    }
    record(
        ctx,
        config,
        Hook::ProcessFork,
        Reason::ProcessTableFull,
        task,
        &member,
    );
}

/// Reports a refusal that is about this task, which need not be the current one.
#[inline(always)]
fn record<C: EbpfContext>(
    ctx: &C,
    config: &AgentConfig,
    hook: Hook,
    reason: Reason,
    task: u64,
    member: &Member,
) {
    let cred: u64 = ctx::kernel_memory(task, kernel!(task_cred)).unwrap_or(0);
    let facts = Facts {
        task: Task {
            cgroup: config.cgroup,
            since_ns: member.since_ns,
            tgid: ctx::kernel_memory(task, kernel!(task_tgid)).unwrap_or(0),
            pid: ctx::kernel_memory(task, kernel!(task_pid)).unwrap_or(0),
            uid: ctx::kernel_memory(cred, kernel!(cred_uid)).unwrap_or(0),
            gid: ctx::kernel_memory(cred, kernel!(cred_gid)).unwrap_or(0),
            comm: ctx::kernel_memory(task, kernel!(task_comm)).unwrap_or([0; 16]),
        },
        source: Endpoint::NONE,
        destination: Endpoint::NONE,
        cookie: 0,
        family: 0,
        socket_type: 0,
        protocol: 0,
    };
    emit::refusal(ctx, config, hook, reason, &facts);
}

/// What is known of the process of this task.
#[inline(always)]
fn member(tgid: u32, task: u64) -> Option<Member> {
    /// To which user space knows when a process began that was there before the programs.
    const TICK_NS: u64 = 10_000_000;
    let found = maps::member(tgid)?;
    if found.started_ns / TICK_NS == started(task) / TICK_NS {
        return Some(found);
    }
    // Entered by user space at the moment when it ended: the number is somebody else's by now.
    // An entry that cannot be removed is found false again the next time.
    MEMBERS.remove(tgid).ok();
    None
}

/// When a process began; of any of its threads.
#[inline(always)]
fn started(task: u64) -> u64 {
    let leader: u64 = ctx::kernel_memory(task, kernel!(task_leader)).unwrap_or(0);
    ctx::kernel_memory(leader, kernel!(task_start)).unwrap_or(0)
}

/// Whether a task is in the agent's cgroup or below it.
#[inline(always)]
pub(crate) fn task_within(task: u64, config: &AgentConfig) -> bool {
    let set: u64 = ctx::kernel_memory(task, kernel!(task_cgroups)).unwrap_or(0);
    let cgroup: u64 = ctx::kernel_memory(set, kernel!(css_cgroup)).unwrap_or(0);
    cgroup_within(cgroup, config)
}

/// Whether a cgroup is the agent's or lies below it.
#[inline(always)]
pub(crate) fn cgroup_within(cgroup: u64, config: &AgentConfig) -> bool {
    let level = kernel!(level);
    let depth: u32 = ctx::kernel_memory(cgroup, kernel!(cgroup_level)).unwrap_or(0);
    if depth < level {
        return false;
    }
    let slot = kernel!(cgroup_ancestors) + level * 8;
    let ancestor: u64 = ctx::kernel_memory(cgroup, slot).unwrap_or(0);
    let node: u64 = ctx::kernel_memory(ancestor, kernel!(cgroup_node)).unwrap_or(0);
    let id: u64 = ctx::kernel_memory(node, kernel!(node_id)).unwrap_or(0);
    id == config.cgroup && id != 0
}
