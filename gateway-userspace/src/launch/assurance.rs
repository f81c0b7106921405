//! How far the boundary holds for an agent that is about to start, said without flattery.

use super::{channel::Shut, user::AgentUser};
use crate::{
    identity::Assurance,
    kernel::KernelHeld,
    policy::{Inbound, Mode, Policy},
};

/// A level, and what keeps it from being higher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assessment {
    /// The level.
    pub level: Assurance,
    /// What is open, in words for an operator.
    pub open: Vec<String>,
}

/// The boundary is weaker than the policy allows.
#[derive(Debug, thiserror::Error)]
#[error("the policy asks for assurance `{floor}` and what is reached here is `{level}`: {open}")]
pub struct BelowFloor {
    floor: &'static str,
    level: &'static str,
    open: String,
}

impl Assessment {
    /// Holds the level against the policy's floor. Observe mode is asked for by name, and blocks
    /// nothing whatever the floor.
    ///
    /// # Errors
    /// [`BelowFloor`], upon which nothing is started.
    pub fn meets_floor(&self, policy: &Policy) -> Result<(), BelowFloor> {
        if policy.mode() == Mode::Observe || self.level >= policy.assurance() {
            return Ok(());
        }
        Err(BelowFloor {
            floor: policy.assurance().label(),
            level: self.level.label(),
            open: self.open.join("; "),
        })
    }

    /// Ports of this host that policy opens.
    pub(crate) fn open_loopback(&mut self, policy: &Policy) {
        let loopback = &policy.network().loopback;
        if !loopback.is_empty() {
            let ports: Vec<_> = loopback.iter().map(u16::to_string).collect();
            self.lower(
                Assurance::Confined,
                format!(
                    "[network] loopback: whatever listens on port {} of this host can act for it",
                    ports.join(", ")
                ),
            );
        }
    }

    /// Devices that policy opens.
    pub(crate) fn open_devices(&mut self, policy: &Policy) {
        if !policy.process().devices.is_empty() {
            self.lower(
                Assurance::Confined,
                format!(
                    "[process] devices: what is behind {}",
                    policy.process().devices.join(", ")
                ),
            );
        }
    }

    pub(crate) fn lower(&mut self, level: Assurance, open: impl Into<String>) {
        self.level = self.level.min(level);
        self.open.push(open.into());
    }
}

/// Whether the agent may make unix sockets at all. Where the kernel half has no say over them and
/// policy names none, the launcher takes them away, all but connected pairs.
#[must_use]
pub fn has_unix(policy: &Policy, held: KernelHeld) -> bool {
    let unix = &policy.network().unix;
    held.unix || unix.any || unix.own || !unix.names.is_empty()
}

/// Judges an agent by what its kernel half holds and by what its first process was found to be.
///
/// With what there could be at best, it tells whether a start is worth trying.
#[must_use]
pub fn assess(policy: &Policy, user: &AgentUser, held: KernelHeld, shut: &Shut) -> Assessment {
    let mut found = Assessment {
        level: Assurance::Sealed,
        open: Vec::new(),
    };
    if policy.mode() == Mode::Observe {
        found.lower(
            Assurance::Observe,
            "everything: observe mode blocks nothing",
        );
    }
    let unix = &policy.network().unix;
    if unix.any {
        found.lower(
            Assurance::Partial,
            "[network] unix = [\"any\"]: services that it sees can act for it, and hand it \
             descriptors",
        );
    } else if !held.unix && has_unix(policy, held) {
        found.lower(
            Assurance::Partial,
            "unix sockets that policy does not name: this kernel cannot tell them apart (6.7 can)",
        );
    } else if !unix.names.is_empty() {
        found.lower(
            Assurance::Confined,
            format!(
                "[network] unix: the services behind {} can act for it, and hand it descriptors",
                unix.names.join(", ")
            ),
        );
    }
    found.open_loopback(policy);
    if user.uid.is_root() {
        found.lower(
            Assurance::Partial,
            "it runs as uid 0: it can change files that root owns and that others run; limit \
             `write` of [process], or name another --user",
        );
    } else if let Some(name) = &user.name {
        found.lower(
            Assurance::Confined,
            format!(
                "it shares uid {} with `{name}`: it can change files that `{name}` runs outside",
                user.uid
            ),
        );
    }
    if policy.network().inbound == Inbound::Allow {
        found.lower(Assurance::Partial, "anybody may connect to it");
    }
    let process = policy.process();
    for (opened, what) in [
        (
            process.ptrace,
            "[process] ptrace: its processes may trace one another",
        ),
        (
            process.user_namespaces,
            "[process] user_namespaces: it may make user namespaces, with capabilities there",
        ),
        (
            process.io_uring,
            "[process] io_uring: calls that no system call filter sees",
        ),
        (
            !process.run.is_empty(),
            "[process] run: it sees parts of /run, and the sockets there",
        ),
    ] {
        if opened {
            found.lower(Assurance::Confined, what);
        }
    }
    found.open_devices(policy);
    if !shut.unix.is_empty() && !held.lsm {
        found.lower(
            Assurance::Confined,
            format!(
                "{}: a unix socket, over which whoever is at its other end can hand it network \
                 sockets; put a pipe between",
                shut.unix.join(", ")
            ),
        );
    }
    if shut.missing_filters > 0 {
        found.lower(
            Assurance::Partial,
            format!(
                "{} system call filters are not in force",
                shut.missing_filters
            ),
        );
    }
    for place in &shut.in_sight {
        found.lower(
            Assurance::Partial,
            format!("{place} could not be taken out of its sight"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Uid};

    use super::*;

    const HELD: KernelHeld = KernelHeld {
        unix: true,
        unix_paths: true,
        lsm: false,
        leavers: false,
    };

    fn user(uid: u32, name: Option<&str>) -> AgentUser {
        AgentUser {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(uid),
            name: name.map(str::to_owned),
            home: None,
        }
    }

    fn level(policy: &str, user: &AgentUser, held: KernelHeld, shut: &Shut) -> (Assurance, usize) {
        let text = format!("schema = 1\nagent = \"a\"\n{policy}");
        let policy = Policy::parse("test", &text).expect("a policy");
        let found = assess(&policy, user, held, shut);
        (found.level, found.open.len())
    }

    #[test]
    fn each_opening_lowers_the_level_and_is_named() {
        let own = user(61_200, None);
        let shut = Shut::default();
        assert_eq!(level("", &own, HELD, &shut), (Assurance::Sealed, 0));
        for (policy, expected) in [
            ("mode = \"observe\"", Assurance::Observe),
            ("[network]\ninbound = \"allow\"", Assurance::Partial),
            ("[network]\nunix = [\"any\"]", Assurance::Partial),
            ("[network]\nunix = [\"/run/x\"]", Assurance::Confined),
            ("[network]\nloopback = [5432]", Assurance::Confined),
            ("[process]\ndevices = [\"/dev/kvm\"]", Assurance::Confined),
            ("[process]\nptrace = true", Assurance::Confined),
            ("[process]\nuser_namespaces = true", Assurance::Confined),
            ("[process]\nio_uring = true", Assurance::Confined),
            ("[process]\nrun = [\"/run/x\"]", Assurance::Confined),
        ] {
            assert_eq!(level(policy, &own, HELD, &shut), (expected, 1), "{policy}");
        }
        let root = user(0, Some("root"));
        assert_eq!(level("", &root, HELD, &shut), (Assurance::Partial, 1));
        let alice = user(1000, Some("alice"));
        assert_eq!(level("", &alice, HELD, &shut), (Assurance::Confined, 1));
        let no_unix = KernelHeld::default();
        // The launcher takes them away altogether; where policy names one it cannot.
        assert_eq!(level("", &own, no_unix, &shut), (Assurance::Sealed, 0));
        let named = "[network]\nunix = [\"/run/x\"]";
        assert_eq!(level(named, &own, no_unix, &shut), (Assurance::Partial, 1));
        let seen = Shut {
            in_sight: vec!["/sys/fs/cgroup".to_owned()],
            ..Shut::default()
        };
        assert_eq!(level("", &own, HELD, &seen), (Assurance::Partial, 1));
        let unfiltered = Shut {
            missing_filters: 1,
            ..Shut::default()
        };
        assert_eq!(level("", &own, HELD, &unfiltered), (Assurance::Partial, 1));
        let given = Shut {
            unix: vec!["standard input".to_owned()],
            ..Shut::default()
        };
        assert_eq!(level("", &own, HELD, &given), (Assurance::Confined, 1));
        let lsm = KernelHeld { lsm: true, ..HELD };
        assert_eq!(level("", &own, lsm, &given), (Assurance::Sealed, 0));
    }
}
