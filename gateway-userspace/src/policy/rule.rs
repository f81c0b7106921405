//! A rule, and whether it covers a request: the one body of matching code, which
//! [`decide`](super::Policy::decide) and [`explain`](super::Policy::explain) share.

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{
    Action, Condition, Facts, Inspect, Mode, Rate, Request,
    condition::{Shared, Trouble, View},
    host_pattern::HostPattern,
    path_pattern::{self, PathPattern},
};
use crate::names::RuleId;

/// One `[[egress]]`.
#[derive(Debug)]
pub struct Rule {
    /// Its name.
    pub id: RuleId,
    /// What it does with what it covers.
    pub action: Action,
    /// Whether its refusals are carried out, or only recorded.
    pub mode: Mode,
    /// Hosts with the ports that go with them. Never empty.
    pub targets: Vec<Target>,
    /// What may be said to them.
    pub traffic: Traffic,
    /// Whether TLS there is opened, if the rule says so itself.
    pub inspect: Option<Inspect>,
    /// What must hold besides.
    pub when: Option<Condition>,
    /// How often what it covers may be done.
    pub limit: Option<Rate>,
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
        /// Whether opening a WebSocket is covered.
        websocket: bool,
    },
    /// Any bytes, HTTP and TLS among them.
    Tcp,
}

impl Traffic {
    /// Whether the gateway must read each request to know if it is allowed.
    pub(super) const fn needs_inspection(&self) -> bool {
        match self {
            Self::Web {
                methods,
                paths,
                websocket,
            } => !(methods.is_empty() && paths.is_empty() && *websocket),
            Self::Tcp => false,
        }
    }
}

/// How far a request got with a rule. Ordered: the later, the nearer to being covered; of rules
/// that cover it, the later wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The rule names other hosts.
    OtherHost,
    /// The rule names the host, with other ports.
    OtherPort,
    /// Host and port fit; a rule that refuses or asks will look at what comes through.
    Later,
    /// Host and port fit, but the bytes are neither HTTP nor TLS.
    OtherTraffic,
    /// Host and port fit; the rest is hidden in TLS.
    NeedsInspection,
    /// Host and port fit, the method does not.
    OtherMethod,
    /// All fits but the path.
    OtherPath,
    /// Method and path fit, but it opens a WebSocket.
    OtherUpgrade,
    /// All fits but the condition, which does not hold.
    ConditionNotMet,
    /// All fits but the condition, which could not be evaluated.
    ConditionFailed,
    /// All fits.
    Allows,
    /// All fits, and a human is to be asked.
    Asks,
    /// The rule refuses, or asks about, part of what is hidden here: nobody can tell which.
    Hides,
    /// All fits, and the rule refuses it.
    Denies,
}

/// A request with what is worked out once, however many rules are tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask<'a> {
    /// The request.
    pub(super) request: &'a Request<'a>,
    /// Whether path patterns can apply at all.
    pub(super) plain_path: bool,
    agent: &'a str,
    shared: &'a Shared,
}

impl<'a> Ask<'a> {
    pub(super) fn new(request: &'a Request<'a>, agent: &'a str, shared: &'a Shared) -> Self {
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
            agent,
            shared,
        }
    }

    /// What a condition sees of an HTTP request.
    fn view(self) -> Option<View<'a>> {
        let Request::Http {
            host,
            port,
            method,
            path,
            facts,
        } = self.request
        else {
            return None;
        };
        Some(View {
            agent: self.agent,
            host,
            port: *port,
            method,
            path,
            facts,
            shared: self.shared,
        })
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
            return self.test_name();
        };
        if target.ports.binary_search(&port).is_err() {
            return Outcome::OtherPort;
        }
        let limited = self.needs_inspection();
        match ask.request {
            // What comes through the tunnel is decided again.
            Request::Connect { .. } if limited => match self.action {
                Action::Allow | Action::Approve => Outcome::Allows,
                Action::Deny => Outcome::Later,
            },
            Request::Tls { .. } if limited => match self.action {
                Action::Allow => Outcome::NeedsInspection,
                Action::Approve | Action::Deny => Outcome::Hides,
            },
            Request::Tcp { .. } => match (&self.traffic, self.action) {
                (Traffic::Web { .. }, Action::Allow) => Outcome::OtherTraffic,
                // It could be HTTP to whoever reads it.
                (Traffic::Web { .. }, Action::Approve | Action::Deny) if limited => Outcome::Hides,
                (Traffic::Web { .. } | Traffic::Tcp, _) => self.covers(),
            },
            Request::Http {
                method,
                path,
                facts,
                ..
            } => self.test_http(method, path, facts, ask),
            Request::Connect { .. } | Request::Tls { .. } | Request::Dns { .. } => self.covers(),
        }
    }

    /// A question about a name that the rule has.
    fn test_name(&self) -> Outcome {
        match self.action {
            Action::Allow | Action::Approve => Outcome::Allows,
            Action::Deny if self.needs_inspection() => Outcome::Later,
            Action::Deny => Outcome::Denies,
        }
    }

    fn test_http(&self, method: &str, path: &str, facts: &Facts<'_>, ask: Ask<'_>) -> Outcome {
        let Traffic::Web {
            methods,
            paths,
            websocket,
        } = &self.traffic
        else {
            return self.covers();
        };
        // What a server could take for something that the rule covers, it covers if it refuses.
        let (method_fits, path_fits) = match self.action {
            Action::Allow => (
                methods.iter().any(|it| **it == *method),
                ask.plain_path && paths.iter().any(|it| it.matches(path)),
            ),
            Action::Approve | Action::Deny => (
                methods.iter().any(|it| it.eq_ignore_ascii_case(method)),
                !ask.plain_path || paths.iter().any(|it| it.may_match(path)),
            ),
        };
        match (
            methods.is_empty() || method_fits,
            paths.is_empty() || path_fits,
        ) {
            (true, true) if facts.websocket && !websocket => Outcome::OtherUpgrade,
            (true, true) => self.test_condition(ask),
            (true, false) => Outcome::OtherPath,
            (false, true | false) => Outcome::OtherMethod,
        }
    }

    /// Looks at the condition. One without a value holds where the rule refuses or asks, and
    /// does not where it allows.
    fn test_condition(&self, ask: Ask<'_>) -> Outcome {
        match (self.condition(ask), self.action) {
            (None | Some(Ok(true)), _) => self.covers(),
            (Some(Ok(false)), _) => Outcome::ConditionNotMet,
            (Some(Err(_)), Action::Approve | Action::Deny) => self.covers(),
            (Some(Err(_)), Action::Allow) => Outcome::ConditionFailed,
        }
    }

    /// What the condition says, if there is one.
    pub(super) fn condition(&self, ask: Ask<'_>) -> Option<Result<bool, Trouble>> {
        let when = self.when.as_ref()?;
        Some(
            ask.view()
                .ok_or(Trouble::Failed)
                .and_then(|view| when.holds(view)),
        )
    }

    /// Whether the gateway must read each request to know what the rule says.
    pub(super) const fn needs_inspection(&self) -> bool {
        self.when.is_some() || self.traffic.needs_inspection()
    }

    /// What becomes of a request that the rule covers.
    const fn covers(&self) -> Outcome {
        match self.action {
            Action::Allow => Outcome::Allows,
            Action::Approve => Outcome::Asks,
            Action::Deny => Outcome::Denies,
        }
    }

    /// Whether the rule would refuse only for what is said, not for where it goes.
    pub(super) fn is_narrow(outcome: Outcome) -> bool {
        Outcome::NeedsInspection <= outcome && outcome < Outcome::Allows
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
