//! The system calls that an agent does not have.
//!
//! A list of what is refused, since agents run anything: an allow-list would have to name nearly
//! all of the rest. What keeps such a list honest is its end: numbers over the highest known when
//! this was written answer `ENOSYS`, so a call that a later kernel brings is closed until
//! somebody looked at it. The same rule ends x32, whose numbers lie far above, and another
//! architecture's calls end the process.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _},
};

use gateway_common::verdict::{EAFNOSUPPORT, EPERM};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter, sock_filter,
};

use super::order::Order;

/// The highest system call number that was judged: `file_setattr`, kernel 6.17. From 424 on all
/// architectures number alike.
const HIGHEST: u32 = 469;

/// Why the filters are not in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeccompError {
    #[error("building a system call filter")]
    Build(#[from] seccompiler::BackendError),
    #[error("installing a system call filter; the kernel needs CONFIG_SECCOMP_FILTER")]
    Install(#[from] seccompiler::Error),
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Installs the filters; everything that this process starts has them too.
pub(super) fn install(order: &Order) -> Result<u64, SeccompError> {
    let mut installed = 0;
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    // Of several filters the strictest answers, so each errno has a filter of its own.
    for (rules, action) in [
        (refused(order)?, errno(EPERM)),
        (families(order)?, errno(EAFNOSUPPORT)),
        (absent(order), errno(libc::ENOSYS)),
    ] {
        if !rules.is_empty() {
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch()?)?;
            apply_filter(&BpfProgram::try_from(filter)?)?;
            installed += 1;
        }
    }
    apply_filter(&unknown())?;
    Ok(installed + 1)
}

/// Counts the filters in force on this process, as the kernel tells it.
#[derive(Debug)]
pub(super) struct Count {
    /// Opened while it may be.
    status: Option<File>,
    before: u64,
}

impl Count {
    pub(super) fn begin() -> Self {
        let mut count = Self {
            status: File::open("/proc/self/status").ok(),
            before: 0,
        };
        count.before = count.now();
        count
    }

    /// How many of those that were put on since are not there. What cannot be read is not there.
    pub(super) fn missing(&mut self, installed: u64) -> u64 {
        (self.before + installed).saturating_sub(self.now())
    }

    fn now(&mut self) -> u64 {
        let mut text = String::new();
        let read = self.status.as_mut().is_some_and(|status| {
            let again = status
                .rewind()
                .and_then(|()| status.read_to_string(&mut text));
            again.is_ok()
        });
        let line = text
            .lines()
            .find_map(|it| it.strip_prefix("Seccomp_filters:"));
        line.filter(|_| read)
            .and_then(|line| line.trim().parse().ok())
            .unwrap_or(0)
    }
}

fn arch() -> Result<TargetArch, seccompiler::BackendError> {
    std::env::consts::ARCH.try_into()
}

/// `ENOSYS` for every number over [`HIGHEST`]. The filters before it have checked the
/// architecture.
fn unknown() -> Vec<sock_filter> {
    // Classic BPF: load the number at offset 0; jump if greater; return.
    const LOAD: u16 = 0x20;
    const JUMP_IF_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code, jt, k| sock_filter { code, jt, jf: 0, k };
    vec![
        step(LOAD, 0, 0),
        step(JUMP_IF_GREATER, 1, HIGHEST),
        step(RETURN, 0, ALLOW),
        step(RETURN, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
    ]
}

/// Calls that must look as if the kernel had them not.
fn absent(order: &Order) -> Rules {
    let mut rules = Rules::new();
    if !order.user_namespaces {
        // Its flags lie in memory, where no filter can look; libc falls back to clone.
        rules.insert(libc::SYS_clone3, Vec::new());
    }
    rules
}

/// Socket families: unix, IPv4, IPv6, and netlink's routing part, by which programs find their
/// addresses. Everything else has no cgroup hook.
fn families(order: &Order) -> Result<Rules, seccompiler::BackendError> {
    let mut known = vec![libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    if order.unix {
        known.push(libc::AF_UNIX);
    }
    let other = known
        .into_iter()
        .map(|family| is_not(0, family))
        .collect::<Result<Vec<_>, _>>()?;
    let netlink = vec![
        SeccompCondition::new(0, Dword, SeccompCmpOp::Eq, libc::AF_NETLINK as u64)?,
        is_not(2, libc::NETLINK_ROUTE)?,
    ];
    let rules = vec![SeccompRule::new(other)?, SeccompRule::new(netlink)?];
    let mut pairs = vec![SeccompRule::new(vec![is_not(0, libc::AF_UNIX)?])?];
    if !order.unix {
        // One of a pair of datagram sockets can send to any other; a raw one is the same.
        const TYPE: u64 = 0xf;
        for datagram in [libc::SOCK_DGRAM, libc::SOCK_RAW] {
            pairs.push(SeccompRule::new(vec![SeccompCondition::new(
                1,
                Dword,
                SeccompCmpOp::MaskedEq(TYPE),
                u64::from(datagram.unsigned_abs()),
            )?])?);
        }
    }
    Ok(Rules::from([
        (libc::SYS_socket, rules),
        (libc::SYS_socketpair, pairs),
    ]))
}

fn is_not(argument: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(
        argument,
        Dword,
        SeccompCmpOp::Ne,
        u64::from(value.unsigned_abs()),
    )
}

/// Calls by which a process leaves its boundary, reaches into another, or changes the host.
fn refused(order: &Order) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    let mut refuse = |calls: &[i64]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    // The kernel's own machinery.
    refuse(&[
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_quotactl,
        libc::SYS_quotactl_fd,
        libc::SYS_acct,
        libc::SYS_syslog,
        libc::SYS_vhangup,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_lookup_dcookie,
        libc::SYS_nfsservctl,
        // Watching or holding up other people's files.
        libc::SYS_fanotify_init,
        libc::SYS_fanotify_mark,
        // Files by handle go past every path.
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        // Keys make the kernel call helpers outside, and are shared between processes.
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_setns,
    ]);
    #[cfg(target_arch = "x86_64")]
    refuse(&[
        libc::SYS_iopl,
        libc::SYS_ioperm,
        libc::SYS_modify_ldt,
        libc::SYS_uselib,
        libc::SYS_ustat,
        libc::SYS_sysfs,
        libc::SYS__sysctl,
    ]);
    if !order.io_uring {
        // Its worker threads make calls that no filter sees.
        refuse(&[
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
        ]);
    }
    if !order.ptrace {
        // Reaching into another process, or taking its descriptors.
        refuse(&[
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_process_madvise,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
        ]);
    }
    if !order.user_namespaces {
        /// `open_tree_attr`, kernel 6.15.
        const OPEN_TREE_ATTR: i64 = 467;
        refuse(&[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            OPEN_TREE_ATTR,
            libc::SYS_fsopen,
            libc::SYS_fsmount,
            libc::SYS_fsconfig,
            libc::SYS_fspick,
            libc::SYS_mount_setattr,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
        ]);
        rules.insert(libc::SYS_clone, flags(NAMESPACES)?);
        // In clone this bit is part of the exit signal.
        let time = flags(&[libc::CLONE_NEWTIME])?;
        let unshare = flags(NAMESPACES)?.into_iter().chain(time).collect();
        rules.insert(libc::SYS_unshare, unshare);
    }
    // Typing into a terminal in the operator's place.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        SeccompCondition::new(1, Dword, SeccompCmpOp::Eq, request)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    });
    rules.insert(
        libc::SYS_ioctl,
        typing.into_iter().collect::<Result<_, _>>()?,
    );
    // Asking for the personality, and setting the usual one, is all that is left of it.
    let usual = SeccompRule::new(vec![
        is_not(0, 0)?,
        SeccompCondition::new(0, Dword, SeccompCmpOp::Ne, 0xffff_ffff)?,
    ])?;
    rules.insert(libc::SYS_personality, vec![usual]);
    Ok(rules)
}

const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// One rule for each flag in the first argument.
fn flags(flags: &[i32]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |flag: &i32| {
        let bit = u64::from(flag.unsigned_abs());
        SeccompCondition::new(0, Dword, SeccompCmpOp::MaskedEq(bit), bit)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    flags.iter().map(rule).collect()
}
