//! Decides recorded requests again, under another policy.

use std::net::{IpAddr, Ipv4Addr};

use super::recorded::{Recorded, Skip};
use crate::{
    audit::Outcome,
    names::Host,
    policy::{Action, Finding, HostPattern, Outcome as Reach, Policy, Query, Rule, Traffic},
};

/// What a condition may look at that no record has.
const UNRECORDED: [&str; 6] = [
    "query",
    "headers",
    "scheme",
    "websocket",
    "body_size",
    "json",
];

/// A policy that decides recorded requests.
pub(super) struct Replay<'p> {
    policy: &'p Policy,
    /// Rules about what is not recorded: bodies, and what conditions look at besides.
    blind: Vec<&'p Rule>,
    /// Whether some rule that refuses or asks knows hosts by name.
    refuses_names: bool,
}

impl<'p> Replay<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        // A text that only mentions one of the words counts too: better not told than told wrong.
        let blind = |rule: &&Rule| {
            let unrecorded = |text: &str| UNRECORDED.iter().any(|word| text.contains(word));
            let when = rule.when.as_ref();
            matches!(rule.traffic, Traffic::Mcp(_)) || when.is_some_and(|it| unrecorded(it.text()))
        };
        Self {
            policy,
            blind: policy.rules().iter().filter(blind).collect(),
            refuses_names: policy
                .rules()
                .iter()
                .any(|rule| rule.action != Action::Allow),
        }
    }

    /// What enforcing the policy would do.
    pub(super) fn judge(&self, recorded: &Recorded) -> Result<Finding, Skip> {
        let (policy, query) = (self.policy, &recorded.query);
        let address = self.address(recorded);
        let found = match query {
            Query::Tls { host, port } | Query::Connect { host, port } => {
                self.judge_tunnel(recorded, host, *port, address)?
            }
            Query::Http { .. } => {
                if self.depends(query) {
                    return Err(Skip::Condition);
                }
                policy.find_at(query, address)
            }
            Query::Tcp { destination, .. } => {
                let found = policy.find_at(query, address);
                if self.names_matter(destination.port(), found.action) {
                    return Err(Skip::Names);
                }
                found
            }
            Query::Dns { .. } => return Ok(policy.find(query)),
        };
        self.addresses(recorded, found)
    }

    /// A tunnel, or TLS that was not opened. What a tunnel carried is not recorded: it is taken
    /// for TLS.
    fn judge_tunnel(
        &self,
        recorded: &Recorded,
        host: &Host,
        port: u16,
        address: Option<IpAddr>,
    ) -> Result<Finding, Skip> {
        let (connect, tls) = (
            Query::Connect {
                host: host.clone(),
                port,
            },
            Query::Tls {
                host: host.clone(),
                port,
            },
        );
        let opens = self.policy.inspects(host, port);
        let tunnel = self.policy.find_at(&connect, address);
        let is_tls = matches!(recorded.query, Query::Tls { .. });
        if tunnel.action != Action::Allow && (opens || !is_tls) {
            return Ok(tunnel);
        }
        if opens {
            // Where it was opened then too, what was inside has records of its own.
            return match recorded.inspected {
                true => Ok(tunnel),
                false => Err(Skip::Hidden),
            };
        }
        let closed = self.policy.find_at(&tls, address);
        match closed.action {
            Action::Approve | Action::Deny if !is_tls => Err(Skip::Hidden),
            Action::Allow | Action::Approve | Action::Deny => Ok(closed),
        }
    }

    /// The address that was dialled, if it was the host's own.
    fn address(&self, recorded: &Recorded) -> Option<IpAddr> {
        let (host, _) = recorded.query.place()?;
        let proxy = self.policy.upstream().proxy.as_ref();
        let through = proxy.is_some_and(|proxy| proxy.takes(&host));
        recorded
            .upstream
            .filter(|_| !through)
            .map(|upstream| upstream.ip())
    }

    /// Whether a condition about what is not recorded has a say.
    fn depends(&self, query: &Query) -> bool {
        let Some((host, port)) = query.place() else {
            return false;
        };
        let near = self.blind.iter().any(|rule| {
            rule.targets
                .iter()
                .any(|target| target.hosts.covers(&host) && target.ports.contains(&port))
        });
        near && query.with(|request| {
            self.policy.explain(request).tried.iter().any(|tried| {
                tried.outcome >= Reach::OtherUpgrade
                    && self.blind.iter().any(|rule| rule.id == tried.rule)
            })
        })
    }

    /// Whether names of an address could make another verdict of this one.
    fn names_matter(&self, port: u16, found: Action) -> bool {
        let by_name = |rule: &Rule| {
            rule.targets.iter().any(|target| {
                let named = match &target.hosts {
                    HostPattern::Exact(host) => host.name().is_some(),
                    HostPattern::Child(_) | HostPattern::Descendant(_) => true,
                };
                named && target.ports.contains(&port)
            })
        };
        let rules = || self.policy.rules().iter().filter(|rule| by_name(rule));
        match found {
            Action::Allow => self.refuses_names && rules().any(|rule| rule.action != Action::Allow),
            Action::Approve | Action::Deny => rules()
                .any(|rule| rule.action == Action::Allow && matches!(rule.traffic, Traffic::Tcp)),
        }
    }

    /// What was refused for its addresses is allowed only where any would do.
    fn addresses(&self, recorded: &Recorded, found: Finding) -> Result<Finding, Skip> {
        let refused_for_them = recorded.was == Outcome::Deny
            && matches!(
                recorded.reason.as_str(),
                "private_address" | "metadata_address" | "no_address"
            );
        let known = recorded
            .query
            .place()
            .is_none_or(|(host, _)| self.policy.known_addresses(&host).is_some());
        if found.action != Action::Allow || !refused_for_them || known {
            return Ok(found);
        }
        let private = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let at_best = self.policy.find_at(&recorded.query, Some(private));
        match at_best.action {
            Action::Allow => Err(Skip::Address),
            Action::Approve | Action::Deny if recorded.reason == "no_address" => Err(Skip::Address),
            Action::Approve | Action::Deny => Ok(at_best),
        }
    }
}
