//! In plain words: how a rule falls short of a request, and what to ask for.
//!
//! Paths and methods are the agent's text and are not repeated here.

use std::fmt::{self, Display, Write as _};

use super::{
    Action, Denial, DenyReason, Rate, Request,
    mcp::{Mcp, Spoken},
    rule::{Ask, Outcome, Rule, Target, Traffic},
};
use crate::{
    mcp::McpError,
    names::{HostName, RuleId},
};

/// How many entries of a list are worth reading in a sentence.
const SHOWN: usize = 8;
/// How many characters of a condition are.
const CONDITION_SHOWN: usize = 200;

/// What a rule has to say to a request, after "the rule …".
pub(super) fn finding(rule: &Rule, target: &Target, outcome: Outcome, ask: Ask<'_>) -> String {
    let does = match rule.action {
        Action::Allow => "allows",
        Action::Approve => "asks about",
        Action::Deny => "refuses",
    };
    match outcome {
        Outcome::OtherHost => format!(
            "names other hosts: {}",
            List(rule.targets.iter().map(|target| &target.hosts))
        ),
        Outcome::OtherPort => format!(
            "{does} {} on no port but {}",
            target.hosts,
            List(target.ports.iter())
        ),
        Outcome::Later => format!("{does} some of what is sent there, and is asked again then"),
        Outcome::OtherTraffic => {
            "allows HTTP and TLS there, and this is a connection by address that is neither".into()
        }
        Outcome::NeedsInspection => {
            "looks at requests, which TLS hides, and TLS is not opened there".into()
        }
        Outcome::Hides => {
            format!("{does} some HTTP requests there, and what goes through is not opened")
        }
        Outcome::OtherMethod => match &rule.traffic {
            Traffic::Web { methods, .. } => {
                format!("{does} no method but {}", List(methods.iter()))
            }
            Traffic::Mcp(_) | Traffic::Tcp => String::new(),
        },
        Outcome::OtherPath if !ask.plain_path => format!("limits paths, and {UNPLAIN}"),
        Outcome::OtherPath => match &rule.traffic {
            Traffic::Web { paths, .. } => format!("{does} no path but {}", List(paths.iter())),
            Traffic::Mcp(mcp) => format!("{does} no path but {}", mcp.server.path),
            Traffic::Tcp => String::new(),
        },
        Outcome::OtherUpgrade => format!("{does} no WebSocket"),
        Outcome::ForMcp => {
            "covers it, but an `[[mcp]]` rule names it as a server: those rules say what passes"
                .into()
        }
        Outcome::NotMcp => match ask.spoken {
            Spoken::Unclear(why) => format!("{does} calls of MCP, and {why}"),
            Spoken::NoServer | Spoken::Nothing | Spoken::Offered(_) | Spoken::Message(_) => {
                String::new()
            }
        },
        Outcome::OtherCall => match &rule.traffic {
            Traffic::Mcp(mcp) => format!("{does} no call but {}", Named(mcp)),
            Traffic::Web { .. } | Traffic::Tcp => String::new(),
        },
        Outcome::ConditionNotMet => format!("{does} it only where {}", Condition(rule)),
        Outcome::ConditionFailed => match rule.condition(ask) {
            Some(Err(trouble)) => format!("has a condition, {}: {trouble}", Condition(rule)),
            Some(Ok(_)) | None => "has a condition that could not be evaluated".into(),
        },
        Outcome::Asks | Outcome::Denies => match (&rule.traffic, ask.request) {
            (Traffic::Web { paths, .. }, Request::Http { .. })
                if !paths.is_empty() && !ask.plain_path =>
            {
                format!("{does} some paths, and {UNPLAIN}")
            }
            (_, Request::Http { .. }) => match rule.condition(ask) {
                Some(Err(trouble)) => {
                    format!("{does} it, as its condition has no value: {trouble}")
                }
                Some(Ok(_)) | None => format!("{does} it"),
            },
            (_, _) => format!("{does} it"),
        },
        Outcome::Allows => "allows it".into(),
    }
}

/// The calls that a rule names.
struct Named<'a>(&'a Mcp);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = &self.0.calls;
        let lists = [
            ("methods", &calls.methods),
            ("tools", &calls.tools),
            ("prompts", &calls.prompts),
            ("resources", &calls.resources),
        ];
        let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
        for (index, (what, list)) in lists.enumerate() {
            let and = if index == 0 { "" } else { ", " };
            write!(f, "{and}{what} {}", List(list.iter()))?;
        }
        Ok(())
    }
}

/// The condition of a rule, in quotes.
struct Condition<'a>(&'a Rule);

impl Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.when.as_ref().map_or("", |when| when.text());
        let mut shown = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((cut, _)) = shown.char_indices().nth(CONDITION_SHOWN) {
            shown.truncate(cut);
            shown.push('…');
        }
        write!(f, "`{shown}`")
    }
}

/// What keeps a path from being compared.
const UNPLAIN: &str = "this one has what servers read in different ways: dot segments, `//`, `;`, `\\`, or such bytes encoded";

/// The refusal that the nearest rule explains.
pub(super) fn refusal(rule: &Rule, target: &Target, outcome: Outcome, ask: Ask<'_>) -> Denial {
    let (reason, remedy) = match outcome {
        Outcome::OtherHost => return no_rule(ask.request),
        // Nobody asks for the refusal of what is allowed; refuse rather than argue.
        Outcome::Allows => return no_rule(ask.request),
        Outcome::Later => return no_rule(ask.request),
        Outcome::OtherPort => (
            DenyReason::PortNotAllowed,
            "ask for this port to be added".into(),
        ),
        Outcome::OtherTraffic => (
            DenyReason::NoRule,
            format!(
                "ask for a rule with `tcp = [\"{}\"]`",
                Destination(ask.request)
            ),
        ),
        Outcome::NeedsInspection => (
            DenyReason::NeedsInspection,
            format!(
                "use plain HTTP, or ask for a rule that allows {} whatever is said",
                Destination(ask.request)
            ),
        ),
        Outcome::Hides => (DenyReason::NeedsInspection, "use plain HTTP".into()),
        Outcome::OtherMethod => (
            DenyReason::MethodNotAllowed,
            "ask for this method to be added".into(),
        ),
        Outcome::OtherPath if !ask.plain_path => (
            DenyReason::PathNotAllowed,
            "send the path without them".into(),
        ),
        Outcome::OtherPath => (
            DenyReason::PathNotAllowed,
            "ask for this path to be added".into(),
        ),
        Outcome::OtherUpgrade => (
            DenyReason::WebsocketNotAllowed,
            "ask for a rule with `websocket = true`".into(),
        ),
        Outcome::ForMcp => (
            DenyReason::McpOnly,
            "ask for this call to be added to one of them".into(),
        ),
        Outcome::NotMcp => (
            DenyReason::McpUnclear,
            "send one message of JSON-RPC 2.0 that says everything once".into(),
        ),
        Outcome::OtherCall => (
            DenyReason::CallNotAllowed,
            "ask for this call to be added".into(),
        ),
        Outcome::ConditionNotMet => (
            DenyReason::ConditionNotMet,
            "keep to it, or ask for it to be changed".into(),
        ),
        Outcome::ConditionFailed => (
            DenyReason::ConditionFailed,
            "send what it looks at, or ask for it to be changed".into(),
        ),
        Outcome::Asks => (
            DenyReason::ApprovalRequired,
            "a human would have to approve, and nothing can ask one yet".into(),
        ),
        Outcome::Denies => (
            DenyReason::DeniedByRule,
            "do without, or ask for this rule to be changed".into(),
        ),
    };
    Denial {
        rule: Some(rule.id.clone()),
        reason,
        hint: format!(
            "rule `{}` {}; {remedy}",
            rule.id,
            finding(rule, target, outcome, ask)
        ),
    }
}

/// The refusal of what no rule names.
pub(super) fn no_rule(request: &Request<'_>) -> Denial {
    let destination = Destination(request);
    Denial {
        rule: None,
        reason: DenyReason::NoRule,
        hint: format!("no rule names {destination}; ask for a rule that allows it"),
    }
}

impl Denial {
    /// The refusal of a DNS question that is one too many.
    #[must_use]
    pub fn questions_limited(rate: Rate) -> Self {
        Self {
            rule: None,
            reason: DenyReason::RateLimited,
            hint: format!("this policy answers {rate} questions; wait, then ask again"),
        }
    }

    /// The refusal of what is allowed, only not as often.
    #[must_use]
    pub fn rate_limited(rule: Option<&RuleId>, rate: Rate) -> Self {
        let who = rule.map_or_else(
            || "this policy allows an agent".to_owned(),
            |rule| format!("rule `{rule}` allows"),
        );
        Self {
            rule: rule.cloned(),
            reason: DenyReason::RateLimited,
            hint: format!("{who} {rate} requests; wait, then try again"),
        }
    }
}

/// The refusal of what an MCP server could read in several ways.
pub(super) fn unclear(why: McpError, rule: Option<&RuleId>) -> Denial {
    Denial {
        rule: rule.cloned(),
        reason: match why {
            McpError::Mirror => DenyReason::McpMismatch,
            McpError::NotRead
            | McpError::Body
            | McpError::Method
            | McpError::Batch
            | McpError::Envelope
            | McpError::LookAlike
            | McpError::Name => DenyReason::McpUnclear,
        },
        hint: format!("{why}; send one message of JSON-RPC 2.0 that says everything once"),
    }
}

/// The refusal of a batch with calls that are counted.
pub(super) fn limited_batch(rule: Option<&RuleId>) -> Denial {
    Denial {
        rule: rule.cloned(),
        reason: DenyReason::McpUnclear,
        hint: "calls of a rule with a `limit` count one by one; send them so, without a batch"
            .into(),
    }
}

pub(super) fn dns_off() -> Denial {
    Denial {
        rule: None,
        reason: DenyReason::DnsOff,
        hint: "this policy has DNS off; connect through the gateway as an HTTP proxy, which looks names up itself".into(),
    }
}

/// The refusal of a name for what it looks like.
pub(super) fn dns_shape(reason: DenyReason) -> Denial {
    Denial {
        rule: None,
        reason,
        hint: "this policy answers no name that is so long or looks so random; ask for a rule that names it in full".into(),
    }
}

pub(super) fn dns_type(name: &HostName) -> Denial {
    Denial {
        rule: None,
        reason: DenyReason::DnsType,
        hint: format!(
            "this policy refuses this record type for every name; ask for A or AAAA of {name}"
        ),
    }
}

/// Where a request goes, as a person would write it.
struct Destination<'a>(&'a Request<'a>);

impl Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::Connect { host, port }
            | Request::Http { host, port, .. }
            | Request::Tls { host, port } => write!(f, "{host}:{port}"),
            Request::Tcp { destination, names } => match names.first() {
                Some(name) => write!(f, "{name}:{}", destination.port()),
                None => destination.fmt(f),
            },
            Request::Dns { name, .. } => name.fmt(f),
        }
    }
}

/// A list in a sentence, cut where it gets long.
pub(super) struct List<I>(pub(super) I);

impl<I: Iterator<Item: Display> + Clone> Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.clone().enumerate() {
            match index {
                0 => {}
                SHOWN => return f.write_str(", …"),
                1.. => f.write_str(", ")?,
            }
            item.fmt(f)?;
        }
        if self.0.clone().next().is_none() {
            f.write_char('-')?;
        }
        Ok(())
    }
}
