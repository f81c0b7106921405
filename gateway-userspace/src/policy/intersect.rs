//! An agent's policy under the node's: both must allow, and what either refuses is refused.

use std::{
    collections::HashSet,
    hash::Hash,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Decision, Denial, Direct, Dns, DnsMode, Grant, Inbound, Mode, Network, NodeLeave, Policy,
    ProcessPolicy, UnixSockets,
};
use crate::names::PolicyDigest;

/// The node's policy over an agent's, with what both leave open of what is not decided by request.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) policy: Policy,
    pub(super) network: Network,
    pub(super) process: ProcessPolicy,
    pub(super) dns: Dns,
}

impl Policy {
    /// The same policy, narrowed by a node's.
    #[must_use]
    pub fn under(mut self, node: Self) -> Self {
        self.node = Some(Arc::new(Node {
            network: network(self.network(), node.network()),
            process: process(self.process(), node.process()),
            dns: dns(self.dns(), node.dns()),
            policy: node.with_agent(self.agent.clone()),
        }));
        self
    }

    /// The digest of the node's policy, if there is one.
    #[must_use]
    pub fn node_digest(&self) -> Option<PolicyDigest> {
        self.node.as_ref().map(|node| node.policy.digest())
    }
}

/// What two policies say together.
pub(super) fn both(own: Decision, node: Decision) -> Decision {
    match (own, node) {
        (Decision::Deny(denial), _) => Decision::Deny(denial),
        (_, Decision::Deny(denial)) => Decision::Deny(by_node(denial)),
        (Decision::Approve(denial), _) => Decision::Approve(denial),
        (_, Decision::Approve(denial)) => Decision::Approve(by_node(denial)),
        (Decision::Allow(own), Decision::Allow(node)) => Decision::Allow(Grant {
            node: Some(NodeLeave {
                private: node.private,
                observes: node.observes,
            }),
            observed: own.observed.or(node.observed.map(by_node)),
            ..own
        }),
    }
}

fn by_node(denial: Denial) -> Denial {
    Denial {
        hint: format!("by the node's policy: {}", denial.hint),
        ..denial
    }
}

fn network(own: &Network, node: &Network) -> Network {
    Network {
        direct: match (own.direct, node.direct) {
            (Direct::Redirect, Direct::Redirect) => Direct::Redirect,
            (Direct::Deny, _) | (_, Direct::Deny) => Direct::Deny,
        },
        inbound: match (own.inbound, node.inbound) {
            (Inbound::Allow, other) | (other, Inbound::Allow) => other,
            (Inbound::Loopback, Inbound::Loopback) => Inbound::Loopback,
            (Inbound::Deny, _) | (_, Inbound::Deny) => Inbound::Deny,
        },
        loopback: common(&own.loopback, &node.loopback),
        own_loopback: own.own_loopback && node.own_loopback,
        unix: unix(&own.unix, &node.unix),
    }
}

fn unix(own: &UnixSockets, node: &UnixSockets) -> UnixSockets {
    match (own.any, node.any) {
        (_, true) => own.clone(),
        (true, false) => node.clone(),
        (false, false) => UnixSockets {
            any: false,
            own: own.own && node.own,
            names: common(&own.names, &node.names),
        },
    }
}

fn process(own: &ProcessPolicy, node: &ProcessPolicy) -> ProcessPolicy {
    let places = |own: &Option<Vec<PathBuf>>, node: &Option<Vec<PathBuf>>| match (own, node) {
        (None, other) | (other, None) => other.clone(),
        (Some(own), Some(node)) => Some(below_both(own, node)),
    };
    ProcessPolicy {
        ptrace: own.ptrace && node.ptrace,
        user_namespaces: own.user_namespaces && node.user_namespaces,
        io_uring: own.io_uring && node.io_uring,
        devices: common(&own.devices, &node.devices),
        run: below_both(&own.run, &node.run),
        read: places(&own.read, &node.read),
        write: places(&own.write, &node.write),
    }
}

fn dns(own: &Dns, node: &Dns) -> Dns {
    let mut types: HashSet<u16> = own.deny_types.iter().copied().collect();
    types.extend(&node.deny_types);
    Dns {
        mode: match (own.mode, node.mode) {
            (DnsMode::Any, other) | (other, DnsMode::Any) => other,
            (DnsMode::PolicyNames, DnsMode::PolicyNames) => DnsMode::PolicyNames,
            (DnsMode::Off, _) | (_, DnsMode::Off) => DnsMode::Off,
        },
        deny_types: types.into_iter().collect(),
        allow_types: match (&own.allow_types, &node.allow_types) {
            (None, other) | (other, None) => other.clone(),
            (Some(own), Some(node)) => Some(common(own, node)),
        },
        max_label: own.max_label.min(node.max_label),
        max_name: own.max_name.min(node.max_name),
        entropy: match (own.entropy, node.entropy) {
            (None, other) | (other, None) => other,
            (Some(own), Some(node)) => Some(own.min(node)),
        },
        // The slower in the long run.
        rate: own
            .rate
            .into_iter()
            .chain(node.rate)
            .max_by_key(|rate| rate.interval()),
    }
}

/// What is in both lists, in the order of the first.
fn common<T: Clone + Eq + Hash>(own: &[T], node: &[T]) -> Vec<T> {
    let node: HashSet<&T> = node.iter().collect();
    own.iter().filter(|it| node.contains(it)).cloned().collect()
}

/// The places that lie below one of each list.
fn below_both(own: &[PathBuf], node: &[PathBuf]) -> Vec<PathBuf> {
    let below = |path: &Path, list: &[PathBuf]| list.iter().any(|place| path.starts_with(place));
    let mut places: Vec<PathBuf> = own.iter().filter(|it| below(it, node)).cloned().collect();
    for place in node {
        if below(place, own) && !places.contains(place) {
            places.push(place.clone());
        }
    }
    places
}

impl Policy {
    /// Whether both policies only observe.
    pub(super) fn joint_mode(&self) -> Mode {
        match &self.node {
            Some(node) if node.policy.mode() == Mode::Enforce => Mode::Enforce,
            Some(_) | None => self.mode,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        names::Host,
        policy::{Facts, Request},
    };

    fn policy(text: &str) -> Policy {
        Policy::parse("a", &format!("schema = 1\nagent = \"a\"\n{text}")).unwrap()
    }

    const AGENT: &str = "[[egress]]\nid = \"a\"\nhosts = [\"a.example\", \"b.example\", \"c.example\", \"p.example\"]\nports = [80]\nprivate = true\n";
    const NODE: &str = "[[egress]]\nid = \"n\"\nhosts = [\"*.example\", \"a.example\", \"d.example\"]\nports = [80]\n\
        [[egress]]\nid = \"no\"\naction = \"deny\"\nhosts = [\"b.example\"]\nports = [80]\n\
        [[egress]]\nid = \"ask\"\naction = \"approve\"\nhosts = [\"c.example\"]\nports = [80]\n";

    fn said(policy: &Policy, host: &str) -> String {
        let host = Host::parse(host).unwrap();
        let facts = Facts::default();
        match policy.decide(&Request::Http {
            host: &host,
            port: 80,
            method: "GET",
            path: "/",
            facts: &facts,
        }) {
            Decision::Allow(grant) => match grant.observed() {
                Some(denial) => format!("observe {}", denial.reason.label()),
                None => format!("allow {}", grant.rule().unwrap()),
            },
            Decision::Approve(denial) => format!("approve {}", denial.rule.unwrap()),
            Decision::Deny(denial) => format!("deny {}", denial.reason.label()),
        }
    }

    fn node() -> Policy {
        policy(&NODE.replace("\"*.example\", ", "\"p.example\", \"c.example\", "))
    }

    #[test]
    fn both_must_allow_and_either_refuses() {
        let narrowed = policy(AGENT).under(node());
        let carried = Policy::from_carried(&narrowed.carried()).unwrap();
        for policy in [&narrowed, &carried] {
            assert_eq!(said(policy, "a.example"), "allow a");
            assert_eq!(said(policy, "b.example"), "deny denied_by_rule");
            assert_eq!(said(policy, "c.example"), "approve ask");
            // Only one of them names it.
            assert_eq!(said(policy, "d.example"), "deny no_rule");
            assert_eq!(policy.node_digest(), Some(node().digest()));
        }
        // An agent's policy that only observes does not loosen the node's.
        let observing = policy(AGENT).with_observe().under(node());
        assert_eq!(observing.mode(), Mode::Enforce);
        assert_eq!(said(&observing, "b.example"), "deny denied_by_rule");
        assert_eq!(said(&observing, "d.example"), "observe no_rule");
        let both = policy(AGENT).with_observe().under(node().with_observe());
        assert_eq!(both.mode(), Mode::Observe);
        assert_eq!(said(&both, "b.example"), "observe denied_by_rule");
    }

    #[test]
    fn addresses_need_the_leave_of_both() {
        let host = Host::parse("p.example").unwrap();
        let private: IpAddr = "10.0.0.1".parse().unwrap();
        let pinned = |policy: &Policy| {
            let request = Request::Connect {
                host: &host,
                port: 80,
            };
            let grant = policy.decide(&request).granted().unwrap();
            grant.pin(&host, 80, &[private]).is_ok()
        };
        assert!(pinned(&policy(AGENT)));
        assert!(!pinned(&policy(AGENT).under(node())));
        assert!(!pinned(&policy(AGENT).with_observe().under(node())));
        let open =
            "[[egress]]\nid = \"n\"\nhosts = [\"p.example\"]\nports = [80]\nprivate = true\n";
        assert!(pinned(&policy(AGENT).under(policy(open))));
        let at = std::net::SocketAddr::new(private, 80);
        assert!(!policy(AGENT).under(node()).could_dial(at));
        assert!(policy(AGENT).under(policy(open)).could_dial(at));
    }

    #[test]
    fn what_is_not_decided_by_request_is_narrowed_too() {
        let own = "[network]\ninbound = \"allow\"\nloopback = [\"self\", 1, 2]\nunix = [\"any\"]\n\
            [process]\nptrace = true\nio_uring = true\nwrite = [\"/srv\", \"/a/b\"]\nrun = [\"/run/x\"]\n\
            [dns]\nmode = \"any\"\ndeny_types = [\"TXT\"]\n";
        let node = "[network]\ndirect = \"deny\"\ninbound = \"loopback\"\nloopback = [2, 3]\nunix = [\"@n\"]\n\
            [process]\nptrace = true\nwrite = [\"/srv/work\", \"/a\"]\nread = [\"/usr\"]\n\
            [dns]\ndeny_types = [\"MX\"]\n";
        for narrowed in [
            policy(own).under(policy(node)),
            policy(node).under(policy(own)),
        ] {
            let network = narrowed.network();
            assert_eq!(network.direct, Direct::Deny);
            assert_eq!(network.inbound, Inbound::Loopback);
            assert_eq!(
                (network.loopback.as_slice(), network.own_loopback),
                (&[2][..], false)
            );
            assert_eq!(
                (network.unix.any, network.unix.names.as_slice()),
                (false, &["@n".to_owned()][..])
            );
            let process = narrowed.process();
            assert!(process.ptrace && !process.io_uring && process.run.is_empty());
            let mut write = process.write.clone().unwrap();
            write.sort();
            assert_eq!(write, [Path::new("/a/b"), Path::new("/srv/work")]);
            assert_eq!(process.read.as_deref(), Some(&[PathBuf::from("/usr")][..]));
            assert_eq!(narrowed.dns().mode, DnsMode::PolicyNames);
            let mut types = narrowed.dns().deny_types.clone();
            types.sort_unstable();
            assert_eq!(types, [15, 16]);
        }
    }

    #[test]
    fn what_the_node_has_opened_nobody_below_keeps_shut() {
        let rule = |more: &str| {
            policy(&format!(
                "[[egress]]\nid = \"x\"\nhosts = [\"a.example\"]\n{more}"
            ))
        };
        let host = Host::parse("a.example").unwrap();
        let (always, never, auto) = ("inspect = \"always\"", "inspect = \"never\"", "");
        let paths = "paths = [\"/a\"]";
        for (agent, node, opened, may) in [
            (never, always, true, false),
            (never, paths, true, false),
            (always, never, false, false),
            (paths, never, false, false),
            (always, auto, true, true),
            (never, auto, false, false),
            (auto, auto, false, true),
            (auto, never, false, false),
            (auto, always, true, true),
        ] {
            let both = rule(agent).under(rule(node));
            assert_eq!(both.inspects(&host, 443), opened, "{agent}, {node}");
            assert_eq!(both.may_inspect(&host, 443), may, "{agent}, {node}");
        }
    }
}
