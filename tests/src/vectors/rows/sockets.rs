//! IP sockets by other calls, and an address that means more than others.

use crate::vectors::{Row, datagram, fails};

const RING: &[&str] = &["seccomp"];

/// No such call for agents.
const NO_RING: crate::vectors::Expected = fails(libc::EPERM);

/// The kernel was built or set up without it.
const RING_ABSENT: &[i32] = &[libc::ENOSYS, libc::EPERM];

pub(super) const ROWS: &[Row] = &[
    Row::tcp("uring-tcp", "connect4")
        .launcher(RING, NO_RING)
        .unless(RING_ABSENT),
    Row::tcp("uring-tcp-polled", "connect4")
        .by_thread("iou-sqp-")
        .launcher(RING, NO_RING)
        .unless(RING_ABSENT),
    Row::both("uring-udp", datagram("sendmsg4"))
        .launcher(RING, NO_RING)
        .unless(RING_ABSENT),
    Row::both("uring-udp-polled", datagram("sendmsg4"))
        .by_thread("iou-sqp-")
        .launcher(RING, NO_RING)
        .unless(RING_ABSENT),
    Row::both("splice", datagram("connect4")),
    Row::both("sendfile", datagram("connect4")),
    Row::both("quic", datagram("connect4")),
    Row::tcp("metadata", "connect4"),
];
