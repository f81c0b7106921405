//! The decision: what the nearest rule says, and nothing allowed that no rule allows.

use super::{
    Decision, Denial, Explanation, Grant, Mode, Policy, PrivateLeave, Request, Tried, hint,
    index::Slot,
    rule::{Ask, Outcome, Rule, Target},
    settings::DnsMode,
};

/// What the rules have to say to a request.
#[derive(Default)]
struct Standing {
    /// The rule that gets nearest; of several equally near, the first in the file.
    nearest: Option<(Outcome, Slot)>,
    /// The first rule that allows it and has `private = true`.
    private: Option<usize>,
}

impl Policy {
    /// Decides a request. Allocates nothing for what is allowed, and looks only at rules that
    /// name the host.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        match self.judge(request) {
            Ok(grant) => Decision::Allow(grant),
            Err(denial) => match self.mode {
                Mode::Enforce => Decision::Deny(denial),
                Mode::Observe => Decision::Allow(Grant {
                    rule: None,
                    private: None,
                    observes: true,
                    observed: Some(denial),
                }),
            },
        }
    }

    /// Decides a request and tells, rule by rule, why.
    #[must_use]
    pub fn explain(&self, request: &Request<'_>) -> Explanation {
        let ask = Ask::new(request);
        let tried = self.rules().iter().map(|rule| {
            let (outcome, at) = rule.test_all(ask);
            let target = rule.targets.get(at);
            Tried {
                rule: rule.id.clone(),
                outcome,
                finding: target.map_or_else(String::new, |target| {
                    hint::finding(rule, target, outcome, ask)
                }),
            }
        });
        Explanation {
            tried: tried.collect(),
            decision: self.decide(request),
        }
    }

    /// What enforcing would do.
    fn judge(&self, request: &Request<'_>) -> Result<Grant, Denial> {
        if let Request::Dns { name, record_type } = request {
            let dns = self.dns();
            if dns.mode == DnsMode::Off {
                return Err(hint::dns_off());
            }
            if dns.deny_types.contains(record_type) {
                return Err(hint::dns_type(name));
            }
            if dns.mode == DnsMode::Any {
                return Ok(self.grant(None, None));
            }
        }
        let ask = Ask::new(request);
        let standing = self.consult(ask);
        let Some((outcome, rule, target)) = standing.nearest.and_then(|(outcome, slot)| {
            let (rule, target) = self.at(slot)?;
            Some((outcome, rule, target))
        }) else {
            return Err(hint::no_rule(request));
        };
        if outcome == Outcome::Allows {
            let private = standing.private.and_then(|at| self.rules().get(at));
            Ok(self.grant(Some(rule), private))
        } else {
            Err(hint::refusal(rule, target, outcome, ask))
        }
    }

    fn consult(&self, ask: Ask<'_>) -> Standing {
        let mut standing = Standing::default();
        self.inner.index.visit(ask.request, |slot| {
            let Some((rule, target)) = self.at(slot) else {
                return;
            };
            let outcome = rule.test(target, ask);
            let nearer = standing
                .nearest
                .is_none_or(|(best, at)| outcome > best || outcome == best && slot.rule < at.rule);
            if nearer {
                standing.nearest = Some((outcome, slot));
            }
            let earlier = standing.private.is_none_or(|at| slot.rule < at);
            if outcome == Outcome::Allows && rule.private.is_some() && earlier {
                standing.private = Some(slot.rule);
            }
        });
        standing
    }

    fn grant(&self, rule: Option<&Rule>, private: Option<&Rule>) -> Grant {
        Grant {
            rule: rule.map(|rule| rule.id.clone()),
            private: private.and_then(|rule| {
                Some(PrivateLeave {
                    rule: rule.id.clone(),
                    named: rule.private.clone()?,
                })
            }),
            observes: self.mode == Mode::Observe,
            observed: None,
        }
    }

    fn at(&self, slot: Slot) -> Option<(&Rule, &Target)> {
        let rule = self.rules().get(slot.rule)?;
        Some((rule, rule.targets.get(slot.target)?))
    }
}
