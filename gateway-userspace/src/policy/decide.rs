//! The decision: deny wins over approve, approve over allow, and nothing is allowed that no rule
//! allows.

use std::collections::HashSet;

use super::{
    Action, Decision, Denial, Explanation, Grant, Mode, Policy, PrivateLeave, Request, Tried,
    condition::Shared,
    hint,
    index::Slot,
    intersect::both,
    mcp::{self, Called, Spoken},
    rule::{Ask, Outcome, Rule, Target, Traffic},
    settings::DnsMode,
};

use crate::{
    mcp::{McpError, Message},
    names::RuleId,
};

/// What the rules have to say to a request.
#[derive(Default)]
struct Standing {
    /// The rule that gets nearest; of several equally near, the first in the file.
    nearest: Option<(Outcome, Slot)>,
    /// The first rule that allows it and has `private = true`.
    private: Option<usize>,
    /// What the strictest of the rules that only observe would refuse.
    watched: Option<(Outcome, Slot)>,
    /// The rule that gets nearest of those that only observe what they do not allow.
    lenient: Option<(Outcome, Slot)>,
    /// The first rule that refuses a name of which something may still be allowed.
    denied_name: Option<Slot>,
}

/// How a request is refused.
enum Refusal {
    Deny(Denial),
    Approve(Denial),
}

impl Refusal {
    const fn rule(&self) -> Option<&RuleId> {
        match self {
            Self::Deny(denial) | Self::Approve(denial) => denial.rule.as_ref(),
        }
    }
}

impl Policy {
    /// Decides a request. Allocates nothing for what is allowed, and looks only at rules that
    /// name the host.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        let own = self.decide_alone(request);
        match &self.node {
            Some(node) => both(own, node.policy.decide(request)),
            None => own,
        }
    }

    fn decide_alone(&self, request: &Request<'_>) -> Decision {
        self.carry_out(self.enforce(request))
    }

    /// The decision on something else that is said where the request goes, without the node's.
    pub(super) fn decide_spoken(&self, request: &Request<'_>, spoken: Spoken<'_>) -> Decision {
        // Of two policies, one alone may know the server.
        let spoken = match self.knows_mcp(request) {
            true => spoken,
            false => Spoken::NoServer,
        };
        self.carry_out(decision(self.judge(request, spoken)))
    }

    /// Calls `visit` with each rule that names where the request goes.
    pub(super) fn visit(&self, request: &Request<'_>, mut visit: impl FnMut(&Rule, &Target)) {
        self.inner.index.visit(request, |slot| {
            if let Some((rule, target)) = self.at(slot) {
                visit(rule, target);
            }
        });
    }

    /// What is refused, passes in observe mode.
    fn carry_out(&self, decision: Decision) -> Decision {
        match (self.mode, decision) {
            (Mode::Observe, Decision::Deny(denial) | Decision::Approve(denial)) => {
                Decision::Allow(Grant {
                    rule: None,
                    private: None,
                    limit: None,
                    observes: true,
                    observed: Some(denial),
                    node: None,
                })
            }
            (Mode::Enforce | Mode::Observe, decision) => decision,
        }
    }

    /// What enforcing would do.
    pub(super) fn enforce(&self, request: &Request<'_>) -> Decision {
        let judged = match self.messages(request) {
            None => self.judge(request, Spoken::NoServer),
            // Nobody can be asked about what has no one reading.
            Some(Err(why)) => {
                let judged = self.judge(request, Spoken::Unclear(why));
                judged.map_err(|refusal| Refusal::Deny(hint::unclear(why, refusal.rule())))
            }
            Some(Ok(messages)) => match &messages[..] {
                [] => self.judge(request, Spoken::Nothing),
                [one] => self.judge(request, Spoken::Message(one)),
                batch => self.judge_all(request, batch),
            },
        };
        decision(judged)
    }

    /// What is said to the MCP server that the request may be for; none if no rule knows one there.
    fn messages<'a>(&self, request: &Request<'a>) -> Option<Result<Vec<Message<'a>>, McpError>> {
        if !self.knows_mcp(request) {
            return None;
        }
        Some(match request {
            Request::Http { method, facts, .. } => mcp::read(method, facts),
            Request::Connect { .. }
            | Request::Tls { .. }
            | Request::Tcp { .. }
            | Request::Dns { .. } => Ok(Vec::new()),
        })
    }

    /// Whether a rule knows an MCP server where the request goes.
    fn knows_mcp(&self, request: &Request<'_>) -> bool {
        let mut knows = false;
        if self.inner.index.has_mcp {
            self.inner.index.visit(request, |slot| {
                if let Some((rule, target)) = self.at(slot)
                    && let Traffic::Mcp(mcp) = &rule.traffic
                {
                    knows |= match request {
                        Request::Http {
                            host, port, path, ..
                        } => target.is_at(host, *port) && mcp.server.may_be_at(path),
                        Request::Tls { host, port } => target.is_at(host, *port),
                        Request::Tcp { destination, .. } => {
                            target.ports.contains(&destination.port())
                        }
                        Request::Connect { .. } | Request::Dns { .. } => false,
                    };
                }
            });
        }
        knows
    }

    /// What a request calls on an MCP server; none if it is not for one.
    #[must_use]
    pub fn called(&self, request: &Request<'_>) -> Option<Called> {
        let Request::Http { facts, .. } = request else {
            return None;
        };
        let node = self.node.as_ref();
        let knows = self.knows_mcp(request) || node.is_some_and(|it| it.policy.knows_mcp(request));
        knows.then(|| mcp::called(facts.content))
    }

    /// The strictest of what the messages of a batch get.
    fn judge_all(&self, request: &Request<'_>, batch: &[Message<'_>]) -> Result<Grant, Refusal> {
        let mut asks = None;
        let mut granted = None;
        for message in batch {
            match self.judge(request, Spoken::Message(message)) {
                // Each would have to count.
                Ok(grant) if grant.limit.is_some() => {
                    return Err(Refusal::Deny(hint::limited_batch(grant.rule.as_ref())));
                }
                Ok(grant) => granted = granted.or(Some(grant)),
                Err(Refusal::Approve(denial)) => asks = asks.or(Some(denial)),
                Err(Refusal::Deny(denial)) => return Err(Refusal::Deny(denial)),
            }
        }
        match (asks, granted) {
            (Some(denial), _) => Err(Refusal::Approve(denial)),
            (None, Some(grant)) => Ok(grant),
            (None, None) => Err(Refusal::Deny(hint::no_rule(request))),
        }
    }

    /// Decides a request and tells, rule by rule, why.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let shared = Shared::default();
        let messages = self.messages(request);
        // Of a batch, the first.
        let spoken = match &messages {
            None => Spoken::NoServer,
            Some(Err(why)) => Spoken::Unclear(*why),
            Some(Ok(messages)) => messages.first().map_or(Spoken::Nothing, Spoken::Message),
        };
        let ask = Ask::new(request, spoken, self.agent.as_str(), &shared);
        let tried = self.rules().iter().map(|rule| {
            let (outcome, at) = rule.test_all(ask);
            let target = rule.targets.get(at);
            Tried {
                rule: rule.id.clone(),
                outcome,
                finding: target.map_or_else(String::new, |target| {
                    let finding = hint::finding(rule, target, outcome, ask);
                    match rule.mode {
                        Mode::Enforce => finding,
                        Mode::Observe => format!("{finding}; it only observes"),
                    }
                }),
            }
        });
        let mut tried: Vec<_> = tried.collect();
        if let Some(node) = &self.node {
            let above = node.policy.explain(request).tried.into_iter();
            tried.extend(above.map(|tried| Tried {
                finding: format!("(of the node's policy) {}", tried.finding),
                ..tried
            }));
        }
        Explanation {
            tried,
            decision: self.decide(request),
        }
    }

    fn judge(&self, request: &Request<'_>, spoken: Spoken<'_>) -> Result<Grant, Refusal> {
        if let Request::Dns { name, record_type } = request {
            let dns = &self.inner.dns;
            if dns.mode == DnsMode::Off {
                return Err(Refusal::Deny(hint::dns_off()));
            }
            let listed = dns.allow_types.as_ref();
            let unlisted = listed.is_some_and(|types| !types.contains(record_type));
            if unlisted || dns.deny_types.contains(record_type) {
                return Err(Refusal::Deny(hint::dns_type(name)));
            }
            if !self.inner.index.names(name)
                && let Some(reason) = dns.flaw(name)
            {
                return Err(Refusal::Deny(hint::dns_shape(reason)));
            }
            if dns.mode == DnsMode::Any {
                return Ok(self.grant(None, None));
            }
        }
        let shared = Shared::default();
        let ask = Ask::new(request, spoken, self.agent.as_str(), &shared);
        let mut standing = self.consult(ask);
        if let Some(slot) = standing.denied_name
            && !self.leads_anywhere(ask)
        {
            standing.nearest = Some((Outcome::Denies, slot));
        }
        let refusal = |(outcome, slot)| {
            let (rule, target) = self.at(slot)?;
            Some(hint::refusal(rule, target, outcome, ask))
        };
        let watched = standing.watched.and_then(refusal);
        let (nearest, lenient) = (standing.nearest, standing.lenient);
        if let Some((outcome, slot)) = lenient
            && nearest.is_none_or(|(nearest, _)| nearest < Outcome::Allows)
            && let Some((rule, _)) = self.at(slot)
        {
            let mut grant = self.grant(Some(rule), rule.private.as_ref().map(|_| rule));
            grant.observed = watched.or_else(|| refusal((outcome, slot)));
            return Ok(grant);
        }
        let Some((outcome, rule, target)) = nearest.and_then(|(outcome, slot)| {
            let (rule, target) = self.at(slot)?;
            Some((outcome, rule, target))
        }) else {
            return Err(Refusal::Deny(hint::no_rule(request)));
        };
        match outcome {
            Outcome::Allows => {
                let private = standing.private.and_then(|at| self.rules().get(at));
                let mut grant = self.grant(Some(rule), private);
                grant.observed = watched;
                Ok(grant)
            }
            Outcome::Asks => Err(Refusal::Approve(hint::refusal(rule, target, outcome, ask))),
            Outcome::OtherHost
            | Outcome::OtherPort
            | Outcome::Later
            | Outcome::OtherTraffic
            | Outcome::NeedsInspection
            | Outcome::OtherMethod
            | Outcome::OtherPath
            | Outcome::OtherUpgrade
            | Outcome::ForMcp
            | Outcome::NotMcp
            | Outcome::OtherCall
            | Outcome::ConditionNotMet
            | Outcome::ConditionFailed
            | Outcome::Hides
            | Outcome::Denies => Err(Refusal::Deny(hint::refusal(rule, target, outcome, ask))),
        }
    }

    fn consult(&self, ask: Ask<'_>) -> Standing {
        let mut standing = Standing::default();
        self.inner.index.visit(ask.request, |slot| {
            let Some((rule, target)) = self.at(slot) else {
                return;
            };
            let outcome = rule.test(target, ask);
            if rule.mode == Mode::Observe {
                let beside = match rule.action {
                    Action::Allow if Rule::is_narrow(outcome) => Some(&mut standing.lenient),
                    Action::Approve | Action::Deny if outcome > Outcome::Allows => {
                        Some(&mut standing.watched)
                    }
                    Action::Allow | Action::Approve | Action::Deny => None,
                };
                if let Some(beside) = beside {
                    return advance(beside, outcome, slot);
                }
            }
            if outcome == Outcome::Denies && matches!(ask.request, Request::Dns { .. }) {
                let first = standing.denied_name.is_none_or(|at| slot < at);
                standing.denied_name = if first {
                    Some(slot)
                } else {
                    standing.denied_name
                };
                return;
            }
            // A rule that refuses something else has nothing to say.
            if rule.action == Action::Deny && outcome < Outcome::Hides {
                return;
            }
            advance(&mut standing.nearest, outcome, slot);
            let earlier = standing.private.is_none_or(|at| slot.rule < at);
            if outcome == Outcome::Allows && rule.private.is_some() && earlier {
                standing.private = Some(slot.rule);
            }
        });
        standing
    }

    /// Whether rules leave a port of this name open, though some refuse all on others.
    fn leads_anywhere(&self, ask: Ask<'_>) -> bool {
        let ports_where = |wanted: Outcome| {
            let mut ports = HashSet::new();
            self.inner.index.visit(ask.request, |slot| {
                if let Some((rule, target)) = self.at(slot)
                    && rule.test(target, ask) == wanted
                {
                    ports.extend(target.ports.iter().copied());
                }
            });
            ports
        };
        let open = ports_where(Outcome::Allows);
        open.is_empty() || !open.is_subset(&ports_where(Outcome::Denies))
    }

    fn grant(&self, rule: Option<&Rule>, private: Option<&Rule>) -> Grant {
        Grant {
            rule: rule.map(|rule| rule.id.clone()),
            limit: rule.and_then(|rule| Some((rule.limit?, rule.mode))),
            private: private.and_then(|rule| {
                Some(PrivateLeave {
                    rule: rule.id.clone(),
                    named: rule.private.clone()?,
                })
            }),
            observes: self.mode == Mode::Observe,
            observed: None,
            node: None,
        }
    }

    fn at(&self, slot: Slot) -> Option<(&Rule, &Target)> {
        let rule = self.rules().get(slot.rule)?;
        Some((rule, rule.targets.get(slot.target)?))
    }
}

fn decision(judged: Result<Grant, Refusal>) -> Decision {
    match judged {
        Ok(grant) => Decision::Allow(grant),
        Err(Refusal::Approve(denial)) => Decision::Approve(denial),
        Err(Refusal::Deny(denial)) => Decision::Deny(denial),
    }
}

/// Keeps the greatest outcome; of several, the first in the file.
fn advance(best: &mut Option<(Outcome, Slot)>, outcome: Outcome, slot: Slot) {
    let nearer =
        best.is_none_or(|(best, at)| outcome > best || outcome == best && slot.rule < at.rule);
    if nearer {
        *best = Some((outcome, slot));
    }
}
