//! Finds the targets that could cover a host without looking at every rule.
//!
//! A filter, not a judge: what it finds is tested again by [`Rule::test`]. Exact hosts are found
//! by hash, wildcards by the hash of their suffix.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use super::{
    Request,
    host_pattern::HostPattern,
    rule::{Rule, Traffic},
};
use crate::names::{Host, HostName};

/// A target of a rule, by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Slot {
    /// Position of the rule in the file.
    pub(super) rule: usize,
    /// Position of the target in the rule.
    pub(super) target: usize,
}

/// All targets by what they name.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: HashMap<HostName, Vec<Slot>>,
    addresses: HashMap<IpAddr, Vec<Slot>>,
    children: HashMap<Box<str>, Vec<Slot>>,
    descendants: HashMap<Box<str>, Vec<Slot>>,
    /// Ports of rules over HTTP and TLS.
    web: HashSet<u16>,
    /// Whether some rule knows an MCP server.
    pub(super) has_mcp: bool,
    /// Ports of raw TCP rules: the names that go with them exactly.
    tcp: HashMap<u16, Vec<HostName>>,
    /// Ports of raw TCP rules that have a wildcard.
    tcp_wildcards: HashSet<u16>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (rule_at, rule) in rules.iter().enumerate() {
            for (target_at, target) in rule.targets.iter().enumerate() {
                let slot = Slot {
                    rule: rule_at,
                    target: target_at,
                };
                index.slots_of(&target.hosts).push(slot);
                index.add_ports(&rule.traffic, &target.hosts, &target.ports);
            }
        }
        index
    }

    fn slots_of(&mut self, hosts: &HostPattern) -> &mut Vec<Slot> {
        match hosts {
            HostPattern::Exact(Host::Name(name)) => self.names.entry(name.clone()).or_default(),
            HostPattern::Exact(Host::Address(address)) => {
                self.addresses.entry(*address).or_default()
            }
            HostPattern::Child(suffix) => self.children.entry(suffix.as_str().into()).or_default(),
            HostPattern::Descendant(suffix) => {
                self.descendants.entry(suffix.as_str().into()).or_default()
            }
        }
    }

    fn add_ports(&mut self, traffic: &Traffic, hosts: &HostPattern, ports: &[u16]) {
        match traffic {
            Traffic::Web { .. } => self.web.extend(ports),
            Traffic::Mcp(_) => {
                self.web.extend(ports);
                self.has_mcp = true;
            }
            Traffic::Tcp => match hosts {
                HostPattern::Exact(Host::Name(name)) => {
                    for port in ports {
                        self.tcp.entry(*port).or_default().push(name.clone());
                    }
                }
                HostPattern::Exact(Host::Address(_)) => {}
                HostPattern::Child(_) | HostPattern::Descendant(_) => {
                    self.tcp_wildcards.extend(ports);
                }
            },
        }
    }

    /// Targets that could cover this request.
    pub(super) fn visit(&self, request: &Request<'_>, mut visit: impl FnMut(Slot)) {
        match request {
            Request::Connect { host, .. }
            | Request::Http { host, .. }
            | Request::Tls { host, .. } => match host {
                Host::Name(name) => self.visit_name(name, &mut visit),
                Host::Address(address) => self.visit_address(*address, &mut visit),
            },
            Request::Tcp { destination, names } => {
                self.visit_address(destination.ip(), &mut visit);
                for name in *names {
                    self.visit_name(name, &mut visit);
                }
            }
            Request::Dns { name, .. } => self.visit_name(name, &mut visit),
        }
    }

    fn visit_address(&self, address: IpAddr, visit: impl FnMut(Slot)) {
        let found = self.addresses.get(&address.to_canonical());
        found.into_iter().flatten().copied().for_each(visit);
    }

    fn visit_name(&self, name: &HostName, mut visit: impl FnMut(Slot)) {
        let exact = self.names.get(name);
        exact.into_iter().flatten().copied().for_each(&mut visit);
        self.visit_below(name.as_str(), visit);
    }

    /// Targets with a wildcard that could cover this name.
    fn visit_below(&self, name: &str, mut visit: impl FnMut(Slot)) {
        let Some((_, parent)) = name.split_once('.') else {
            return;
        };
        let children = self.children.get(parent);
        children.into_iter().flatten().copied().for_each(&mut visit);
        if !self.descendants.is_empty() {
            for ancestor in ancestors(name) {
                let descendants = self.descendants.get(ancestor);
                let found = descendants.into_iter().flatten().copied();
                found.for_each(&mut visit);
            }
        }
    }

    /// Targets that could cover all that this pattern covers, in the order of the file.
    pub(super) fn wider(&self, hosts: &HostPattern) -> Vec<Slot> {
        let mut found = Vec::new();
        let mut push = |slot| found.push(slot);
        match hosts {
            HostPattern::Exact(Host::Name(name)) => self.visit_name(name, push),
            HostPattern::Exact(Host::Address(address)) => self.visit_address(*address, push),
            HostPattern::Child(suffix) | HostPattern::Descendant(suffix) => {
                for map in [&self.children, &self.descendants] {
                    let same = map.get(suffix.as_str());
                    same.into_iter().flatten().copied().for_each(&mut push);
                }
                self.visit_below(suffix.as_str(), push);
            }
        }
        found.sort_unstable();
        found
    }

    /// Whether some rule has this name word for word.
    pub(super) fn names(&self, name: &HostName) -> bool {
        self.names.contains_key(name)
    }

    /// Whether some rule covers this name, with whatever port.
    pub(super) fn knows(&self, name: &HostName, rules: &[Rule]) -> bool {
        let mut known = false;
        self.visit_name(name, |slot| {
            let target = rules
                .get(slot.rule)
                .and_then(|rule| rule.targets.get(slot.target));
            known |= target.is_some_and(|target| target.hosts.covers_name(name));
        });
        known
    }

    pub(super) fn tcp_names(&self, port: u16) -> impl Iterator<Item = &HostName> {
        self.tcp.get(&port).into_iter().flatten()
    }

    pub(super) fn has_tcp_wildcard(&self, port: u16) -> bool {
        self.tcp_wildcards.contains(&port)
    }

    pub(super) fn has_web(&self, port: u16) -> bool {
        self.web.contains(&port)
    }
}

/// `c.b.a` has `b.a` and `a`.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.'), |(_, rest)| rest.split_once('.'))
        .map(|(_, rest)| rest)
}
