//! Rules with conditions, and rules over WebSocket.

mod policy {
    pub(crate) mod ask;
}

use gateway_userspace::{
    names::Host,
    policy::{OwnedFacts, Policy},
};
use policy::ask::{
    Ask::{self, Connect, Dns, Http, Tcp, Tls, Web},
    rules, verdict,
};
use serde_json::json;

fn made(text: &str) -> Policy {
    rules(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn post(amount: serde_json::Value) -> Ask {
    let facts = OwnedFacts {
        body: Some((20, Some(json!({ "amount": amount })))),
        ..OwnedFacts::default()
    };
    Web("http://a.example/refund", "POST", facts)
}

fn holds(policy: &Policy, rows: &[(Ask, &str)]) {
    for (ask, expected) in rows {
        assert_eq!(verdict(policy, ask), *expected, "{ask:?}");
    }
}

/// Small refunds pass, large ones are asked about, huge ones refused.
const REFUNDS: &str = r#"
[[egress]]
id = "small"
hosts = ["a.example"]
ports = [80]
when = 'http.json.amount <= 100'

[[egress]]
id = "large"
action = "approve"
hosts = ["a.example"]
ports = [80]
when = 'http.json.amount > 100'

[[egress]]
id = "huge"
action = "deny"
hosts = ["a.example"]
ports = [80]
when = 'http.json.amount > 2000'
"#;

#[test]
fn conditions_decide_and_without_a_value_refuse() {
    holds(
        &made(REFUNDS),
        &[
            (post(json!(100)), "allow small"),
            (post(json!(101)), "approve approval_required large"),
            (post(json!(2001)), "deny denied_by_rule huge"),
            // No value: a match for what refuses and asks.
            (post(json!("100")), "deny denied_by_rule huge"),
            (
                Http("a.example", 80, "POST", "/refund"),
                "deny denied_by_rule huge",
            ),
            (Tls("a.example", 80), "deny needs_inspection large"),
            (
                Tcp("1.1.1.1:80", &["a.example"]),
                "deny needs_inspection large",
            ),
            (Connect("a.example", 80), "allow small"),
            (Dns("a.example", 1), "allow small"),
        ],
    );
    let alone = "[[egress]]\nid = \"small\"\nhosts = [\"a.example\"]\nports = [80]\nwhen = 'http.json.amount <= 100'\n";
    holds(
        &made(alone),
        &[
            (post(json!(100)), "allow small"),
            (post(json!(101)), "deny condition_not_met small"),
            (post(json!("100")), "deny condition_failed small"),
            (
                Http("a.example", 80, "POST", "/refund"),
                "deny condition_failed small",
            ),
            (Tls("a.example", 80), "deny needs_inspection small"),
        ],
    );
    let observing = alone.replace("hosts", "mode = \"observe\"\nhosts");
    holds(
        &made(&observing),
        &[
            (post(json!(101)), "observe condition_not_met"),
            (post(json!("100")), "observe condition_failed"),
        ],
    );
}

#[test]
fn the_agent_and_its_headers_are_facts() {
    let policy = made(
        "[[egress]]\nid = \"x\"\nhosts = [\"a.example\"]\nports = [80]\n\
         when = 'agent == \"a\" && http.headers[\"x-env\"] == \"test\" && http.query == \"dry=1\"'\n",
    );
    let with = |value: &str| OwnedFacts {
        headers: vec![("X-Env".into(), value.into())],
        ..OwnedFacts::default()
    };
    holds(
        &policy,
        &[
            (
                Web("http://a.example/?dry=1", "GET", with("test")),
                "allow x",
            ),
            (
                Web("http://a.example/?dry=0", "GET", with("test")),
                "deny condition_not_met x",
            ),
            (
                Web("http://a.example/?dry=1", "GET", with("prod")),
                "deny condition_not_met x",
            ),
            (
                Web("http://a.example/?dry=1", "GET", OwnedFacts::default()),
                "deny condition_failed x",
            ),
        ],
    );
}

#[test]
fn the_body_is_wanted_only_where_a_rule_looks_at_it() {
    let policy = made(&format!(
        "{REFUNDS}[[egress]]\nid = \"else\"\nhosts = [\"b.example\"]\nports = [80]\nwhen = 'http.method == \"GET\"'\n\
         [[egress]]\nid = \"size\"\nhosts = [\"*.c.example\"]\nports = [81]\nwhen = 'http.body_size < 10'\n"
    ));
    for (host, port, expected) in [
        ("a.example", 80, true),
        ("a.example", 81, false),
        ("b.example", 80, false),
        ("x.c.example", 81, true),
        ("c.example", 81, false),
        ("d.example", 80, false),
    ] {
        let host = Host::parse(host).expect("a host");
        assert_eq!(policy.wants_body(&host, port), expected, "{host}:{port}");
    }
}

#[test]
fn a_rule_that_only_reads_opens_no_websocket() {
    let rule = |more: &str| {
        made(&format!(
            "[[egress]]\nid = \"x\"\nhosts = [\"a.example\"]\nports = [80]\n{more}"
        ))
    };
    let plain = || Web("http://a.example/", "GET", OwnedFacts::default());
    let opens = || {
        let facts = OwnedFacts {
            websocket: true,
            ..OwnedFacts::default()
        };
        Web("http://a.example/", "GET", facts)
    };
    for (more, upgrade) in [
        ("", "allow x"),
        ("methods = [\"GET\"]", "deny websocket_not_allowed x"),
        ("methods = [\"GET\"]\nwebsocket = true", "allow x"),
        ("websocket = false", "deny websocket_not_allowed x"),
        ("paths = [\"/\"]", "allow x"),
        ("when = 'http.websocket'", "allow x"),
    ] {
        let policy = rule(more);
        assert_eq!(verdict(&policy, &opens()), upgrade, "{more}");
        if !more.contains("when") {
            assert_eq!(verdict(&policy, &plain()), "allow x", "{more}");
        }
    }
    // What refuses a method refuses the WebSocket that opens with it.
    let policy = rule(
        "[[egress]]\nid = \"no\"\naction = \"deny\"\nhosts = [\"a.example\"]\nports = [80]\nmethods = [\"GET\"]",
    );
    assert_eq!(verdict(&policy, &opens()), "deny denied_by_rule no");
    let errors = rules(
        "[[egress]]\nid = \"no\"\naction = \"deny\"\nhosts = [\"a.example\"]\nwebsocket = true",
    );
    let told = errors.expect_err("it opens nothing").to_string();
    assert!(
        told.contains("`websocket` in a rule that does not allow"),
        "{told}"
    );
}

#[test]
fn a_flaw_is_shown_where_it_is() {
    let place = |when: &str| {
        let text = format!(
            "schema = 1\nagent = \"a\"\n[[egress]]\nid = \"x\"\nhosts = [\"a.example\"]\nports = [80]\nwhen = {when}\n"
        );
        let errors = Policy::parse("a.toml", &text).expect_err(when);
        let place = errors.place(&errors.problems()[0]).expect("a place");
        (place.line, place.column, errors.to_string())
    };
    let (line, column, told) = place("'http.path == user'");
    assert_eq!((line, column), (7, 22), "{told}");
    assert!(
        told.contains("there is no variable `user`; there are: http, agent"),
        "{told}"
    );
    let (line, column, told) = place("\"http.path == user\"");
    assert_eq!((line, column), (7, 22), "{told}");
    let (line, column, told) = place("'''\n  http.path ==\n  user'''");
    assert_eq!((line, column), (9, 3), "{told}");
    // Escapes move what follows: the string as a whole is shown.
    let (line, column, told) = place("\"\\\"\\\" == user\"");
    assert_eq!((line, column), (7, 8), "{told}");
}

#[test]
fn tls_is_opened_where_something_inside_decides() {
    let policy = |root: &str| {
        made(&format!(
            "{root}\n\
             [[egress]]\nid = \"plain\"\nhosts = [\"plain.example\"]\n\
             [[egress]]\nid = \"methods\"\nhosts = [\"methods.example\"]\nmethods = [\"GET\"]\n\
             [[egress]]\nid = \"paths\"\nhosts = [\"paths.example\"]\npaths = [\"/x\"]\ninspect = \"auto\"\n\
             [[egress]]\nid = \"when\"\nhosts = [\"when.example\"]\nwhen = 'http.port == 1'\ninspect = \"auto\"\n\
             [[egress]]\nid = \"ws\"\nhosts = [\"ws.example\"]\nwebsocket = false\n\
             [[egress]]\nid = \"always\"\nhosts = [\"always.example\"]\ninspect = \"always\"\n\
             [[egress]]\nid = \"pinned\"\nhosts = [\"pinned.example\"]\ninspect = \"never\"\n\
             [[egress]]\nid = \"deny-all\"\naction = \"deny\"\nhosts = [\"plain.example\"]\nports = [444]\n\
             [[egress]]\nid = \"deny-some\"\naction = \"deny\"\nhosts = [\"pinned.example\", \"some.example\"]\nports = [443]\npaths = [\"/no/**\"]\n\
             [[egress]]\nid = \"some\"\nhosts = [\"some.example\"]\n"
        )
        .replace("methods = [\"GET\"]\n", if root.contains("never") { "ports = [80]\nmethods = [\"GET\"]\n" } else { "methods = [\"GET\"]\n" })
        .replace("ports = [443]\npaths", if root.contains("never") { "ports = [443]\ninspect = \"auto\"\npaths" } else { "ports = [443]\npaths" }))
    };
    let opened = |root: &str| -> Vec<&str> {
        let policy = policy(root);
        [
            "plain", "methods", "paths", "when", "ws", "always", "pinned", "some", "other",
        ]
        .into_iter()
        .filter(|name| {
            let host = Host::parse(&format!("{name}.example")).expect("a host");
            policy.inspects(&host, 443)
        })
        .collect()
    };
    assert_eq!(
        opened(""),
        ["methods", "paths", "when", "ws", "always", "some"]
    );
    assert_eq!(
        opened("inspect = \"always\""),
        [
            "plain", "methods", "paths", "when", "ws", "always", "some", "other"
        ]
    );
    assert_eq!(
        opened("inspect = \"never\""),
        ["paths", "when", "always", "some"]
    );
    let auto = policy("");
    holds(
        &auto,
        &[
            (Tls("methods.example", 443), "deny needs_inspection methods"),
            // What is refused inside keeps what is never opened shut.
            (
                Tls("pinned.example", 443),
                "deny needs_inspection deny-some",
            ),
            (Tls("plain.example", 443), "allow plain"),
            (
                Web("https://methods.example/", "GET", OwnedFacts::default()),
                "allow methods",
            ),
            (
                Web("https://some.example/no/x", "GET", OwnedFacts::default()),
                "deny denied_by_rule deny-some",
            ),
        ],
    );
}

#[test]
fn the_proxy_upstream_is_read() {
    let policy = made(
        "[upstream]\nproxy = \"http://proxy.example:3128\"\nno_proxy = [\"*.direct.example\", \"10.0.0.1\"]",
    );
    let proxy = policy.upstream().proxy.clone().expect("a proxy");
    assert_eq!(
        (proxy.host.to_string().as_str(), proxy.port),
        ("proxy.example", 3128)
    );
    for (host, expected) in [
        ("a.example", true),
        ("x.direct.example", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(
            proxy.takes(&Host::parse(host).expect("a host")),
            expected,
            "{host}"
        );
    }
    for bad in [
        "https://proxy.example",
        "http://u:p@proxy.example",
        "proxy.example:3128",
        "http://p.example/x",
    ] {
        assert!(
            rules(&format!("[upstream]\nproxy = \"{bad}\"")).is_err(),
            "{bad}"
        );
    }
    assert!(rules("[upstream]\nno_proxy = [\"a.example\"]").is_err());
}
