//! How far the boundary holds for an agent that is about to start, said without flattery.

use super::user::AgentUser;
use crate::{
    identity::Assurance,
    policy::{Inbound, Mode, Policy},
};

/// A level, and what keeps it from being higher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assessment {
    /// The level.
    pub level: Assurance,
    /// What is open, in words for an operator.
    pub open: Vec<&'static str>,
}

/// Judges what `sluice run` can hold with all of its programs attached.
#[must_use]
pub fn assess(policy: &Policy, user: &AgentUser) -> Assessment {
    if policy.mode() == Mode::Observe {
        return Assessment {
            level: Assurance::Observe,
            open: vec!["everything: observe mode blocks nothing"],
        };
    }
    let mut open = vec![
        "unix sockets of local services (D-Bus, Docker, …) can be reached where file permissions \
         allow it",
        "sockets of families without a cgroup hook (AF_VSOCK, …) can be opened where the kernel \
         has them",
        "descriptors can be received from helpers outside over unix sockets",
    ];
    if user.uid.is_root() {
        open.push("it runs as uid 0: it can change files that root owns, cgroup.procs among them, and leave");
    }
    if policy.network().inbound == Inbound::Allow {
        open.push("anybody may connect to it");
    }
    Assessment {
        level: Assurance::Partial,
        open,
    }
}
