//! `sluice policy explain`: the verdict on one request, and what each rule has to say to it.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::ArgGroup;
use serde::Serialize;

use super::{print, rendered};
use crate::{
    names::{Host, PolicyDigest, RuleId},
    policy::{Decision, Denial, DenyReason, Explanation, Grant, Policy, Query, Tried},
};

/// Arguments of `sluice policy explain`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("request").required(true).args(["url", "tcp", "dns"]))]
pub(super) struct Explain {
    /// Policy file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An HTTP request, or for https:// the TLS connection around it.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Method of the HTTP request.
    #[arg(long, default_value = "GET", conflicts_with_all = ["tcp", "dns"])]
    method: String,
    /// A connection that is neither HTTP nor TLS.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Option<SocketAddr>,
    /// A name that stands for the address of the connection.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["url", "dns"])]
    name: Vec<String>,
    /// A DNS question.
    #[arg(long, value_name = "NAME")]
    dns: Option<String>,
    /// Record type of the DNS question.
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "A",
        conflicts_with_all = ["url", "tcp"]
    )]
    record_type: String,
    /// Write a JSON object.
    #[arg(long)]
    json: bool,
}

/// The answer, as scripts get it.
#[derive(Serialize)]
struct Answer {
    verdict: Verdict,
    reason: Option<DenyReason>,
    rule: Option<RuleId>,
    hint: Option<String>,
    /// What is yet to be seen, or was not looked at.
    notes: Vec<String>,
    tried: Vec<Tried>,
    policy: PolicyDigest,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
    /// It would be refused; observe mode lets it pass.
    Observe,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Observe => "observe: passes, and is recorded as a refusal",
        }
    }
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let query = self.query()?;
        let policy = match Policy::load(&self.file) {
            Ok(policy) => policy,
            Err(errors) => {
                eprint!("{}", rendered(&errors, false));
                return Ok(ExitCode::FAILURE);
            }
        };
        let answer = answer(&policy, &query);
        print(&if self.json {
            serde_json::to_string_pretty(&answer)? + "\n"
        } else {
            described(&answer)
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn query(&self) -> anyhow::Result<Query> {
        Ok(match (&self.url, self.tcp, &self.dns) {
            (Some(url), ..) => Query::url(url, &self.method)?,
            (None, Some(destination), _) => Query::tcp(destination, &self.name)?,
            (None, None, Some(name)) => Query::dns(name, &self.record_type)?,
            (None, None, None) => anyhow::bail!("name a request: --url, --tcp or --dns"),
        })
    }
}

fn answer(policy: &Policy, query: &Query) -> Answer {
    let Explanation { decision, tried } = policy.explain(&query.request());
    let mut notes = Vec::new();
    if matches!(query, Query::Tls { .. }) {
        notes.push("TLS is relayed unopened: method and path are not looked at".to_owned());
    }
    let (verdict, rule, denial) = match decision {
        Decision::Deny(denial) => (Verdict::Deny, denial.rule.clone(), Some(denial)),
        Decision::Allow(grant) => settle(policy, query, grant, &mut notes),
    };
    let (reason, hint) = denial.map(|denial| (denial.reason, denial.hint)).unzip();
    Answer {
        verdict,
        reason,
        rule,
        hint,
        notes,
        tried,
        policy: policy.digest(),
    }
}

/// Holds the addresses, where they are known, to the grant.
fn settle(
    policy: &Policy,
    query: &Query,
    grant: Grant,
    notes: &mut Vec<String>,
) -> (Verdict, Option<RuleId>, Option<Denial>) {
    let passed = |rule: Option<&RuleId>, observed: Option<&Denial>| match observed {
        Some(denial) => (Verdict::Observe, denial.rule.clone(), Some(denial.clone())),
        None => (Verdict::Allow, rule.cloned(), None),
    };
    let (host, port) = match query {
        Query::Http { host, port, .. } | Query::Tls { host, port } => (host.clone(), *port),
        Query::Tcp { destination, .. } => (
            Host::Address(destination.ip().to_canonical()),
            destination.port(),
        ),
        Query::Dns { .. } => return passed(grant.rule(), grant.observed()),
    };
    let fixed = host
        .name()
        .and_then(|name| policy.upstream().resolve.get(name));
    if host.address().is_none() && fixed.is_none() {
        notes.push(format!(
            "{host} is looked up when it is dialled: addresses that are not public are refused unless the rule has `private = true`"
        ));
        return passed(grant.rule(), grant.observed());
    }
    match grant.pin(&host, port, fixed.map_or(&[], Vec::as_slice)) {
        Ok(permit) => {
            let addresses: Vec<String> =
                permit.addresses().iter().map(ToString::to_string).collect();
            notes.push(format!("dials {}", addresses.join(", ")));
            passed(permit.rule(), permit.observed())
        }
        Err(denial) => (Verdict::Deny, denial.rule.clone(), Some(denial)),
    }
}

fn described(answer: &Answer) -> String {
    let mut out = String::new();
    let mut line = |key: &str, value: &str| {
        out += &format!("{key:<8} {value}\n");
    };
    line("verdict", answer.verdict.word());
    if let Some(reason) = answer.reason {
        line("reason", reason.label());
    }
    if let Some(rule) = &answer.rule {
        line("rule", rule.as_str());
    }
    if let Some(hint) = &answer.hint {
        line("hint", hint);
    }
    for note in &answer.notes {
        line("note", note);
    }
    if answer.tried.is_empty() {
        line("tried", "the policy has no rules");
    }
    for tried in &answer.tried {
        line("tried", &format!("{}: {}", tried.rule, tried.finding));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        schema = 1
        agent = "a"

        [[egress]]
        id = "reads"
        hosts = ["api.example.net"]
        ports = [80]
        methods = ["GET"]

        [[egress]]
        id = "pg"
        tcp = ["db.acme.internal:5432", "10.0.0.5:5432"]
        private = true

        [[egress]]
        id = "site"
        hosts = ["site.example.net"]

        [upstream]
        resolve = { "site.example.net" = "10.0.0.9" }
    "#;

    fn explained(query: Result<Query, crate::policy::BadQuery>, observe: bool) -> String {
        let mut policy = Policy::parse("policy.toml", POLICY).expect("a policy");
        if observe {
            policy = policy.with_observe();
        }
        described(&answer(&policy, &query.expect("a request")))
    }

    #[test]
    fn verdict_reason_and_each_rule_are_told() {
        let query = Query::url("http://api.example.net/x", "POST");
        insta::assert_snapshot!(explained(query, false));
    }

    #[test]
    fn names_are_not_looked_up() {
        let query = Query::url("http://api.example.net/x", "GET");
        insta::assert_snapshot!(explained(query, false));
    }

    #[test]
    fn fixed_addresses_count() {
        let query = Query::url("https://site.example.net/", "GET");
        insta::assert_snapshot!(explained(query, false));
        let query = Query::tcp(SocketAddr::from(([10, 0, 0, 5], 5432)), &[]);
        insta::assert_snapshot!(explained(query, false));
    }

    #[test]
    fn observe_mode_says_what_it_would_do() {
        let query = Query::dns("example.org", "A");
        insta::assert_snapshot!(explained(query, true));
    }

    #[test]
    fn a_request_is_required() {
        use clap::{Args as _, FromArgMatches as _};
        let command = || Explain::augment_args(clap::Command::new("explain"));
        let parse = |args: &[&str]| command().try_get_matches_from(args);
        assert!(parse(&["explain", "f"]).is_err());
        assert!(parse(&["explain", "f", "--url", "http://a", "--dns", "b"]).is_err());
        assert!(parse(&["explain", "f", "--dns", "b", "--name", "c"]).is_err());
        let matches = parse(&["explain", "f", "--tcp", "1.1.1.1:22", "--name", "a.example"]);
        let explain = Explain::from_arg_matches(&matches.expect("arguments")).expect("arguments");
        assert!(matches!(explain.query(), Ok(Query::Tcp { .. })));
    }
}
