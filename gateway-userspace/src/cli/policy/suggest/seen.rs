//! What was seen, by host, within bounds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::recorded::{Recorded, Skip},
    paths::Paths,
};
use crate::{
    audit::Outcome,
    names::{AgentId, Host, HostName},
    policy::{AddressClass, Query, classify},
};

/// Hosts, names and addresses that are kept, of each.
pub(super) const HOSTS_MAX: usize = 1000;
/// Agents that are told apart, to name them.
const AGENTS_MAX: usize = 16;
/// Addresses that are named beside a rule.
const ADDRESSES_MAX: usize = 4;
/// Octets of the longest method that a rule may name.
const METHOD_MAX: usize = 32;
/// Methods of one host that are told apart.
const METHODS_MAX: usize = 16;
/// Ports of one host that are told apart.
const PORTS_MAX: usize = 64;
/// Ports on which a tunnel is taken for TLS.
const WEB: [u16; 4] = [80, 443, 8080, 8443];

/// All that was seen of one agent.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) wanted: Option<AgentId>,
    /// Whom the records are about.
    pub(super) agents: BTreeSet<String>,
    pub(super) hosts: BTreeMap<String, Web>,
    /// Raw connections.
    pub(super) raw: BTreeSet<SocketAddr>,
    /// Names that were looked up.
    pub(super) names: BTreeSet<HostName>,
    /// Record types that were asked for.
    pub(super) types: BTreeSet<u16>,
    /// Requests that the suggestion is made from.
    pub(super) requests: u64,
    /// Refused ones, which are left out.
    pub(super) refused: u64,
    /// To places that no rule reaches.
    pub(super) unreachable: u64,
    /// Beyond the bounds.
    pub(super) left_out: u64,
    pub(super) skipped: BTreeMap<Skip, u64>,
}

/// One host.
#[derive(Debug, Default)]
pub(super) struct Web {
    /// What was read of HTTP.
    pub(super) open: Open,
    /// Ports of TLS that was not opened, and of tunnels that may have been.
    pub(super) closed: BTreeSet<u16>,
    /// Ports of tunnels that were probably something else.
    pub(super) tunnels: BTreeSet<u16>,
    /// Addresses that are not public.
    pub(super) private: BTreeSet<IpAddr>,
}

/// Readable requests.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) ports: BTreeSet<u16>,
    pub(super) methods: BTreeSet<String>,
    /// One that no rule can name was seen, or too many.
    pub(super) any_method: bool,
    pub(super) paths: Paths,
    pub(super) websocket: bool,
}

impl Seen {
    pub(super) fn new(wanted: Option<AgentId>) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Counts what cannot be covered.
    pub(super) fn skip(&mut self, why: Skip, requests: u64) {
        *self.skipped.entry(why).or_default() += requests;
    }

    /// Adds a request.
    pub(super) fn take(&mut self, recorded: &Recorded) {
        if self.agents.len() < AGENTS_MAX {
            self.agents.insert(recorded.agent.to_string());
        }
        if self.wanted.as_ref().is_some_and(|it| *it != recorded.agent) {
            return;
        }
        if recorded.was == Outcome::Deny {
            self.refused += recorded.requests;
            return;
        }
        let place = recorded.query.place();
        let address = match &place {
            Some((host, _)) => host.address().or(recorded.upstream.map(|it| it.ip())),
            None => None,
        };
        let class = address.map(|address| classify(address.to_canonical()));
        let by_name = place
            .as_ref()
            .is_some_and(|(host, _)| host.name().is_some());
        match class {
            // No rule leads there, at least not by a name.
            Some(AddressClass::Never) => return self.unreachable += recorded.requests,
            Some(AddressClass::Metadata) if by_name => {
                return self.unreachable += recorded.requests;
            }
            Some(_) | None => {}
        }
        match self.enter(
            recorded,
            address.filter(|_| class != Some(AddressClass::Public)),
        ) {
            true => self.requests += recorded.requests,
            false => self.left_out += recorded.requests,
        }
    }

    /// Whether there was room for it.
    fn enter(&mut self, recorded: &Recorded, private: Option<IpAddr>) -> bool {
        match &recorded.query {
            Query::Dns { name, record_type } => {
                if self.names.len() >= HOSTS_MAX && !self.names.contains(name) {
                    return false;
                }
                self.types.insert(*record_type);
                self.names.insert(name.clone());
                true
            }
            Query::Tcp { destination, .. } => {
                let ip = destination.ip().to_canonical();
                let destination = SocketAddr::new(ip, destination.port());
                if self.raw.len() >= HOSTS_MAX && !self.raw.contains(&destination) {
                    return false;
                }
                self.raw.insert(destination);
                true
            }
            Query::Http {
                host,
                port,
                method,
                path,
                facts,
            } => self.web(host, *port, private, |web| {
                web.open.ports.insert(*port);
                web.open.add_method(method);
                web.open.paths.add(path);
                web.open.websocket |= facts.websocket;
            }),
            Query::Tls { host, port } => self.web(host, *port, private, |web| {
                web.closed.insert(*port);
            }),
            Query::Connect { host, port } => self.web(host, *port, private, |web| {
                match WEB.contains(port) {
                    true => web.closed.insert(*port),
                    false => web.tunnels.insert(*port),
                };
            }),
        }
    }

    fn web(
        &mut self,
        host: &Host,
        port: u16,
        private: Option<IpAddr>,
        add: impl FnOnce(&mut Web),
    ) -> bool {
        let host = host.to_string();
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&host) {
            return false;
        }
        let web = self.hosts.entry(host).or_default();
        if web.ports() >= PORTS_MAX && !web.has_port(port) {
            return false;
        }
        if let Some(address) = private
            && web.private.len() < ADDRESSES_MAX
        {
            web.private.insert(address);
        }
        add(web);
        true
    }
}

impl Web {
    fn ports(&self) -> usize {
        self.open.ports.len() + self.closed.len() + self.tunnels.len()
    }

    fn has_port(&self, port: u16) -> bool {
        [&self.open.ports, &self.closed, &self.tunnels]
            .iter()
            .any(|ports| ports.contains(&port))
    }

    /// Ports of which nothing was read.
    pub(super) fn unread<'a>(&'a self, ports: &'a BTreeSet<u16>) -> BTreeSet<u16> {
        ports.difference(&self.open.ports).copied().collect()
    }
}

impl Open {
    fn add_method(&mut self, method: &str) {
        let fits = |b: u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
        let named = (1..=METHOD_MAX).contains(&method.len())
            && method.bytes().all(fits)
            && method != "CONNECT";
        if named && (self.methods.len() < METHODS_MAX || self.methods.contains(method)) {
            self.methods.insert(method.to_owned());
        } else {
            self.any_method = true;
        }
    }
}
