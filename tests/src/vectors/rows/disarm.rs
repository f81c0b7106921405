//! Taking the boundary away, or getting out from under it.

use crate::vectors::{
    Expected, Oracle, Row, datagram, fails, left, open, passes,
    session::Who::{self, Root},
};

/// It moved, and was killed before it could do anything outside.
const LEFT: Expected = left("cgroup_attach_task", "left_cgroup");
/// Its child is made outside. It is killed and recorded, but on another processor it may run first.
const BORN: Expected =
    open("a race: the child is killed, and may speak first; a container sees no such files");
const CGROUPS: &[&str] = &["mount namespace", "uid"];
const NO_CGROUP: Expected = fails(libc::ENOENT);
const NAMESPACES: &[&str] = &["seccomp"];
const NO_NAMESPACE: Expected = fails(libc::EPERM);
const STILL_IN: Expected = datagram("sendmsg4");
const BPF: &[&str] = &["seccomp", "capabilities"];
const NO_BPF: Expected = fails(libc::EPERM);
const SEEN: &[&str] = &["pid namespace"];
const NO_GATEWAY: Expected = fails(libc::ESRCH);
const FILES: &[&str] = &["mount namespace", "uid"];
const READ_ONLY: Expected = fails(libc::EROFS);
const ROOTS: Expected = open("root's file, and this is root: BPF-LSM or a mount hides it");

const fn by(mut row: Row, who: Who) -> Row {
    row.control = who;
    row
}

const fn cgroup(name: &'static str, attached: Expected) -> Row {
    by(Row::both(name, attached).launcher(CGROUPS, NO_CGROUP), Root)
}

const fn gateway(name: &'static str) -> Row {
    by(
        Row::both(name, fails(libc::EPERM)).launcher(SEEN, NO_GATEWAY),
        Root,
    )
    .at(Oracle::Caller)
}

pub(super) const ROWS: &[Row] = &[
    cgroup("cgroup-root", LEFT),
    cgroup("cgroup-parent", LEFT),
    cgroup("cgroup-sibling", LEFT),
    cgroup("cgroup-threads", fails(libc::EOPNOTSUPP))
        .uncontrolled("a thread stays in its own threaded tree, whoever it is"),
    cgroup("cgroup-born", BORN),
    cgroup("cgroup-child", STILL_IN),
    cgroup("cgroup-threaded", STILL_IN),
    cgroup("cgroup-remove", fails(libc::EBUSY)).uncontrolled("never while somebody is inside"),
    cgroup("cgroup-freeze", ROOTS).at(Oracle::Caller),
    Row::both("namespace-user", STILL_IN).launcher(NAMESPACES, NO_NAMESPACE),
    Row::both("namespace-mount", STILL_IN).launcher(NAMESPACES, NO_NAMESPACE),
    Row::both("namespace-cgroup", STILL_IN).launcher(NAMESPACES, NO_NAMESPACE),
    Row::both("namespace-network", open("nothing leads out of it"))
        .launcher(NAMESPACES, NO_NAMESPACE)
        .at(Oracle::Caller),
    by(Row::both("bpf-links", NO_BPF).launcher(BPF, NO_BPF), Root).at(Oracle::Caller),
    by(
        Row::both("bpf-programs", NO_BPF).launcher(BPF, NO_BPF),
        Root,
    )
    .at(Oracle::Caller),
    by(
        Row::both("bpf-detach", fails(libc::EINVAL)).launcher(BPF, NO_CGROUP),
        Root,
    )
    .uncontrolled("a link is not detached this way, by nobody"),
    by(Row::both("bpf-unmount", NO_BPF).launcher(BPF, NO_BPF), Root).at(Oracle::Caller),
    gateway("gateway-signal").attached(open(
        "CAP_KILL reaches every process in sight; an agent whose gateway is gone is shut in",
    )),
    gateway("gateway-ptrace"),
    gateway("gateway-memory").attached(fails(libc::EACCES)),
    gateway("gateway-descriptor"),
    // What it finds at that path is `/dev/null`.
    by(
        Row::both("audit", ROOTS).launcher(&["mount namespace", "uid"], passes()),
        Root,
    )
    .at(Oracle::Audit),
    by(
        Row::both("sysrq", ROOTS).launcher(FILES, fails(libc::EACCES)),
        Root,
    )
    .rooted(READ_ONLY)
    .at(Oracle::Caller)
    .unless(&[libc::ENOENT]),
    by(
        Row::both("core-pattern", ROOTS).launcher(FILES, fails(libc::EACCES)),
        Root,
    )
    .rooted(READ_ONLY)
    .at(Oracle::Caller),
];
