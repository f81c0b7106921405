//! Descriptors and processes of somebody outside.

use crate::vectors::{Expected, Oracle, Row, fails, open, refused};

const CALLS: &[&str] = &["seccomp", "pid namespace"];
const NO_CALL: Expected = fails(libc::EPERM);
const NAMESPACE: &[&str] = &["pid namespace"];
const NO_PROCESS: Expected = fails(libc::ESRCH);
const OTHERS: Expected =
    open("root of the host's namespaces reaches its processes: BPF-LSM refuses that, where it is");
const NOT_BUILT: &[i32] = &[libc::ENOSYS];
const NO_UNIX: Expected = refused(libc::EACCES, "unix_connect", "unix_socket");

pub(super) const ROWS: &[Row] = &[
    Row::both("ptrace", OTHERS).launcher(CALLS, NO_CALL),
    Row::both("process-write", OTHERS)
        .launcher(CALLS, NO_CALL)
        .unless(NOT_BUILT),
    Row::both("process-memory", OTHERS).launcher(NAMESPACE, fails(libc::ENOENT)),
    Row::both("process-take", OTHERS).launcher(CALLS, NO_PROCESS),
    Row::both("process-reopen", OTHERS).launcher(NAMESPACE, fails(libc::ENOENT)),
    Row::both("process-compare", OTHERS)
        .launcher(CALLS, NO_CALL)
        .at(Oracle::Caller)
        .unless(NOT_BUILT),
    Row::both("process-kill", OTHERS)
        .launcher(NAMESPACE, NO_PROCESS)
        .at(Oracle::Mortal),
    Row::both("passed-path", NO_UNIX),
    Row::both("passed-abstract", NO_UNIX),
];
