//! Families that no program of a cgroup sees, other gates into the kernel, and devices.

use crate::vectors::{Expected, Oracle, Row, datagram, fails, killed, open, refused};

const FAMILY: &[&str] = &["seccomp"];
const NO_FAMILY: Expected = fails(libc::EAFNOSUPPORT);
const UNSEEN: Expected = open("no program of a cgroup sees this family: BPF-LSM does, where it is");
const NOT_BUILT: &[i32] = &[
    libc::EAFNOSUPPORT,
    libc::EPROTONOSUPPORT,
    libc::ESOCKTNOSUPPORT,
];
const CAPABILITIES: &[&str] = &["seccomp", "capabilities"];
const GATE: &[&str] = &["seccomp"];
const DEVICES: &[&str] = &["device", "capabilities"];
const NO_DEVICE: Expected = refused(libc::EPERM, "device", "device");
/// No driver behind the number.
const NO_DRIVER: &[i32] = &[libc::ENXIO, libc::ENODEV, libc::ENOENT];

const fn family(name: &'static str) -> Row {
    Row::both(name, UNSEEN)
        .launcher(FAMILY, NO_FAMILY)
        .at(Oracle::Caller)
        .unless(NOT_BUILT)
}

const fn by_root(mut row: Row) -> Row {
    row.control = crate::vectors::session::Who::Root;
    row
}

const fn node(name: &'static str) -> Row {
    by_root(Row::both(name, NO_DEVICE).launcher(DEVICES, fails(libc::EPERM)))
        .at(Oracle::Caller)
        .unless(NO_DRIVER)
}

pub(super) const ROWS: &[Row] = &[
    by_root(Row::both("packet-raw", UNSEEN).launcher(CAPABILITIES, NO_FAMILY)),
    by_root(Row::both("packet-dgram", UNSEEN).launcher(CAPABILITIES, NO_FAMILY)),
    Row::both(
        "packet-namespace",
        open("a namespace of its own, in which nothing leads out"),
    )
    .launcher(&["seccomp"], fails(libc::EPERM))
    .at(Oracle::Caller)
    .unless(&[libc::EPERM, libc::ENOSPC]),
    by_root(family("xdp")),
    family("vsock"),
    family("pppox"),
    family("rds"),
    family("tipc"),
    // It takes CAP_NET_ADMIN, which a container does not have.
    by_root(family("key").attached(fails(libc::EPERM))),
    family("alg"),
    by_root(family("bluetooth")),
    by_root(family("can")),
    family("netlink-diag"),
    Row::both("gate-udp", datagram("sendmsg4"))
        .launcher(GATE, killed(libc::SIGSYS))
        .unless(&[libc::ENOSYS]),
    by_root(Row::both("gate-packet", UNSEEN).launcher(GATE, killed(libc::SIGSYS)))
        .unless(&[libc::ENOSYS]),
    Row::both("x32", datagram("sendmsg4"))
        .launcher(GATE, fails(libc::ENOSYS))
        .unless(&[libc::ENOSYS]),
    // Nodes that are there have the rights of a file.
    node("tun")
        .launcher(&["device", "uid"], fails(libc::EACCES))
        .rooted(NO_DEVICE),
    node("kmsg")
        .launcher(&["device", "uid"], fails(libc::EACCES))
        .rooted(NO_DEVICE),
    node("made-tun"),
    node("made-kmsg"),
    node("made-mem"),
    node("made-vhost-net"),
    node("made-vhost-vsock"),
    node("made-ppp"),
    node("made-vsock"),
];
