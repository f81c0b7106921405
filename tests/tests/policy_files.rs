//! Policy files: what is read from them, and what a person sees of a broken one.

use std::net::IpAddr;

use gateway_userspace::{
    identity::Assurance,
    names::{Host, HostName},
    policy::{Decision, Direct, DnsMode, Inbound, Mode, Policy, PolicyErrors, Request},
};
use proptest::prelude::*;

const TABLE: &str = include_str!("policy/table.toml");

fn parse(text: &str) -> Policy {
    Policy::parse("policy.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A policy of these sections.
fn rules(text: &str) -> Result<Policy, PolicyErrors> {
    Policy::parse("rules.toml", &format!("schema = 1\nagent = \"a\"\n{text}"))
}

fn name(text: &str) -> HostName {
    HostName::parse(text).expect("a name")
}

#[test]
fn settings_and_their_defaults() {
    let policy = parse("schema = 1\nagent = \"a\"");
    assert_eq!(policy.agent().as_str(), "a");
    assert_eq!(policy.mode(), Mode::Enforce);
    assert_eq!(policy.assurance(), Assurance::Partial);
    assert_eq!(policy.network().direct, Direct::Redirect);
    assert_eq!(policy.network().inbound, Inbound::Deny);
    assert!(policy.network().loopback.is_empty());
    assert_eq!(policy.dns().mode, DnsMode::PolicyNames);
    assert!(policy.upstream().resolve.is_empty());

    let policy = parse(TABLE);
    assert_eq!(policy.network().loopback, [9229]);
    let resolve = &policy.upstream().resolve;
    let expected: [IpAddr; 2] = [[10, 1, 2, 3].into(), [10, 1, 2, 4].into()];
    assert_eq!(
        resolve.get(&name("db.acme.internal")).map(Vec::as_slice),
        Some(&expected[..])
    );
    assert_eq!(
        policy.digest().to_string(),
        Policy::parse("another name", TABLE)
            .expect("the same")
            .digest()
            .to_string()
    );
    assert_ne!(policy.digest(), parse("schema = 1\nagent = \"a\"").digest());
}

#[test]
fn shipped_policies_are_clean() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder of policies") {
        let path = entry.expect("an entry").path();
        let policy = Policy::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(
            policy.warnings().problems().is_empty(),
            "{}",
            policy.warnings()
        );
        assert_eq!(policy.mode(), Mode::Enforce);
        names.push(policy.agent().as_str().to_owned());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "coding-agent",
            "demo",
            "locked-down",
            "mcp-client",
            "research-agent"
        ]
    );
}

/// What `sluice policy check` shows of a file that is broken or odd.
fn shown(name: &str, text: &str) -> String {
    match Policy::parse(name, text) {
        Ok(policy) => policy.warnings().render(false, 100),
        Err(errors) => errors.render(false, 100),
    }
}

#[test]
fn broken_files_are_explained() {
    macro_rules! snapshot {
        ($name:literal) => {
            let text = include_str!(concat!("policy/", $name, ".toml"));
            insta::assert_snapshot!($name, shown(concat!($name, ".toml"), text));
        };
    }
    snapshot!("syntax");
    snapshot!("keys");
    snapshot!("not-built");
    snapshot!("values");
    snapshot!("local");
    snapshot!("hosts");
    snapshot!("inspection");
    snapshot!("mcp");
    snapshot!("odd");
}

#[test]
fn hidden_characters_are_shown_and_refused() {
    let text = "schema = 1\nagent = \"a\" # \u{202e}txet neddih\u{1b}[2J\n";
    insta::assert_snapshot!("hidden", shown("hid\u{1b}den.toml", text));
    // Written as an escape, it is no hidden character, and no name either.
    let text = "schema = 1\nagent = \"\\u001b[2J\"\n";
    insta::assert_snapshot!("escaped", shown("escaped.toml", text));
}

#[test]
fn places_far_apart_are_not_shown_in_one_piece() {
    let rule = "[[egress]]\nid = \"same\"\nhosts = [\"a.example\"]\n";
    let text = format!(
        "schema = 1\nagent = \"a\"\n{rule}{}{rule}",
        "#\n".repeat(1000)
    );
    insta::assert_snapshot!("far", shown("far.toml", &text));
}

#[test]
fn files_have_bounds() {
    let header = "schema = 1\nagent = \"a\"\n";
    let fill = (4 << 20) - header.len() - 1;
    let full = format!("{header}#{}", "x".repeat(fill));
    assert_eq!(full.len(), 4 << 20);
    assert!(Policy::parse("full", &full).is_ok());
    let over = format!("{full}x");
    let errors = Policy::parse("over", &over).expect_err("a byte too many");
    assert_eq!(
        errors.to_string(),
        "over: error: larger than 4 MiB; split the agent's work among several agents, or use wildcards"
    );

    let many = |count: usize| -> String {
        (0..count)
            .map(|n| format!("[[egress]]\nid = \"r{n}\"\nhosts = [\"h{n}.example\"]\n"))
            .collect()
    };
    let policy = rules(&many(10_000)).expect("as many rules as fit");
    assert_eq!(policy.rules().len(), 10_000);
    let last = Host::parse("h9999.example").expect("a host");
    let decision = policy.decide(&Request::Tls {
        host: &last,
        port: 443,
    });
    assert!(matches!(decision, Decision::Allow(grant) if grant.rule().is_some()));
    let errors = rules(&many(10_001)).expect_err("a rule too many");
    assert!(
        errors.to_string().contains("more than 10000 rules"),
        "{errors}"
    );

    let loopback = |count: usize| {
        let ports: Vec<usize> = (1..=count).collect();
        rules(&format!("[network]\nloopback = {ports:?}"))
    };
    let most = gateway_common::LOOPBACK_PORTS_MAX;
    assert!(loopback(most).is_ok_and(|policy| policy.network().loopback.len() == most));
    assert!(loopback(most + 1).is_err());

    let unix = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("@{n}")).collect();
        rules(&format!("[network]\nunix = {names:?}"))
    };
    let most = gateway_common::unix::UNIX_NAMES_MAX;
    assert!(unix(most).is_ok_and(|policy| policy.network().unix.names.len() == most));
    assert!(unix(most + 1).is_err());
    let name = |length: usize| {
        let name = format!("/{}", "x".repeat(length - 1));
        rules(&format!("[network]\nunix = [\"{name}\"]"))
    };
    let longest = gateway_common::unix::UNIX_NAME_MAX;
    assert!(name(longest).is_ok());
    assert!(name(longest + 1).is_err());

    let devices = |count: usize| {
        let paths: Vec<String> = (0..count).map(|n| format!("/dev/x{n}")).collect();
        rules(&format!("[process]\ndevices = {paths:?}"))
    };
    let most = gateway_common::agent::DEVICES_MAX;
    assert!(devices(most).is_ok_and(|policy| policy.process().devices.len() == most));
    assert!(devices(most + 1).is_err());
}

#[test]
fn what_is_local_is_read() {
    let policy = rules(
        "[network]\nloopback = [\"self\", 9229]\nunix = [\"/run/a.sock\", \"@b\", \"self\"]\n\
         [process]\ndevices = [\"/dev/kvm\"]",
    )
    .expect("a policy");
    assert!(policy.network().own_loopback);
    assert_eq!(policy.network().loopback, [9229]);
    let unix = &policy.network().unix;
    assert_eq!(unix.names, ["/run/a.sock", "@b"]);
    assert!(unix.own && !unix.any);
    assert_eq!(policy.process().devices, ["/dev/kvm"]);
    let any = rules("[network]\nunix = [\"any\"]").expect("a policy");
    assert!(any.network().unix.any);
    let none = rules("").expect("a policy");
    assert!(!none.network().own_loopback && !none.network().unix.any);
    assert!(none.network().unix.names.is_empty() && none.process().devices.is_empty());
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing.toml");
    let errors = Policy::load(&missing).expect_err("no such file");
    assert!(errors.to_string().contains("cannot be read"), "{errors}");
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"agent = \"\xff\"").expect("written");
    let errors = Policy::load(&binary).expect_err("not UTF-8");
    assert!(errors.to_string().contains("not UTF-8"), "{errors}");
    let errors = Policy::load(folder.path()).expect_err("a folder");
    assert!(errors.to_string().contains("cannot be read"), "{errors}");
}

proptest! {
    /// Whatever a file holds: a policy or errors, and errors can be shown.
    #[test]
    fn no_file_panics(text in "(schema|agent|\\[\\[egress\\]\\]|\\[dns\\]|hosts|tcp|=|\"|'|\\[|\\]|\\{|\\}|1|a|\n| |,|\u{202e}|\t|#|ü){0,40}") {
        match Policy::parse("any", &text) {
            Ok(policy) => prop_assert!(policy.rules().len() <= 40),
            Err(errors) => {
                prop_assert!(!errors.problems().is_empty());
                prop_assert!(!errors.render(false, 80).is_empty());
            }
        }
    }
}
