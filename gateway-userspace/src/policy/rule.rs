//! A rule, and whether it covers a request: the one body of matching code, which
//! [`decide`](super::Policy::decide) and [`explain`](super::Policy::explain) share.

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;

use super::{
    Action, Condition, Facts, Inspect, Mode, Rate, Request,
    condition::{Shared, Trouble, View},
    host_pattern::HostPattern,
    mcp::{Cover, Mcp, Spoken},
    path_pattern::{self, PathPattern},
};
use crate::{mcp::Message, names::RuleId};

/// One `[[egress]]` or `[[mcp]]`.
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

impl Target {
    /// Whether it is about this host and port.
    pub(super) fn is_at(&self, host: &crate::names::Host, port: u16) -> bool {
        self.hosts.covers(host) && self.ports.contains(&port)
    }
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
    /// What is said to an MCP server.
    Mcp(Mcp),
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
            Self::Mcp(_) => true,
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
    /// All fits, but there is an MCP server, of which other rules say what passes.
    ForMcp,
    /// The MCP server fits; what is said to it has no one reading.
    NotMcp,
    /// The MCP server fits, what is called does not.
    OtherCall,
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
    /// What it says to an MCP server.
    pub(super) spoken: Spoken<'a>,
    agent: &'a str,
    shared: &'a Shared,
}

impl<'a> Ask<'a> {
    pub(super) fn new(
        request: &'a Request<'a>,
        spoken: Spoken<'a>,
        agent: &'a str,
        shared: &'a Shared,
    ) -> Self {
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
            spoken,
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
            call: match self.spoken {
                Spoken::Message(Message::Call(call)) => Some(call),
                Spoken::Message(Message::Answer)
                | Spoken::Offered(_)
                | Spoken::NoServer
                | Spoken::Nothing
                | Spoken::Unclear(_) => None,
            },
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
        // What goes through unread may be calls.
        if self.action == Action::Allow
            && ask.spoken != Spoken::NoServer
            && !matches!(self.traffic, Traffic::Mcp(_))
            && matches!(ask.request, Request::Tls { .. } | Request::Tcp { .. })
        {
            return Outcome::ForMcp;
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
                (Traffic::Web { .. } | Traffic::Mcp(_), Action::Allow) => Outcome::OtherTraffic,
                // It could be HTTP to whoever reads it.
                (Traffic::Web { .. } | Traffic::Mcp(_), Action::Approve | Action::Deny)
                    if limited =>
                {
                    Outcome::Hides
                }
                (Traffic::Web { .. } | Traffic::Mcp(_) | Traffic::Tcp, _) => self.covers(),
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
        let (methods, paths, websocket) = match &self.traffic {
            Traffic::Web {
                methods,
                paths,
                websocket,
            } => (methods, paths, websocket),
            Traffic::Mcp(mcp) => return self.test_mcp(mcp, path, facts, ask),
            // Raw bytes to an MCP server are not less than the calls in them.
            Traffic::Tcp if self.action == Action::Allow && ask.spoken != Spoken::NoServer => {
                return Outcome::ForMcp;
            }
            Traffic::Tcp => return self.covers(),
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
            (true, true) if self.action == Action::Allow && ask.spoken != Spoken::NoServer => {
                Outcome::ForMcp
            }
            (true, true) => self.test_condition(ask),
            (true, false) => Outcome::OtherPath,
            (false, true | false) => Outcome::OtherMethod,
        }
    }

    fn test_mcp(&self, mcp: &Mcp, path: &str, facts: &Facts<'_>, ask: Ask<'_>) -> Outcome {
        let fits = match self.action {
            Action::Allow => mcp.server.is_at(facts.scheme, path, facts.query),
            Action::Approve | Action::Deny => mcp.server.may_be_at(path),
        };
        if !fits {
            return Outcome::OtherPath;
        }
        let cover = match ask.spoken {
            Spoken::NoServer => return Outcome::OtherPath,
            Spoken::Unclear(_) => match self.action {
                Action::Allow => return Outcome::NotMcp,
                Action::Approve | Action::Deny => return self.covers(),
            },
            Spoken::Nothing | Spoken::Message(Message::Answer) => {
                mcp.calls.cover_session(self.action, self.when.is_some())
            }
            Spoken::Message(Message::Call(call)) => {
                mcp.calls.cover(call, self.action, self.when.is_some())
            }
            // What arguments it will have, nobody knows: a condition may come to hold.
            Spoken::Offered(call) => {
                return match (mcp.calls.cover(call, self.action, false), self.action) {
                    (Cover::No, _) => Outcome::OtherCall,
                    (Cover::Base | Cover::Named, Action::Deny) if self.when.is_some() => {
                        Outcome::OtherCall
                    }
                    (Cover::Base | Cover::Named, _) => self.covers(),
                };
            }
        };
        match cover {
            Cover::No => Outcome::OtherCall,
            Cover::Base => self.covers(),
            Cover::Named => self.test_condition(ask),
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
        let falls_short = Outcome::NeedsInspection <= outcome && outcome < Outcome::Allows;
        // That is for other rules to say, whatever this one does with what it refuses.
        falls_short && outcome != Outcome::ForMcp
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
