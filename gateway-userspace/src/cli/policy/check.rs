//! `sluice policy check`: every error of every file, and what a good one means.

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{on_terminal, print, rendered};
use crate::{
    names::{AgentId, PolicyDigest},
    policy::{
        Direct, Dns, DnsMode, Inbound, Mode, Network, Policy, PolicyErrors, ProcessPolicy,
        Severity, UnixSockets, Word as _,
    },
};

/// Arguments of `sluice policy check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Policy files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write a JSON list with one object for each file.
    #[arg(long)]
    json: bool,
}

/// What became of one file.
#[derive(Serialize)]
struct Report {
    file: String,
    ok: bool,
    #[serde(flatten)]
    summary: Option<Summary>,
    problems: Vec<Line>,
}

/// What a policy says, in short.
#[derive(Serialize)]
struct Summary {
    agent: AgentId,
    digest: PolicyDigest,
    mode: &'static str,
    assurance: &'static str,
    rules: usize,
    network: Network,
    process: ProcessPolicy,
    dns: &'static str,
}

/// A problem for scripts.
#[derive(Serialize)]
struct Line {
    severity: Severity,
    line: Option<usize>,
    column: Option<usize>,
    message: String,
    mend: String,
}

impl Check {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let checked: Vec<_> = self
            .files
            .iter()
            .map(|path| (path.display().to_string(), Policy::load(path)))
            .collect();
        let all_ok = checked.iter().all(|(_, result)| result.is_ok());
        let text = if self.json {
            let reports: Vec<Report> = checked.iter().map(report).collect();
            serde_json::to_string_pretty(&reports)? + "\n"
        } else {
            let terminal = on_terminal();
            checked
                .iter()
                .map(|checked| described(checked, terminal))
                .collect()
        };
        print(&text)?;
        Ok(if all_ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn report((file, result): &(String, Result<Policy, PolicyErrors>)) -> Report {
    let (summary, errors) = match result {
        Ok(policy) => (Some(summary(policy)), policy.warnings()),
        Err(errors) => (None, errors),
    };
    let line = |problem| {
        let place = errors.place(problem);
        Line {
            severity: problem.fault().severity(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            message: errors.message(problem),
            mend: problem.fault().mend(),
        }
    };
    Report {
        file: file.clone(),
        ok: result.is_ok(),
        summary,
        problems: errors.problems().iter().map(line).collect(),
    }
}

fn summary(policy: &Policy) -> Summary {
    Summary {
        agent: policy.agent().clone(),
        digest: policy.digest(),
        mode: policy.mode().word(),
        assurance: policy.assurance().word(),
        rules: policy.rules().len(),
        network: policy.network().clone(),
        process: policy.process().clone(),
        dns: policy.dns().mode.word(),
    }
}

fn described((_, result): &(String, Result<Policy, PolicyErrors>), terminal: bool) -> String {
    match result {
        Ok(policy) => rendered(policy.warnings(), terminal) + &meaning(policy),
        Err(errors) => {
            let count = errors.problems().len();
            let plural = if count == 1 { "" } else { "s" };
            format!(
                "{}{}: {count} problem{plural}\n",
                rendered(errors, terminal),
                errors.name()
            )
        }
    }
}

/// A good policy in words.
fn meaning(policy: &Policy) -> String {
    let mut out = format!("{}: ok\n", policy.warnings().name());
    for (key, value) in [
        ("agent", policy.agent().to_string()),
        ("digest", policy.digest().to_string()),
        ("mode", mode(policy.mode()).into()),
        (
            "assurance",
            format!(
                "{}: under a weaker boundary the agent does not start",
                policy.assurance().word()
            ),
        ),
        ("rules", rules(policy.rules().len())),
        ("direct", direct(policy.network().direct).into()),
        ("inbound", inbound(policy.network().inbound).into()),
        ("loopback", loopback(policy.network())),
        ("unix", unix(&policy.network().unix)),
        ("devices", devices(&policy.process().devices)),
        ("dns", dns(policy.dns())),
    ] {
        out += &format!("  {key:<10} {value}\n");
    }
    out
}

fn rules(count: usize) -> String {
    match count {
        0 => "none: no request is allowed".into(),
        count => count.to_string(),
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce: what no rule allows is refused",
        Mode::Observe => "observe: everything passes; what would be refused is recorded",
    }
}

const fn direct(direct: Direct) -> &'static str {
    match direct {
        Direct::Redirect => "redirect: TCP connections are sent to the gateway, which decides",
        Direct::Deny => "deny: only requests to the gateway as a proxy get out",
    }
}

const fn inbound(inbound: Inbound) -> &'static str {
    match inbound {
        Inbound::Deny => "deny: nobody connects to the agent",
        Inbound::Loopback => "loopback: processes of this host connect to the agent",
        Inbound::Allow => "allow: anybody connects to the agent",
    }
}

fn loopback(network: &Network) -> String {
    let ports: Vec<String> = network.loopback.iter().map(u16::to_string).collect();
    match (network.own_loopback, ports.is_empty()) {
        (false, true) => "none: no local port but the gateway's".into(),
        (true, true) => "self: the agent's own TCP listeners, past the gateway".into(),
        (false, false) => format!("{}: reached past the gateway", ports.join(", ")),
        (true, false) => format!(
            "self, {}: the agent's own TCP listeners and these ports, past the gateway",
            ports.join(", ")
        ),
    }
}

fn devices(devices: &[String]) -> String {
    const ALL: &str = "terminals, randomness, null, zero and full";
    if devices.is_empty() {
        return ALL.into();
    }
    format!("{}, and {ALL}", devices.join(", "))
}

fn unix(sockets: &UnixSockets) -> String {
    /// What the kernel must be for it.
    const HOOKS: &str = "kernels before 6.7 leave unix sockets open";
    if sockets.any {
        return "any: every unix socket that the agent's user may reach, containers' and the \
                desktop's among them"
            .into();
    }
    let own = sockets.own.then_some("the agent's own (needs BPF-LSM)");
    let names: Vec<&str> = sockets
        .names
        .iter()
        .map(String::as_str)
        .chain(own)
        .collect();
    if names.is_empty() {
        return format!("none: the agent reaches no unix socket; {HOOKS}");
    }
    format!(
        "{}: needs a kernel with type information (BTF), without which the agent does not start; \
         {HOOKS}",
        names.join(", ")
    )
}

fn dns(dns: &Dns) -> String {
    match dns.mode {
        DnsMode::PolicyNames => "policy-names: names that some rule could allow".into(),
        DnsMode::Off => "off: no name is answered; the gateway still looks up what it dials".into(),
        DnsMode::Any => "any: every name is answered, which is a way to send data out".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (String, Result<Policy, PolicyErrors>) {
        ("a.toml".into(), Policy::parse("a.toml", text))
    }

    #[test]
    fn a_good_policy_is_told_in_words() {
        let text =
            "schema = 1\nagent = \"a\"\nmode = \"observe\"\n[network]\nloopback = [9229, 80]";
        insta::assert_snapshot!(described(&checked(text), false));
    }

    #[test]
    fn a_broken_policy_is_counted() {
        let text = described(&checked("schema = 1\nagnet = \"a\""), false);
        assert!(text.ends_with("a.toml: 2 problems\n"), "{text}");
    }

    #[test]
    fn scripts_get_places_and_mends() {
        let reports = [
            report(&checked("schema = 1")),
            report(&checked("schema = 1\nagent = \"a\"")),
        ];
        let json = serde_json::to_string_pretty(&reports).expect("plain data");
        insta::assert_snapshot!(json);
    }
}
