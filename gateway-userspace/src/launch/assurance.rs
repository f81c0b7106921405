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

    fn lower(&mut self, level: Assurance, open: impl Into<String>) {
        self.level = self.level.min(level);
        self.open.push(open.into());
    }
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
    if !held.unix {
        found.lower(
            Assurance::Partial,
            "unix sockets outside /run can be reached where file permissions allow it, and \
             descriptors received over them (the kernel's hooks need 6.7)",
        );
    }
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
        assert_eq!(level("", &own, no_unix, &shut), (Assurance::Partial, 1));
        let seen = Shut {
            in_sight: vec!["/sys/fs/cgroup".to_owned()],
            ..Shut::default()
        };
        assert_eq!(level("", &own, HELD, &seen), (Assurance::Partial, 1));
    }
}
