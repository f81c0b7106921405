//! A rule, and whether it covers a request: the one body of matching code, which
//! [`decide`](super::Policy::decide) and [`explain`](super::Policy::explain) share.

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{
    Request,
    host_pattern::HostPattern,
    path_pattern::{self, PathPattern},
};
use crate::names::RuleId;

/// One `[[egress]]`.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub id: RuleId,
    /// Hosts with the ports that go with them. Never empty.
    pub targets: Vec<Target>,
    /// What may be said to them.
    pub traffic: Traffic,
    /// With `private = true`: the addresses that the rule itself names.
    pub private: Option<Arc<[IpAddr]>>,
}

/// Where to.
#[derive(Debug)]
pub struct Target {
    /// Which hosts.
    pub hosts: HostPattern,
    /// On which ports, ascending.
    pub ports: Arc<[u16]>,
}

/// What may be said.
#[derive(Debug)]
pub enum Traffic {
    /// HTTP, and TLS where neither methods nor paths are limited.
    Web {
        /// Methods allowed; any if empty.
        methods: Vec<Box<str>>,
        /// Paths allowed; any if empty.
        paths: Vec<PathPattern>,
    },
    /// Any bytes, HTTP and TLS among them.
    Tcp,
}

impl Traffic {
    /// Whether the gateway must read each request to know if it is allowed.
    pub(super) const fn needs_inspection(&self) -> bool {
        match self {
            Self::Web { methods, paths } => !(methods.is_empty() && paths.is_empty()),
            Self::Tcp => false,
        }
    }
}

/// How far a request got with a rule. Ordered: the later, the nearer to being allowed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The rule names other hosts.
    OtherHost,
    /// The rule names the host, with other ports.
    OtherPort,
    /// Host and port fit, but the bytes are neither HTTP nor TLS.
    OtherTraffic,
    /// Host and port fit; the rest is hidden in TLS.
    NeedsInspection,
    /// Host and port fit, the method does not.
    OtherMethod,
    /// All fits but the path.
    OtherPath,
    /// All fits.
    Allows,
}

/// A request with what is worked out once, however many rules are tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// The request.
    pub(super) request: &'a Request<'a>,
    /// Whether path patterns can apply at all.
    pub(super) plain_path: bool,
}

impl<'a> Ask<'a> {
    pub(super) fn new(request: &'a Request<'a>) -> Self {
        let plain_path = match request {
            Request::Http { path, .. } => path_pattern::is_plain(path),
            Request::Connect { .. }
            | Request::Tls { .. }
            | Request::Tcp { .. }
            | Request::Dns { .. } => false,
        };
        Self {
            request,
            plain_path,
        }
    }

    fn goes_to(&self, hosts: &HostPattern) -> bool {
        match self.request {
            Request::Connect { host, .. }
            | Request::Http { host, .. }
            | Request::Tls { host, .. } => hosts.covers(host),
            Request::Tcp { destination, names } => {
                hosts.covers_address(destination.ip().to_canonical())
                    || names.iter().any(|name| hosts.covers_name(name))
            }
            Request::Dns { name, .. } => hosts.covers_name(name),
        }
    }
}

impl Rule {
    /// How far the request gets with one target of this rule.
    pub(super) fn test(&self, target: &Target, ask: Ask<'_>) -> Outcome {
        if !ask.goes_to(&target.hosts) {
            return Outcome::OtherHost;
        }
        let Some(port) = ask.request.port() else {
            // A question about a name that the rule has.
            return Outcome::Allows;
        };
        if target.ports.binary_search(&port).is_err() {
            return Outcome::OtherPort;
        }
        let Traffic::Web { methods, paths } = &self.traffic else {
            return Outcome::Allows;
        };
        match ask.request {
            // What comes through the tunnel is decided again.
            Request::Connect { .. } | Request::Dns { .. } => Outcome::Allows,
            Request::Tcp { .. } => Outcome::OtherTraffic,
            Request::Tls { .. } if self.traffic.needs_inspection() => Outcome::NeedsInspection,
            Request::Tls { .. } => Outcome::Allows,
            Request::Http { method, path, .. } => {
                let method_fits =
                    methods.is_empty() || methods.iter().any(|allowed| **allowed == **method);
                let path_fits = paths.is_empty()
                    || ask.plain_path && paths.iter().any(|pattern| pattern.matches(path));
                match (method_fits, path_fits) {
                    (true, true) => Outcome::Allows,
                    (true, false) => Outcome::OtherPath,
                    (false, true | false) => Outcome::OtherMethod,
                }
            }
        }
    }

    /// How far the request gets with the target that suits it best.
    pub(super) fn test_all(&self, ask: Ask<'_>) -> (Outcome, usize) {
        let outcomes = self.targets.iter().map(|target| self.test(target, ask));
        outcomes
            .enumerate()
            .fold((Outcome::OtherHost, 0), |best, (index, outcome)| {
                if outcome > best.0 {
                    (outcome, index)
                } else {
                    best
                }
            })
    }
}
