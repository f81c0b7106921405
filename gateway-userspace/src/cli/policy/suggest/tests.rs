use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::json;

use super::{
    super::{
        recorded::{Recorded, Skip},
        replay::Replay,
    },
    *,
};
use crate::policy::Action;

fn request(line: &str) -> Option<Recorded> {
    match recorded::reading(line.as_bytes()) {
        Reading::Request(request) => Some(*request),
        Reading::Skipped(..) | Reading::Other | Reading::Foreign => None,
    }
}

fn suggested(lines: &[String]) -> String {
    let mut seen = Seen::new(None);
    for request in lines.iter().filter_map(|line| request(line)) {
        seen.take(&request);
    }
    seen.policy().expect("a suggestion")
}

/// A line with these fields.
fn line(fields: serde_json::Value) -> String {
    let mut line = json!({
        "event": "e", "phase": "end", "agent": "bot", "outcome": "observe", "reason": "no_rule",
        "repeated": 0, "port": 443,
    });
    let (Some(line), serde_json::Value::Object(fields)) = (line.as_object_mut(), fields) else {
        panic!("objects");
    };
    line.extend(fields);
    serde_json::Value::from(line.clone()).to_string()
}

#[test]
fn a_session_becomes_a_policy() {
    let http = |method: &str, path: &str| {
        line(
            json!({ "kind": "http", "host": "api.example.net", "port": 80, "method": method,
            "path": path, "upstream": "198.51.100.9:80" }),
        )
    };
    let text = suggested(&[
        http("GET", "/users/17"),
        http("GET", "/users/18"),
        http("POST", "/users"),
        line(json!({ "kind": "tls", "host": "api.example.net" })),
        line(json!({ "kind": "connect", "host": "git.example.net", "port": 22 })),
        line(json!({ "kind": "tls", "host": "wiki.acme.internal", "upstream": "10.1.2.3:443" })),
        line(json!({ "kind": "tcp", "host": "10.0.0.5", "port": 5432 })),
        line(json!({ "kind": "tcp", "host": "169.254.169.254", "port": 80 })),
        line(json!({ "kind": "dns", "host": "db.acme.internal", "port": 53, "method": "A" })),
        line(json!({ "kind": "dns", "host": "api.example.net", "port": 53, "method": "TXT" })),
        line(
            json!({ "kind": "tls", "host": "bad.example.net", "upstream": "169.254.169.254:443" }),
        ),
        line(
            json!({ "kind": "tls", "host": "no.example.net", "outcome": "deny", "blame": "policy" }),
        ),
    ]);
    insta::assert_snapshot!(text);
}

#[test]
fn whose_it_is_must_be_clear() {
    let mut seen = Seen::new(None);
    assert!(seen.policy().is_err());
    for agent in ["a", "b"] {
        let line = line(json!({ "kind": "tls", "host": "x.example", "agent": agent }));
        seen.take(&request(&line).expect("a request"));
    }
    let told = seen.policy().expect_err("two agents").to_string();
    assert!(told.ends_with("a, b"), "{told}");
    let mut seen = Seen::new(Some(AgentId::parse("a").expect("a name")));
    for (agent, host) in [("a", "x.example"), ("b", "y.example")] {
        let line = line(json!({ "kind": "tls", "host": host, "agent": agent }));
        seen.take(&request(&line).expect("a request"));
    }
    let text = seen.policy().expect("a policy");
    assert!(
        text.contains("x.example") && !text.contains("y.example"),
        "{text}"
    );
}

#[test]
fn what_agents_can_fill_is_bounded() {
    let mut seen = Seen::new(None);
    for at in 0..seen::HOSTS_MAX + 3 {
        let host = format!("h{at}.example");
        for kind in ["tls", "dns"] {
            let line = line(json!({ "kind": kind, "host": host, "method": "A" }));
            seen.take(&request(&line).expect("a request"));
        }
        let raw = format!("192.0.{}.{}", at / 256 + 2, at % 256);
        let line = line(json!({ "kind": "tcp", "host": raw }));
        seen.take(&request(&line).expect("a request"));
    }
    assert_eq!(seen.left_out, 9);
    let text = seen.policy().expect("a policy");
    assert!(text.contains("different ones (9)"), "{text:.800}");
    Policy::parse("the suggestion", &text).expect("a policy");
}

fn any_line() -> impl Strategy<Value = String> {
    let host = select(vec![
        "a.example",
        "b.example",
        "xn--bcher-kva.example",
        "203.0.113.7",
        "10.0.0.9",
        "2001:db8::1",
        "single",
        "a-very-long-label-in-a-very-long-name.of-a-host.with-many.labels.example.org",
        "169.254.169.254",
        "0.0.0.0",
    ]);
    let raw = select(vec!["203.0.113.7", "10.0.0.9", "2001:db8::1", "0.0.0.0"]);
    let kind = select(vec!["http", "tls", "connect", "tcp", "dns"]);
    let port = select(vec![22_u16, 80, 443, 5432, 8080]);
    let method = select(vec!["GET", "POST", "get", "CONNECT", "M-SEARCH", "BREW!"]);
    let segment = prop_oneof![
        "[a-z]{1,8}",
        "[0-9]{1,12}",
        "[a-f0-9-]{36}",
        "[!-~]{0,20}",
        Just("%2e%2e".to_owned()),
        Just("**".to_owned()),
    ];
    let path = vec(segment, 0..5).prop_map(|parts| format!("/{}", parts.join("/")));
    let upstream = option::of(select(vec![
        "8.8.8.8:443",
        "10.0.0.5:443",
        "[fd00::1]:443",
        "100.100.100.200:80",
    ]));
    let rest = (
        upstream,
        select(vec!["observe", "allow"]),
        select(vec![101_u16, 200]),
    );
    (kind, host, raw, port, method, path, rest).prop_map(
        |(kind, host, raw, port, method, path, (upstream, outcome, status))| {
            let types = ["A", "AAAA", "TXT", "ANY", "TYPE65"];
            let method = match kind {
                "dns" => types[path.len() % types.len()],
                _other => method,
            };
            let host = if kind == "tcp" { raw } else { host };
            line(json!({
                "kind": kind, "host": host, "port": port, "method": method, "path": path,
                "upstream": upstream, "outcome": outcome, "status": status,
            }))
        },
    )
}

proptest! {
    /// Whatever was seen: the suggestion loads, and allows each request that it counts as covered.
    #[test]
    fn a_suggestion_covers_what_was_seen(lines in vec(any_line(), 1..60)) {
        let requests: Vec<_> = lines.iter().filter_map(|line| request(line)).collect();
        let mut seen = Seen::new(None);
        let mut covered = Vec::new();
        for request in &requests {
            let before = seen.requests;
            seen.take(request);
            if seen.requests > before {
                covered.push(request);
            }
        }
        prop_assume!(!seen.agents.is_empty());
        let text = seen.policy().expect("a suggestion");
        let policy = Policy::parse("the suggestion", &text);
        prop_assert!(policy.is_ok(), "{}\n{text}", policy.expect_err("an error"));
        let policy = policy.expect("a policy");
        let replay = Replay::new(&policy);
        for request in covered {
            match replay.judge(request) {
                Ok(found) => prop_assert_eq!(
                    found.action, Action::Allow, "{:?}\n{:?}\n{}", request, found, text
                ),
                // It would be opened for the sake of requests that were read there.
                Err(Skip::Hidden) => {}
                Err(why) => prop_assert!(false, "{}: {:?}\n{}", why, request, text),
            }
        }
    }
}
