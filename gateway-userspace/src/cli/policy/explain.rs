//! `sluice policy explain`: the verdict on one request, and what each rule has to say to it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{ArgGroup, builder::ArgPredicate};
use serde::Serialize;

use super::{
    json, print,
    recorded::{self, Reading, Recorded},
    rendered,
    replay::Replay,
};
use crate::{
    audit::Outcome,
    content::json,
    names::{AgentId, PolicyDigest, RuleId},
    policy::{Decision, Denial, DenyReason, Explanation, Grant, Policy, Query, Scheme, Tried},
    sanitize::sanitize,
};

/// Arguments of `sluice policy explain`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("request").required(true).args(["url", "tcp", "dns", "event"]))]
#[command(group = ArgGroup::new("which").required(true).args(["file", "policy"]))]
pub(super) struct Explain {
    /// Policy file.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Policy file of the node, which narrows the other.
    #[arg(long, value_name = "FILE")]
    node_policy: Option<PathBuf>,
    /// An HTTP request; for https:// the TLS connection around it, where that is not opened.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Method of the HTTP request.
    #[arg(
        long,
        default_value = "GET",
        default_value_if("body", ArgPredicate::IsPresent, "POST"),
        conflicts_with_all = ["tcp", "dns", "event"]
    )]
    method: String,
    /// Body of the HTTP request, as JSON: a call on an MCP server, for instance. Makes it a POST.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["tcp", "dns", "event"])]
    body: Option<String>,
    /// A connection that is neither HTTP nor TLS.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Option<SocketAddr>,
    /// A name that stands for the address of the connection.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["url", "dns", "event"])]
    name: Vec<String>,
    /// A DNS question.
    #[arg(long, value_name = "NAME")]
    dns: Option<String>,
    /// Record type of the DNS question.
    #[arg(
        long = "type",
        value_name = "TYPE",
        default_value = "A",
        conflicts_with_all = ["url", "tcp", "event"]
    )]
    record_type: String,
    /// A recorded event, by its id, as it stands in the record and in the body of a refusal.
    #[arg(long, value_name = "ID", requires = "audit")]
    event: Option<uuid::Uuid>,
    /// Audit files that have it.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "event")]
    audit: Vec<PathBuf>,
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
    node_policy: Option<PolicyDigest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded: Option<AsRecorded>,
}

/// What became of a recorded event.
#[derive(Serialize)]
struct AsRecorded {
    event: String,
    agent: AgentId,
    outcome: Outcome,
    reason: String,
    policy: Option<String>,
}

/// Whence a request is.
enum Asked {
    /// The command line.
    Now(Query),
    /// The audit stream.
    Then(Box<Recorded>),
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    /// A human would have to be asked.
    Approve,
    Deny,
    /// It would be refused; observe mode lets it pass.
    Observe,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Approve => "approve: refused as long as nothing can ask a human",
            Self::Deny => "deny",
            Self::Observe => "observe: passes, and is recorded as a refusal",
        }
    }
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let asked = self.asked()?;
        let file = self.policy.as_ref().or(self.file.as_ref());
        let file = file.context("name a policy")?;
        let loaded = Policy::load(file).and_then(|policy| match &self.node_policy {
            Some(node) => Ok(policy.under(Policy::load(node)?)),
            None => Ok(policy),
        });
        let policy = match loaded {
            Ok(policy) => policy,
            Err(errors) => {
                eprint!("{}", rendered(&errors, false));
                return Ok(ExitCode::FAILURE);
            }
        };
        let answer = match &asked {
            Asked::Now(query) => answer(&policy, &query.clone().seen_under(&policy), None),
            Asked::Then(recorded) => of_record(&policy, recorded),
        };
        print(&if self.json {
            json(&answer)?
        } else {
            described(&answer)
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn asked(&self) -> anyhow::Result<Asked> {
        let Some(event) = self.event else {
            return Ok(Asked::Now(self.query()?));
        };
        match recorded::find(&self.audit, &event.to_string())? {
            Some(Reading::Request(recorded)) => Ok(Asked::Then(recorded)),
            Some(Reading::Skipped(why, _)) => anyhow::bail!("event {event}: {why}"),
            Some(Reading::Other | Reading::Foreign) => {
                anyhow::bail!("event {event} is no request")
            }
            None => anyhow::bail!("no record of event {event}"),
        }
    }

    fn query(&self) -> anyhow::Result<Query> {
        Ok(match (&self.url, self.tcp, &self.dns) {
            (Some(url), ..) => {
                let mut query = Query::http(url, &self.method)?;
                if let (Query::Http { facts, .. }, Some(body)) = (&mut query, &self.body) {
                    let json = json::parse(body.as_bytes()).context("reading --body")?;
                    facts.body = Some((body.len() as u64, Some(json)));
                }
                query
            }
            (None, Some(destination), _) => Query::tcp(destination, &self.name)?,
            (None, None, Some(name)) => Query::dns(name, &self.record_type)?,
            (None, None, None) => anyhow::bail!("name a request: --url, --tcp or --dns"),
        })
    }
}

/// What was recorded, decided again.
fn of_record(policy: &Policy, recorded: &Recorded) -> Answer {
    let dialled = recorded.upstream.map(|upstream| upstream.ip());
    let mut answer = answer(policy, &recorded.query, dialled);
    if let Err(why) = Replay::new(policy).judge(recorded) {
        answer
            .notes
            .push(format!("this verdict may not hold: {why}"));
    }
    if let Query::Http { .. } = recorded.query {
        let not_there = "query, headers and body are not recorded, and taken for empty";
        answer.notes.push(not_there.to_owned());
    }
    answer.recorded = Some(AsRecorded {
        event: recorded.event.clone(),
        agent: recorded.agent.clone(),
        outcome: recorded.was,
        reason: recorded.reason.clone(),
        policy: recorded.policy.clone(),
    });
    answer
}

fn answer(policy: &Policy, query: &Query, dialled: Option<IpAddr>) -> Answer {
    let Explanation { decision, tried } = query.with(|request| policy.explain(request));
    let mut notes = Vec::new();
    if matches!(query, Query::Tls { .. }) {
        notes.push("TLS is relayed unopened: method and path are not looked at".to_owned());
    }
    if let Query::Http { facts, .. } = query
        && facts.scheme == Scheme::Https
    {
        notes.push("TLS is opened, and the request inside decided".to_owned());
    }
    let (verdict, rule, denial) = match decision {
        Decision::Approve(denial) => (Verdict::Approve, denial.rule.clone(), Some(denial)),
        Decision::Deny(denial) => (Verdict::Deny, denial.rule.clone(), Some(denial)),
        Decision::Allow(grant) => settle(policy, query, grant, dialled, &mut notes),
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
        node_policy: policy.node_digest(),
        recorded: None,
    }
}

/// Holds the addresses, where they are known, to the grant.
fn settle(
    policy: &Policy,
    query: &Query,
    grant: Grant,
    dialled: Option<IpAddr>,
    notes: &mut Vec<String>,
) -> (Verdict, Option<RuleId>, Option<Denial>) {
    let passed = |rule: Option<&RuleId>, observed: Option<&Denial>| match observed {
        Some(denial) => (Verdict::Observe, denial.rule.clone(), Some(denial.clone())),
        None => (Verdict::Allow, rule.cloned(), None),
    };
    let Some((host, port)) = query.place() else {
        return passed(grant.rule(), grant.observed());
    };
    let dialled = dialled.as_ref().map(std::slice::from_ref);
    let Some(addresses) = policy.known_addresses(&host).or(dialled) else {
        notes.push(format!(
            "{host} is looked up when it is dialled: addresses that are not public are refused unless the rule has `private = true`"
        ));
        return passed(grant.rule(), grant.observed());
    };
    match grant.pin(&host, port, addresses) {
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
    if let Some(recorded) = &answer.recorded {
        let outcome = match recorded.outcome {
            Outcome::Allow => "allow",
            Outcome::Deny => "deny",
            Outcome::Observe => "observe",
        };
        let policy = recorded.policy.as_deref().unwrap_or("an unknown policy");
        let text = format!(
            "{outcome}, {}, of agent {} under {policy}",
            recorded.reason, recorded.agent
        );
        line("recorded", &sanitize(&text));
    }
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
        described(&answer(&policy, &query.expect("a request"), None))
    }

    #[test]
    fn verdict_reason_and_each_rule_are_told() {
        let query = Query::http("http://api.example.net/x", "POST");
        insta::assert_snapshot!(explained(query, false));
    }

    #[test]
    fn names_are_not_looked_up() {
        let query = Query::http("http://api.example.net/x", "GET");
        insta::assert_snapshot!(explained(query, false));
    }

    #[test]
    fn fixed_addresses_count() {
        let query = Query::http("https://site.example.net/", "GET");
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
        let event = [
            "explain", "--policy", "f", "--event", ID, "--audit", "g", "h",
        ];
        assert!(parse(&event).is_ok());
        assert!(parse(&event[..5]).is_err(), "without an audit file");
        assert!(
            parse(&["explain", "--dns", "b"]).is_err(),
            "without a policy"
        );
    }

    const ID: &str = "01930000-0000-7000-8000-000000000001";

    #[test]
    fn a_recorded_event_is_decided_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("audit.jsonl");
        let begun =
            recorded::tests::line("\"kind\":\"tls\",\"host\":\"site.example.net\",\"port\":443")
                .replace("\"e\"", &format!("\"{ID}\""));
        let open = begun.replace("\"end\"", "\"open\"");
        let other = begun.replace("0001", "0002");
        let refused = begun
            .replace("\"allow\"", "\"deny\"")
            .replace("\"allowed\"", "\"no_rule\",\"blame\":\"policy\"");
        std::fs::write(&file, format!("{open}\n{other}\n{refused}\nnoise\n")).expect("a file");
        let found = recorded::find(std::slice::from_ref(&file), ID).expect("a file");
        let Some(Reading::Request(found)) = found else {
            panic!("no request");
        };
        assert_eq!(found.was, Outcome::Deny);
        let policy = Policy::parse("policy.toml", POLICY).expect("a policy");
        insta::assert_snapshot!(described(&of_record(&policy, &found)));
        let missing = recorded::find(&[file], &ID.replace("0001", "0003"));
        assert!(missing.expect("a file").is_none());
    }
}
