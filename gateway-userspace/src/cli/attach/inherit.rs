//! The listening sockets of the gateway before, taken out of its process while it still serves:
//! the port stays, and so does whoever waits to be accepted.
//!
//! Nothing is asked of that process, which may be of another build, or stand still.

use std::{collections::BTreeSet, io};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{Domain, Socket, Type};

use super::Predecessor;
use crate::{
    app::Bound,
    kernel::{GATEWAY_PROGRAM, netns_cookie},
    netns::NetworkNamespace,
};

/// Why it cannot be.
#[derive(Debug, thiserror::Error)]
pub(super) enum InheritError {
    #[error("it names none: it does not serve, or is of an older version")]
    NotServing,
    #[error("it was built for another version of the kernel half")]
    Version,
    #[error("it does not listen in every network namespace that the agent is in")]
    Namespaces,
    #[error("what it names are not its listening sockets")]
    Others,
    #[error("taking them")]
    Taking(#[from] io::Error),
}

/// Its sockets, if they are all that this agent needs.
pub(super) fn sockets(
    before: &Predecessor,
    namespaces: &[NetworkNamespace],
) -> Result<Bound, InheritError> {
    if before.session.sockets.is_empty() {
        return Err(InheritError::NotServing);
    }
    if before.pins.cgroup_of(GATEWAY_PROGRAM).is_none() {
        return Err(InheritError::Version);
    }
    let pid = Pid::from_raw(before.session.pid.cast_signed()).ok_or(InheritError::NotServing)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from)?;
    // Asked after it was opened: from there on the number is nobody else's.
    if !before.is_alive() {
        return Err(InheritError::NotServing);
    }
    let sockets = before.session.sockets.iter();
    let sockets = sockets.map(|&theirs| pidfd_getfd(&process, theirs, PidfdGetfdFlags::empty()));
    let sockets = sockets.collect::<Result<_, _>>().map_err(io::Error::from)?;
    let bound = Bound::received(sockets)?;
    if !bound.listens_on(before.session.port) {
        return Err(InheritError::Others);
    }
    if !cookies(namespaces)?.is_subset(&bound.namespaces()) {
        return Err(InheritError::Namespaces);
    }
    Ok(bound)
}

/// The cookies of these namespaces and of this process's own.
fn cookies(namespaces: &[NetworkNamespace]) -> io::Result<BTreeSet<u64>> {
    let cookie = || netns_cookie(&Socket::new(Domain::IPV4, Type::DGRAM, None)?);
    let mut cookies = BTreeSet::from([cookie()?]);
    for namespace in namespaces {
        cookies.insert(namespace.run(cookie)??);
    }
    Ok(cookies)
}
