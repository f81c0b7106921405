//! Unix sockets, and services and programs that act for whoever asks.

use crate::vectors::{Expected, Oracle, Row, fails, open, refused};

const CONNECT: Expected = refused(libc::EACCES, "unix_connect", "unix_socket");
const SEND: Expected = refused(libc::EACCES, "unix_sendmsg", "unix_socket");

pub(super) const ROWS: &[Row] = &[
    Row::both("unix-stream", CONNECT),
    Row::both("unix-packets", CONNECT),
    Row::both("unix-datagram", SEND),
    Row::both("unix-datagram-connected", CONNECT),
    Row::both("unix-abstract", CONNECT),
    Row::both("unix-abstract-datagram", SEND),
    Row::both("docker", CONNECT),
    Row::both("containerd", CONNECT),
    Row::both("dbus", CONNECT),
    Row::both("systemd", CONNECT),
    Row::both("journald", SEND),
    Row::both("syslog", SEND),
    Row::both("nscd", CONNECT),
    Row::both("resolved", CONNECT),
    Row::both("ssh-agent", CONNECT),
    Row::both("tmux", CONNECT),
    Row::both("setuid", crate::vectors::SOCKET).launcher(&["no_new_privs"], fails(libc::EPERM)),
    Row::both("upcall", open("a helper of the host's acts for root"))
        .launcher(&["seccomp"], fails(libc::EPERM))
        .at(Oracle::Caller)
        .unless(&[libc::ENOSYS]),
];
