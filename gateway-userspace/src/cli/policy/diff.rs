//! `sluice policy diff`: what would have become of recorded requests under another policy.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    process::ExitCode,
};

use serde::Serialize;

use super::{
    json, print,
    recorded::{self, Reading, Recorded, Skip},
    rendered,
    replay::Replay,
};
use crate::{
    audit::Outcome,
    cli::say,
    names::PolicyDigest,
    policy::{Action, Finding, Mode, Policy, Query},
    sanitize::sanitize,
};

/// Something would change.
const CHANGED: u8 = 1;
/// It could not be told.
const FAILED: u8 = 2;
/// Groups that are kept apart, whatever the size of the files.
const GROUPS_MAX: usize = 1000;

/// Arguments of `sluice policy diff`.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// The policy whose verdicts are asked for.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Audit files with the requests.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit: Vec<PathBuf>,
    /// Compare with what this policy would have said, instead of what was recorded.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Write a JSON object.
    #[arg(long)]
    json: bool,
}

/// How a request would fare otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    /// It passed, and would be refused.
    Refused,
    /// It passed, and a human would be asked.
    Asked,
    /// It was refused, and would pass.
    Allowed,
}

impl Change {
    const ALL: [Self; 3] = [Self::Refused, Self::Asked, Self::Allowed];

    const fn told(self) -> &'static str {
        match self {
            Self::Refused => "passed, and would be refused",
            Self::Asked => "passed, and would wait for approval",
            Self::Allowed => "were refused, and would pass",
        }
    }
}

/// What requests of a group have in common.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
struct Group {
    change: Change,
    agent: String,
    kind: &'static str,
    host: String,
    port: Option<u16>,
    /// The rule that would decide.
    rule: Option<String>,
    /// Why it would be, or was, refused.
    reason: String,
}

/// How many they are, and one of them.
#[derive(Clone, Debug, Serialize)]
struct Tally {
    requests: u64,
    event: String,
    method: Option<String>,
    path: Option<String>,
}

/// What was found in all files.
#[derive(Debug, Default)]
struct Findings {
    groups: HashMap<Group, Tally>,
    /// By change; also of those that found no group.
    changes: BTreeMap<Change, u64>,
    /// Of changes that found no group.
    left_out: u64,
    unchanged: u64,
    /// Observe mode let them pass, and the candidate allows them.
    covered: u64,
    skipped: BTreeMap<Skip, u64>,
    foreign: u64,
}

/// The answer, as scripts get it.
#[derive(Serialize)]
struct Report<'a> {
    policy: PolicyDigest,
    against: Option<PolicyDigest>,
    changes: BTreeMap<Change, u64>,
    unchanged: u64,
    covered: u64,
    groups: Vec<Line<'a>>,
    left_out: u64,
    not_decided: &'a BTreeMap<Skip, u64>,
    foreign_lines: u64,
}

/// One group.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    group: &'a Group,
    #[serde(flatten)]
    tally: &'a Tally,
}

impl Diff {
    pub(super) fn run(self) -> ExitCode {
        match self.compare() {
            Ok(code) => code,
            Err(error) => {
                say::failure(&error);
                ExitCode::from(FAILED)
            }
        }
    }

    fn compare(self) -> anyhow::Result<ExitCode> {
        let (policy, against) = match (
            Policy::load(&self.policy),
            self.against.as_deref().map(Policy::load).transpose(),
        ) {
            (Ok(policy), Ok(against)) => (policy, against),
            (policy, against) => {
                for errors in [policy.err(), against.err()].into_iter().flatten() {
                    eprint!("{}", rendered(&errors, false));
                }
                return Ok(ExitCode::from(FAILED));
            }
        };
        let candidate = Replay::new(&policy);
        let before = against.as_ref().map(Replay::new);
        let mut findings = Findings::default();
        recorded::each(&self.audit, |reading| {
            findings.take(reading, &candidate, before.as_ref());
        })?;
        let report = findings.report(&policy, against.as_ref());
        print(&if self.json {
            json(&report)?
        } else {
            described(&report, policy.mode())
        })?;
        Ok(match findings.changes.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(CHANGED),
        })
    }
}

impl Findings {
    fn take(&mut self, reading: Reading, candidate: &Replay<'_>, before: Option<&Replay<'_>>) {
        match reading {
            Reading::Request(recorded) => self.request(&recorded, candidate, before),
            Reading::Skipped(why, requests) => self.skip(why, requests),
            Reading::Other => {}
            Reading::Foreign => self.foreign += 1,
        }
    }

    fn skip(&mut self, why: Skip, requests: u64) {
        *self.skipped.entry(why).or_default() += requests;
    }

    fn request(
        &mut self,
        recorded: &Recorded,
        candidate: &Replay<'_>,
        before: Option<&Replay<'_>>,
    ) {
        let now = match candidate.judge(recorded) {
            Ok(now) => now,
            Err(why) => return self.skip(why, recorded.requests),
        };
        let (was, reason) = match before.map(|before| before.judge(recorded)) {
            None => (recorded.was, recorded.reason.clone()),
            Some(Err(why)) => return self.skip(why, recorded.requests),
            Some(Ok(was)) => {
                let reason = was.reason.map_or("", |reason| reason.label()).to_owned();
                match was.action {
                    Action::Allow => (Outcome::Allow, reason),
                    Action::Approve | Action::Deny => (Outcome::Deny, reason),
                }
            }
        };
        let change = match (was, now.action) {
            (Outcome::Allow, Action::Allow) | (Outcome::Deny, Action::Approve | Action::Deny) => {
                self.unchanged += recorded.requests;
                return;
            }
            (Outcome::Observe, Action::Allow) => {
                self.covered += recorded.requests;
                return;
            }
            (Outcome::Allow | Outcome::Observe, Action::Deny) => Change::Refused,
            (Outcome::Allow | Outcome::Observe, Action::Approve) => Change::Asked,
            (Outcome::Deny, Action::Allow) => Change::Allowed,
        };
        self.change(change, recorded, &now, reason);
    }

    fn change(&mut self, change: Change, recorded: &Recorded, now: &Finding, was: String) {
        *self.changes.entry(change).or_default() += recorded.requests;
        let place = Place::of(&recorded.query);
        let group = Group {
            change,
            agent: recorded.agent.to_string(),
            kind: place.kind,
            host: place.host,
            port: place.port,
            rule: now.rule.as_ref().map(ToString::to_string),
            reason: now.reason.map_or(was, |reason| reason.label().to_owned()),
        };
        if let Some(tally) = self.groups.get_mut(&group) {
            tally.requests += recorded.requests;
            return;
        }
        if self.groups.len() >= GROUPS_MAX {
            self.left_out += recorded.requests;
            return;
        }
        let (method, path) = match &recorded.query {
            Query::Http { method, path, .. } => (Some(method.clone()), Some(path.clone())),
            Query::Connect { .. } | Query::Tls { .. } | Query::Tcp { .. } | Query::Dns { .. } => {
                (None, None)
            }
        };
        let tally = Tally {
            requests: recorded.requests,
            event: recorded.event.clone(),
            method,
            path,
        };
        self.groups.insert(group, tally);
    }

    fn report(&self, policy: &Policy, against: Option<&Policy>) -> Report<'_> {
        let mut groups: Vec<_> = self
            .groups
            .iter()
            .map(|(group, tally)| Line { group, tally })
            .collect();
        groups.sort_by(|a, b| {
            let by_count = b.tally.requests.cmp(&a.tally.requests);
            a.group
                .change
                .cmp(&b.group.change)
                .then(by_count)
                .then_with(|| a.group.cmp(b.group))
        });
        Report {
            policy: policy.digest(),
            against: against.map(Policy::digest),
            changes: Change::ALL
                .into_iter()
                .map(|change| (change, self.changes.get(&change).copied().unwrap_or(0)))
                .collect(),
            unchanged: self.unchanged,
            covered: self.covered,
            groups,
            left_out: self.left_out,
            not_decided: &self.skipped,
            foreign_lines: self.foreign,
        }
    }
}

/// Where a request went, in words.
struct Place {
    kind: &'static str,
    host: String,
    port: Option<u16>,
}

impl Place {
    fn of(query: &Query) -> Self {
        let kind = match query {
            Query::Connect { .. } => "connect",
            Query::Http { .. } => "http",
            Query::Tls { .. } => "tls",
            Query::Tcp { .. } => "tcp",
            Query::Dns { .. } => "dns",
        };
        let (host, port) = match (query, query.place()) {
            (Query::Dns { name, .. }, _) => (name.to_string(), None),
            (_, Some((host, port))) => (host.to_string(), Some(port)),
            (_, None) => (String::new(), None),
        };
        Self { kind, host, port }
    }
}

fn described(report: &Report<'_>, mode: Mode) -> String {
    let mut out = String::new();
    for (change, requests) in &report.changes {
        if *requests == 0 {
            continue;
        }
        out += &format!("{requests} {}:\n", change.told());
        let lines = report.groups.iter();
        for Line { group, tally } in lines.filter(|line| line.group.change == *change) {
            let port = group
                .port
                .map_or_else(String::new, |port| format!(":{port}"));
            let rule = group.rule.as_deref().unwrap_or("-");
            out += &format!(
                "  {:>6}  agent {}  {} {}{port}  rule {rule}  {}  event {}",
                tally.requests, group.agent, group.kind, group.host, group.reason, tally.event
            );
            if let (Some(method), Some(path)) = (&tally.method, &tally.path) {
                out += &format!("  {method} {path}");
            }
            out += "\n";
        }
    }
    if report.left_out > 0 {
        out += &format!(
            "{} of these are in groups beyond the {GROUPS_MAX} that are kept\n",
            report.left_out
        );
    }
    out += &format!("{} decided as before\n", report.unchanged);
    if report.covered > 0 {
        out += &format!(
            "{} passed in observe mode alone, and would be allowed\n",
            report.covered
        );
    }
    for (why, requests) in report.not_decided {
        out += &format!("not decided: {why} ({requests})\n");
    }
    if report.foreign_lines > 0 {
        out += &format!(
            "lines that are no audit records: {}\n",
            report.foreign_lines
        );
    }
    if mode == Mode::Observe {
        out += "the policy is in observe mode: what it would refuse would only be recorded\n";
    }
    // What an agent chose stands in lines, never between them.
    out.lines().map(|line| sanitize(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "schema = 1\nagent = \"bot\"\n\
        [[egress]]\nid = \"all\"\nhosts = [\"a.example\", \"b.example\"]\n";
    const NEW: &str = "schema = 1\nagent = \"bot\"\n\
        [[egress]]\nid = \"reads\"\nhosts = [\"a.example\"]\nports = [80]\nmethods = [\"GET\"]\n\
        [[egress]]\nid = \"asks\"\nhosts = [\"b.example\"]\naction = \"approve\"\n\
        [[egress]]\nid = \"new\"\nhosts = [\"c.example\"]\nports = [80]\n\
        when = 'http.query.contains(\"x\")'\n\
        [[egress]]\nid = \"secure\"\nhosts = [\"d.example\"]\n";

    fn http(host: &str, method: &str, path: &str, outcome: &str) -> String {
        recorded::tests::line(&format!(
            "\"kind\":\"http\",\"host\":\"{host}\",\"port\":80,\"method\":\"{method}\",\
             \"path\":\"{path}\""
        ))
        .replace(
            "\"outcome\":\"allow\"",
            &format!("\"outcome\":\"{outcome}\""),
        )
        .replace("\"reason\"", "\"blame\":\"policy\",\"reason\"")
    }

    fn compared(lines: &[String], against: bool) -> Findings {
        let old = Policy::parse("old.toml", OLD).expect("a policy");
        let new = Policy::parse("new.toml", NEW).expect("a policy");
        let (candidate, before) = (Replay::new(&new), Replay::new(&old));
        let mut findings = Findings::default();
        for line in lines {
            let reading = recorded::reading(line.as_bytes());
            findings.take(reading, &candidate, against.then_some(&before));
        }
        findings
    }

    #[test]
    fn changes_are_grouped_and_counted() {
        let mut lines = vec![
            http("a.example", "GET", "/", "allow"),
            http("b.example", "GET", "/", "allow"),
            http("c.example", "GET", "/", "deny"),
            http("a.example", "GET", "/", "deny"),
            http("a.example", "GET", "/", "observe"),
            http("e.example", "GET", "/", "deny"),
            http("d.example", "GET", "/\u{202e}", "deny"),
            recorded::tests::line("\"kind\":\"direct\""),
            "no record".to_owned(),
        ];
        lines.extend((0..3).map(|at| http("a.example", "POST", &format!("/{at}"), "allow")));
        let new = Policy::parse("new.toml", NEW).expect("a policy");
        let findings = compared(&lines, false);
        insta::assert_snapshot!(described(&findings.report(&new, None), Mode::Observe));
        let json = json(&findings.report(&new, None)).expect("plain data");
        assert!(!json.contains('\u{202e}'), "{json}");
    }

    #[test]
    fn another_policy_stands_for_what_was_recorded() {
        let lines = [
            http("a.example", "GET", "/", "deny"),
            http("b.example", "GET", "/", "deny"),
            http("d.example", "GET", "/", "allow"),
        ];
        let findings = compared(&lines, true);
        assert_eq!(findings.unchanged, 1);
        let changes: Vec<_> = findings.changes.into_iter().collect();
        assert_eq!(changes, [(Change::Asked, 1), (Change::Allowed, 1)]);
    }

    #[test]
    fn groups_are_bounded_and_what_is_over_is_counted() {
        let line = |at: usize| http(&format!("h{at}.example"), "GET", "/", "allow");
        let lines: Vec<_> = (0..GROUPS_MAX + 2).map(line).collect();
        let findings = compared(&lines, false);
        assert_eq!(findings.groups.len(), GROUPS_MAX);
        assert_eq!(findings.left_out, 2);
        assert_eq!(findings.changes[&Change::Refused], GROUPS_MAX as u64 + 2);
    }

    #[test]
    fn tls_that_would_be_opened_is_not_guessed_at() {
        let tls = |host: &str| {
            recorded::tests::line(&format!(
                "\"kind\":\"tls\",\"host\":\"{host}\",\"port\":443"
            ))
        };
        let findings = compared(&[tls("d.example"), tls("e.example")], false);
        assert_eq!(findings.unchanged, 1);
        assert_eq!(findings.changes[&Change::Refused], 1);
        let opened = NEW.replace("ports = [80]\nmethods", "ports = [443]\nmethods");
        let opened = Policy::parse("new.toml", &opened).expect("a policy");
        let mut findings = Findings::default();
        let reading = recorded::reading(tls("a.example").as_bytes());
        findings.take(reading, &Replay::new(&opened), None);
        assert_eq!(findings.skipped[&Skip::Hidden], 1);
    }

    #[test]
    fn addresses_that_were_dialled_count() {
        let tls = recorded::tests::line(
            "\"kind\":\"tls\",\"host\":\"d.example\",\"port\":443,\"upstream\":\"10.0.0.5:443\"",
        );
        let findings = compared(&[tls], false);
        let (group, _) = findings.groups.iter().next().expect("a group");
        assert_eq!(group.reason, "private_address");
    }
}
