//! Looks at an agent that was not started by the launcher, and says what follows.

use std::{collections::BTreeSet, fs, io, path::Path};

use caps::Capability;

use super::sockets::Closed;
use crate::{
    identity::Assurance,
    kernel::KernelHeld,
    launch::assurance::Assessment,
    netns,
    policy::{Inbound, Mode, Policy},
};

/// Capabilities with which a process gets past a boundary on its cgroup, or takes it down.
const DANGEROUS: [Capability; 9] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_MODULE,
    Capability::CAP_SYS_RAWIO,
    Capability::CAP_DAC_READ_SEARCH,
];

/// What the processes of a cgroup are, taken together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// How many there are.
    pub processes: usize,
    /// Those that run as uid 0 of this host.
    pub as_root: usize,
    /// Those that may gain privileges by executing a file.
    pub may_gain: usize,
    /// Dangerous capabilities that any of them has in effect.
    pub capabilities: BTreeSet<String>,
}

impl Survey {
    /// Looks at every process in a cgroup and below it.
    ///
    /// # Errors
    /// If the cgroup cannot be read. A process that ends meanwhile is none.
    pub fn of(cgroup: &Path) -> io::Result<Self> {
        let mut survey = Self::default();
        for pid in netns::processes(cgroup)? {
            if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
                survey.add(&status);
            }
        }
        Ok(survey)
    }

    fn add(&mut self, status: &str) {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
                .unwrap_or_default()
        };
        self.processes += 1;
        let effective_uid = field("Uid").split_whitespace().nth(1);
        self.as_root += usize::from(effective_uid == Some("0"));
        // What cannot be read is nothing that was taken away.
        self.may_gain += usize::from(field("NoNewPrivs") != "1");
        let held = u64::from_str_radix(field("CapEff"), 16).unwrap_or(u64::MAX);
        for capability in DANGEROUS {
            if held & capability.bitmask() != 0 {
                self.capabilities.insert(capability.to_string());
            }
        }
    }
}

/// How far the boundary holds for an agent that was attached to. It is never `sealed`: what an
/// agent had before, no one can take away for certain.
#[must_use]
pub fn assess(policy: &Policy, held: KernelHeld, survey: &Survey, closed: Closed) -> Assessment {
    let mut level = Assurance::Confined;
    let mut open = vec![
        "it ran before it was confined: descriptors, mounts and helpers that it had, it has"
            .to_owned(),
    ];
    let mut partial = |what: String| {
        level = Assurance::Partial;
        open.push(what);
    };
    if !held.unix || policy.network().unix.any {
        partial("unix sockets of local services, and descriptors received over them".to_owned());
    }
    if !survey.capabilities.is_empty() {
        let list: Vec<_> = survey.capabilities.iter().map(String::as_str).collect();
        partial(format!("processes hold {}", list.join(", ")));
    }
    if survey.as_root > 0 {
        partial(format!(
            "{} of {} processes run as uid 0 and can change what root owns",
            survey.as_root, survey.processes
        ));
    }
    if !held.lsm {
        // A seccomp filter that somebody else put on says nothing about families.
        partial(
            "sockets of families without a cgroup hook (vsock, packet, netlink and others that \
             the kernel has), and network sockets received from others, which only the LSM \
             programs refuse: boot with `bpf` in `lsm=`"
                .to_owned(),
        );
    }
    if survey.may_gain > 0 {
        partial(format!(
            "{} of {} processes may gain privileges by a setuid file",
            survey.may_gain, survey.processes
        ));
    }
    if closed.left > 0 {
        partial(format!(
            "{} TCP or UDP sockets could not be closed",
            closed.left
        ));
    }
    if closed.brought > 0 {
        partial(format!(
            "{} TCP or UDP sockets were made outside its cgroup and brought along: who holds one \
             can connect it again, past the boundary",
            closed.brought
        ));
    }
    if closed.other > 0 {
        partial(format!(
            "{} sockets of other kinds (raw, packet, netlink, or TCP and UDP without an address) \
             were open before",
            closed.other
        ));
    }
    if closed.unix > 0 {
        partial(format!("{} unix sockets were open before", closed.unix));
    }
    if policy.network().inbound == Inbound::Allow {
        partial("anybody may connect to it".to_owned());
    }
    if policy.mode() == Mode::Observe {
        level = Assurance::Observe;
        open.push("everything: observe mode blocks nothing".to_owned());
    }
    let mut found = Assessment { level, open };
    let unix = &policy.network().unix;
    if !unix.any && !unix.names.is_empty() {
        found.lower(
            Assurance::Confined,
            format!(
                "[network] unix: the services behind {} can act for it, and hand it descriptors; \
                 who may put something else there is not looked at",
                unix.names.join(", ")
            ),
        );
    }
    found.open_loopback(policy);
    found.open_devices(policy);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: KernelHeld = KernelHeld::BEST;

    fn policy(text: &str) -> Policy {
        Policy::parse("test", &format!("schema = 1\nagent = \"a\"\n{text}")).expect("a policy")
    }

    #[test]
    fn a_process_with_nothing_is_confined_and_each_thing_it_has_is_named() {
        let mut survey = Survey::default();
        survey.add(
            "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n",
        );
        let plain = assess(&policy(""), HELD, &survey, Closed::default());
        assert_eq!((plain.level, plain.open.len()), (Assurance::Confined, 1));

        // What Docker leaves to root: CAP_NET_RAW is the one that matters.
        survey.add("Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n");
        let docker = assess(&policy(""), HELD, &survey, Closed::default());
        assert_eq!(docker.level, Assurance::Partial);
        let told = docker.open.join("\n");
        for part in ["CAP_NET_RAW", "1 of 2 processes run as uid 0", "setuid"] {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("vsock"), "{told}");

        let without = KernelHeld { lsm: false, ..HELD };
        let families = assess(&policy(""), without, &Survey::default(), Closed::default());
        assert_eq!(families.level, Assurance::Partial);
        assert!(families.open.join("\n").contains("vsock"), "{families:?}");

        for opened in [
            "[network]\nloopback = [5432]",
            "[network]\nunix = [\"/run/x\"]",
            "[process]\ndevices = [\"/dev/kvm\"]",
        ] {
            let own = Survey::default();
            let told = assess(&policy(opened), HELD, &own, Closed::default());
            assert_eq!(
                (told.level, told.open.len()),
                (Assurance::Confined, 2),
                "{opened}"
            );
        }

        let sockets = Closed {
            other: 1,
            ..Closed::default()
        };
        let socket = assess(&policy(""), HELD, &Survey::default(), sockets);
        assert_eq!(socket.level, Assurance::Partial);
        let brought = Closed {
            brought: 1,
            ..Closed::default()
        };
        let brought = assess(&policy(""), HELD, &Survey::default(), brought);
        assert_eq!(brought.level, Assurance::Partial);
        let observe = assess(
            &policy("").with_observe(),
            HELD,
            &Survey::default(),
            Closed::default(),
        );
        assert_eq!(observe.level, Assurance::Observe);
    }

    #[test]
    fn what_cannot_be_read_counts_as_open() {
        let mut survey = Survey::default();
        survey.add("");
        assert_eq!(survey.may_gain, 1);
        assert_eq!(survey.capabilities.len(), DANGEROUS.len());
    }
}
