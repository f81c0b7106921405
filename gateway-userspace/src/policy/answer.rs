//! What policy says of what an MCP server sends back: what it offers, and what it asks of the agent.

use super::{
    Decision, Denial, DenyReason, Mode, Offer, Pin, Policy, Request,
    condition::Shared,
    intersect::both,
    mcp::Spoken,
    rule::{Ask, Outcome, Traffic},
};
use crate::{
    mcp::{Call, Message},
    names::RuleId,
};

impl Policy {
    /// Whether the server that this request is for may ask the agent for this: sampling,
    /// elicitation, roots. The same rules say so that say what the agent may call.
    pub fn decide_asked(&self, request: &Request<'_>, call: &Call<'_>) -> Decision {
        let message = Message::Call(*call);
        let own = self.decide_spoken(request, Spoken::Message(&message));
        match &self.node {
            Some(node) => both(own, node.policy.decide_asked(request, call)),
            None => own,
        }
    }

    /// What the agent gets to see of what the server that this request is for offers: tools,
    /// prompts and resources that some call of which would not be refused for its name.
    #[must_use]
    pub fn offer(&self, request: &Request<'_>, call: &Call<'_>) -> Offer {
        let own = self.offer_alone(request, call);
        let node = self.node.as_ref();
        match (own, node.map(|node| node.policy.offer(request, call))) {
            (own, None) => own,
            (Offer::Hidden, _) | (_, Some(Offer::Hidden)) => Offer::Hidden,
            (Offer::Shown { pin: own }, Some(Offer::Shown { pin: node })) => {
                Offer::Shown { pin: own.max(node) }
            }
        }
    }

    fn offer_alone(&self, request: &Request<'_>, call: &Call<'_>) -> Offer {
        let shown = match self.decide_spoken(request, Spoken::Offered(call)) {
            Decision::Allow(_) | Decision::Approve(_) => true,
            Decision::Deny(_) => self.mode == Mode::Observe,
        };
        match shown {
            true => Offer::Shown {
                pin: self.pin(request, call),
            },
            false => Offer::Hidden,
        }
    }

    /// The strictest of what the rules that cover it say of its definition.
    fn pin(&self, request: &Request<'_>, call: &Call<'_>) -> Pin {
        let shared = Shared::default();
        let ask = Ask::new(request, Spoken::Offered(call), self.agent.as_str(), &shared);
        let mut strictest = Pin::Off;
        self.visit(request, |rule, target| {
            if let Traffic::Mcp(mcp) = &rule.traffic
                && matches!(rule.test(target, ask), Outcome::Allows | Outcome::Asks)
            {
                strictest = strictest.max(mcp.pin);
            }
        });
        match (self.mode, strictest) {
            (Mode::Observe, Pin::Block) => Pin::Alert,
            (_, pin) => pin,
        }
    }
}

impl Denial {
    /// The refusal of an answer of an MCP server that has no one reading.
    #[must_use]
    pub fn unclear_answer(why: &dyn std::fmt::Display) -> Self {
        Self {
            rule: None,
            reason: DenyReason::AnswerUnclear,
            hint: format!("the server's answer cannot be read in one way only: {why}"),
        }
    }

    /// The refusal of a call of a tool of which the server says something else than at first.
    #[must_use]
    pub fn definition_changed(rule: Option<&RuleId>) -> Self {
        Self {
            rule: rule.cloned(),
            reason: DenyReason::DefinitionChanged,
            hint: "what the server says of this tool is not what it said at first, and \
                   `pin_definitions` keeps it to that; have somebody look at the tool"
                .into(),
        }
    }

    /// The refusal of an answer in which the server asks for what no rule lets it ask for.
    #[must_use]
    pub fn asked(self, method: &str) -> Self {
        let Self { rule, reason, hint } = self;
        // The name of a method of the protocol, or some text of the server's.
        let known = ["sampling/createMessage", "elicitation/create", "roots/list"];
        let what = known.into_iter().find(|known| *known == method);
        let what = what.unwrap_or("something that is no part of the protocol");
        Self {
            rule,
            reason,
            hint: format!("the server asks the agent for {what}, and {hint}"),
        }
    }
}
