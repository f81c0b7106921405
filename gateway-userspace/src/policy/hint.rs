//! In plain words: how a rule falls short of a request, and what to ask for.
//!
//! Paths and methods are the agent's text and are not repeated here.

use std::fmt::{self, Display, Write as _};

use super::{
    Denial, DenyReason, Request,
    rule::{Ask, Outcome, Rule, Target, Traffic},
};
use crate::names::HostName;

/// How many entries of a list are worth reading in a sentence.
const SHOWN: usize = 8;

/// What a rule has to say to a request, after "the rule …".
pub(super) fn finding(rule: &Rule, target: &Target, outcome: Outcome, ask: Ask<'_>) -> String {
    match outcome {
        Outcome::OtherHost => format!(
            "names other hosts: {}",
            List(rule.targets.iter().map(|target| &target.hosts))
        ),
        Outcome::OtherPort => format!(
            "allows {} on no port but {}",
            target.hosts,
            List(target.ports.iter())
        ),
        Outcome::OtherTraffic => {
            "allows HTTP and TLS there, and this is a connection by address that is neither".into()
        }
        Outcome::NeedsInspection => {
            "limits methods or paths, which TLS hides, and this build cannot open TLS".into()
        }
        Outcome::OtherMethod => match &rule.traffic {
            Traffic::Web { methods, .. } => {
                format!("allows no method but {}", List(methods.iter()))
            }
            Traffic::Tcp => String::new(),
        },
        Outcome::OtherPath if !ask.plain_path => {
            "limits paths, and this one has what servers read in different ways: dot segments, `//`, `;`, `\\`, or such bytes encoded".into()
        }
        Outcome::OtherPath => match &rule.traffic {
            Traffic::Web { paths, .. } => format!("allows no path but {}", List(paths.iter())),
            Traffic::Tcp => String::new(),
        },
        Outcome::Allows => "allows it".into(),
    }
}

/// The refusal that the nearest rule explains.
pub(super) fn refusal(rule: &Rule, target: &Target, outcome: Outcome, ask: Ask<'_>) -> Denial {
    let (reason, remedy) = match outcome {
        Outcome::OtherHost => return no_rule(ask.request),
        // Nobody asks for the refusal of what is allowed; refuse rather than argue.
        Outcome::Allows => return no_rule(ask.request),
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
                "use plain HTTP, or ask for a rule that allows {} without methods and paths",
                Destination(ask.request)
            ),
        ),
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

pub(super) fn dns_off() -> Denial {
    Denial {
        rule: None,
        reason: DenyReason::DnsOff,
        hint: "this policy has DNS off; connect through the gateway as an HTTP proxy, which looks names up itself".into(),
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
