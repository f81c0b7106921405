//! How the worker locks itself in: before it has a second thread, and before it serves anybody.
//!
//! Everything it may still do is done on descriptors that it was given. What is refused answers
//! `EPERM` rather than ending the process: a library that tries something goes on without, and a
//! worker that was taken over gains nothing by an error.

use std::collections::BTreeMap;

use caps::CapSet;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetStatus, Scope,
};
use nix::{
    libc,
    unistd::{Gid, Uid, getpid, setgroups, setresgid, setresuid},
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction,
    SeccompCmpArgLen::{Dword, Qword},
    SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

/// The newest Landlock version that was judged.
const NEWEST: ABI = ABI::V6;

/// What could not be locked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    #[error("restricting by Landlock")]
    Landlock(#[from] landlock::RulesetError),
    #[error("giving up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("becoming uid {0}")]
    Identity(u32, #[source] nix::Error),
    #[error("tying its life to the supervisor's")]
    Process(#[from] rustix::io::Errno),
    #[error("building the system call filter")]
    Build(#[from] seccompiler::BackendError),
    #[error("installing the system call filter; the kernel needs CONFIG_SECCOMP_FILTER")]
    Install(#[from] seccompiler::Error),
    #[error("it has {0} threads already")]
    Threads(usize),
    #[error("its supervisor is gone")]
    Orphan,
}

/// Locks this process in, for good. Answers whether Landlock is in force.
pub(super) fn confine(uid: u32, supervisor: u32) -> Result<bool, ConfineError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(ConfineError::Threads(threads));
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    rustix::thread::set_no_new_privs(true)?;
    let landlock = no_files()?;
    become_nobody(uid)?;
    // A change of id clears both.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    has_parent(supervisor)?;
    install(filter()?)?;
    Ok(landlock)
}

/// No file, no port, no signal to anybody outside. A kernel without Landlock is left with the
/// other locks: the filter has no call that opens anything.
fn no_files() -> Result<bool, landlock::RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

fn become_nobody(uid: u32) -> Result<(), ConfineError> {
    caps::clear(None, CapSet::Ambient)?;
    for capability in caps::runtime::thread_all_supported() {
        caps::drop(None, CapSet::Bounding, capability)?;
    }
    let failed = |error| ConfineError::Identity(uid, error);
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[]).map_err(failed)?;
    setresgid(group, group, group).map_err(failed)?;
    setresuid(user, user, user).map_err(failed)?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Condition = Result<SeccompCondition, seccompiler::BackendError>;

fn install(rules: Rules) -> Result<(), ConfineError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let allowed = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?;
    let allowed = BpfProgram::try_from(allowed)?;
    // Its flags lie in memory, where no filter can look; libc falls back to clone. Of two filters
    // the one with the smaller number would win, so this is told apart before the other.
    let absent = SeccompFilter::new(
        Rules::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        arch,
    )?;
    apply_filter(&BpfProgram::try_from(absent)?)?;
    apply_filter(&allowed)?;
    Ok(())
}

/// What the runtime, TLS, and the protocols need on descriptors that are open already.
const FREE: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_shutdown,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // libc's end of the ENOSYS above.
    libc::SYS_clone3,
];

#[cfg(target_arch = "x86_64")]
const FREE_OLD: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const FREE_OLD: &[i64] = &[];

fn filter() -> Result<Rules, ConfineError> {
    let mut rules: Rules = FREE
        .iter()
        .chain(FREE_OLD)
        .map(|call| (*call, Vec::new()))
        .collect();
    let own = u64::from(getpid().as_raw().unsigned_abs());
    let fast_open = libc::MSG_FASTOPEN.unsigned_abs().into();
    let exec = libc::PROT_EXEC.unsigned_abs().into();
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    // Also to an address: answers to DNS questions go out of one socket to many askers. That
    // socket is bound to a loopback address, and a datagram from there does not leave the host.
    rules.insert(libc::SYS_sendto, any([all([no_bit(3, fast_open)])])?);
    rules.insert(libc::SYS_sendmsg, any([all([no_bit(2, fast_open)])])?);
    rules.insert(libc::SYS_mmap, any([all([no_bit(2, exec)])])?);
    rules.insert(libc::SYS_mprotect, any([all([no_bit(2, exec)])])?);
    rules.insert(libc::SYS_clone, any([all([has_bit(0, thread)])])?);
    // To itself, to abort.
    rules.insert(libc::SYS_tgkill, any([all([is(0, own)])])?);
    rules.insert(
        libc::SYS_prctl,
        any([all([is(0, number(libc::PR_SET_NAME))])])?,
    );
    rules.insert(libc::SYS_ioctl, any([all([is(1, libc::FIONBIO)])])?);
    let controls = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
    let controls = controls.into_iter().chain([libc::F_DUPFD_CLOEXEC]);
    rules.insert(
        libc::SYS_fcntl,
        any(controls.map(|command| all([is(1, number(command))])))?,
    );
    rules.insert(
        libc::SYS_setsockopt,
        any([
            (libc::IPPROTO_TCP, libc::TCP_NODELAY),
            (libc::SOL_SOCKET, libc::SO_LINGER),
        ]
        .map(|(level, option)| all([is(1, number(level)), is(2, number(option))])))?,
    );
    // A stream that nobody else has: a datagram socket could send to any path.
    let stream = number(libc::SOCK_STREAM);
    let kind = SeccompCondition::new(1, Dword, SeccompCmpOp::MaskedEq(0xf), stream);
    rules.insert(
        libc::SYS_socketpair,
        any([all([is(0, number(libc::AF_UNIX)), kind])])?,
    );
    Ok(rules)
}

fn number(value: i32) -> u64 {
    value.unsigned_abs().into()
}

fn any(
    rules: impl IntoIterator<Item = Result<SeccompRule, seccompiler::BackendError>>,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    rules.into_iter().collect()
}

fn all<const N: usize>(
    conditions: [Condition; N],
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

fn is(argument: u8, value: u64) -> Condition {
    SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value)
}

fn no_bit(argument: u8, bit: u64) -> Condition {
    SeccompCondition::new(argument, Qword, SeccompCmpOp::MaskedEq(bit), 0)
}

fn has_bit(argument: u8, bit: u64) -> Condition {
    SeccompCondition::new(argument, Qword, SeccompCmpOp::MaskedEq(bit), bit)
}

/// Refuses to go on without the supervisor, which may have died before the two were tied.
fn has_parent(supervisor: u32) -> Result<(), ConfineError> {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent == i32::try_from(supervisor).ok() {
        return Ok(());
    }
    Err(ConfineError::Orphan)
}
