//! Decisions on calls, and what leads to a server.

use serde_json::json;

use super::*;
use crate::{
    names::Host,
    policy::{Decision, Policy, Request},
};

const ALLOWS: &str = r#"
    schema = 1
    agent = "a"

    [[egress]]
    id = "site"
    hosts = ["mcp.example.com"]

    [[mcp]]
    id = "tickets"
    server = "https://mcp.example.com/mcp"
    tools = ["search_*", "refund"]
    resources = ["file:///srv/*"]
    when = 'mcp.tool != "refund" || mcp.args.amount <= 100'
"#;

/// Rules that refuse and ask, besides.
const REFUSES: &str = r#"
    [[mcp]]
    id = "large"
    server = "https://mcp.example.com/mcp"
    tools = ["refund"]
    action = "approve"
    when = 'mcp.args.amount > 100 && mcp.args.amount <= 2000'

    [[mcp]]
    id = "no-drop"
    server = "https://mcp.example.com/mcp"
    tools = ["search_secrets"]
    action = "deny"
"#;

struct Sent<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    scheme: Scheme,
    headers: &'a [(&'a str, &'a [u8])],
    content: Content<'a>,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self {
            method: "POST",
            path: "/mcp",
            query: "",
            scheme: Scheme::Https,
            headers: &[],
            content: Content::Empty,
        }
    }
}

fn said(policy: &Policy, sent: &Sent<'_>) -> String {
    let facts = Facts {
        scheme: sent.scheme,
        query: sent.query,
        headers: sent.headers,
        websocket: false,
        content: sent.content,
    };
    let host = Host::parse("mcp.example.com").unwrap();
    named(policy.decide(&Request::Http {
        host: &host,
        port: 443,
        method: sent.method,
        path: sent.path,
        facts: &facts,
    }))
}

fn named(decision: Decision) -> String {
    match decision {
        Decision::Allow(grant) => format!("allow {}", grant.rule().unwrap()),
        Decision::Approve(denial) => format!("approve {}", denial.rule.unwrap()),
        Decision::Deny(denial) => match denial.rule {
            Some(rule) => format!("deny {} {rule}", denial.reason.label()),
            None => format!("deny {}", denial.reason.label()),
        },
    }
}

fn body(json: &Value) -> Content<'_> {
    Content::Read {
        size: 1,
        json: Some(json),
    }
}

fn call(tool: &str, args: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": tool, "arguments": args}})
}

fn plain(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method})
}

#[test]
fn each_call_is_decided() {
    let policy = Policy::parse("p", &[ALLOWS, REFUSES].concat()).unwrap();
    for (message, expected) in [
        (call("search_tickets", &json!({})), "allow tickets"),
        (call("refund", &json!({"amount": 100})), "allow tickets"),
        (call("refund", &json!({"amount": 101})), "approve large"),
        (
            call("refund", &json!({"amount": 2001})),
            "deny condition_not_met tickets",
        ),
        // Without what the conditions look at, who refuses or asks does.
        (call("refund", &json!({})), "approve large"),
        (call("refund", &json!({"amount": "1"})), "approve large"),
        (
            call("refund", &json!({"amount": 1, "Amount": 999})),
            "deny mcp_unclear no-drop",
        ),
        (
            call("search_secrets", &json!({})),
            "deny denied_by_rule no-drop",
        ),
        (
            call("Search_Secrets", &json!({})),
            "deny denied_by_rule no-drop",
        ),
        (call("drop", &json!({})), "deny call_not_allowed tickets"),
        (plain("initialize"), "allow tickets"),
        (plain("tools/list"), "allow tickets"),
        (plain("server/discover"), "allow tickets"),
        (plain("tools/Call"), "deny call_not_allowed tickets"),
        (plain("admin/reset"), "deny call_not_allowed tickets"),
        (
            json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
            "allow tickets",
        ),
        (json!([plain("ping"), plain("tools/list")]), "allow tickets"),
        (
            json!([plain("ping"), call("refund", &json!({"amount": 500}))]),
            "approve large",
        ),
        (
            json!([
                call("refund", &json!({"amount": 500})),
                call("drop", &json!({}))
            ]),
            "deny call_not_allowed tickets",
        ),
    ] {
        let sent = Sent {
            content: body(&message),
            ..Sent::default()
        };
        assert_eq!(said(&policy, &sent), expected, "{message}");
    }
}

#[test]
fn only_calls_get_to_the_server() {
    let policy = Policy::parse("p", ALLOWS).unwrap();
    let list = plain("tools/list");
    let content = body(&list);
    let differs: &[(&str, &[u8])] = &[("mcp-method", b"tools/call")];
    for (sent, expected) in [
        (
            Sent {
                content,
                ..Sent::default()
            },
            "allow tickets",
        ),
        (
            Sent {
                method: "GET",
                ..Sent::default()
            },
            "allow tickets",
        ),
        (
            Sent {
                method: "DELETE",
                ..Sent::default()
            },
            "allow tickets",
        ),
        (
            Sent {
                headers: differs,
                content,
                ..Sent::default()
            },
            "deny mcp_mismatch tickets",
        ),
        (Sent::default(), "deny mcp_unclear tickets"),
        (
            Sent {
                content: Content::Unread,
                ..Sent::default()
            },
            "deny mcp_unclear tickets",
        ),
        (
            Sent {
                method: "GET",
                content,
                ..Sent::default()
            },
            "deny mcp_unclear tickets",
        ),
        (
            Sent {
                method: "PUT",
                content,
                ..Sent::default()
            },
            "deny mcp_unclear tickets",
        ),
        // The host's other rule does not lead to it, by whatever spelling.
        (
            Sent {
                path: "/mcp/",
                content,
                ..Sent::default()
            },
            "deny mcp_only site",
        ),
        (
            Sent {
                path: "/%6dcp",
                content,
                ..Sent::default()
            },
            "deny mcp_only site",
        ),
        (
            Sent {
                path: "/x/../mcp",
                content,
                ..Sent::default()
            },
            "deny mcp_only site",
        ),
        (
            Sent {
                query: "x=1",
                content,
                ..Sent::default()
            },
            "deny mcp_only site",
        ),
        (
            Sent {
                scheme: Scheme::Http,
                content,
                ..Sent::default()
            },
            "deny mcp_only site",
        ),
        (
            Sent {
                path: "/about",
                ..Sent::default()
            },
            "allow site",
        ),
    ] {
        let found = said(&policy, &sent);
        assert_eq!(found, expected, "{} {}", sent.method, sent.path);
    }
    let host = Host::parse("mcp.example.com").unwrap();
    let unopened = policy.decide(&Request::Tls {
        host: &host,
        port: 443,
    });
    assert!(!matches!(unopened, Decision::Allow(_)), "{unopened:?}");
}

#[test]
fn batches_do_not_get_round_a_limit() {
    let text = ALLOWS.replace("id = \"tickets\"", "id = \"tickets\"\nlimit = \"5/min\"");
    let policy = Policy::parse("p", &text).unwrap();
    let batch = json!([plain("ping"), plain("ping")]);
    let sent = Sent {
        content: body(&batch),
        ..Sent::default()
    };
    assert_eq!(said(&policy, &sent), "deny mcp_unclear tickets");
    let one = json!([plain("ping")]);
    let sent = Sent {
        content: body(&one),
        ..Sent::default()
    };
    assert_eq!(said(&policy, &sent), "allow tickets");
}

#[test]
fn stars_stand_for_any_text() {
    for (pattern, name, expected) in [
        ("refund", "refund", true),
        ("refund", "refunds", false),
        ("search_*", "search_", true),
        ("search_*", "search", false),
        ("*", "", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "ac", false),
        ("a*a", "a", false),
        ("**x**", "x", true),
        ("file:///srv/*", "file:///srv/../etc", true),
    ] {
        let pattern = NamePattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(name), expected, "{pattern} {name}");
    }
    assert!(NamePattern::parse("").is_none());
    assert!(NamePattern::parse(&"x".repeat(NamePattern::MAX)).is_some());
    assert!(NamePattern::parse(&"x".repeat(NamePattern::MAX + 1)).is_none());
}

#[test]
fn a_resource_is_where_every_server_finds_it() {
    let calls = Calls {
        resources: vec![NamePattern::parse("file:///srv/*").unwrap()],
        ..Calls::default()
    };
    let cover = |uri, action| {
        let call = Call {
            method: "resources/read",
            object: Object::Resource(uri),
            task: None,
            id: None,
        };
        calls.cover(&call, action, false)
    };
    assert_eq!(cover("file:///srv/a.txt", Action::Allow), Cover::Named);
    for uri in [
        "file:///srv/../etc/passwd",
        "file:///srv/%2e%2e/etc",
        "file:///srv/a%2fb",
    ] {
        assert_eq!(cover(uri, Action::Allow), Cover::No, "{uri}");
        assert_eq!(cover(uri, Action::Deny), Cover::Named, "{uri}");
    }
    assert_eq!(cover("file:///etc/passwd", Action::Deny), Cover::No);
}

#[test]
fn paths_that_lead_to_the_server_are_its_own() {
    let server = Server {
        scheme: Scheme::Https,
        path: "/mcp".into(),
        query: "".into(),
    };
    assert!(server.is_at(Scheme::Https, "/mcp", ""));
    assert!(!server.is_at(Scheme::Https, "/mcp", "x"));
    assert!(!server.is_at(Scheme::Http, "/mcp", ""));
    for path in [
        "/mcp",
        "/mcp/",
        "/MCP",
        "/%6dcp",
        "/a/../mcp",
        "//mcp",
        "/mcp;x",
    ] {
        assert!(server.may_be_at(path), "{path}");
    }
    for path in ["/", "/mcp2", "/mcp/tools"] {
        assert!(!server.may_be_at(path), "{path}");
    }
}

#[test]
fn observing_a_host_opens_no_server_on_it() {
    let observes = |section: &str| {
        let from = format!("[[{section}]]");
        let to = format!("[[{section}]]\n    mode = \"observe\"");
        Policy::parse("p", &ALLOWS.replace(&from, &to)).unwrap()
    };
    let drop = call("drop", &json!({}));
    let sent = Sent {
        content: body(&drop),
        ..Sent::default()
    };
    let found = said(&observes("egress"), &sent);
    assert_eq!(found, "deny call_not_allowed tickets");
    // That of the server's own rule records, and lets pass.
    assert_eq!(said(&observes("mcp"), &sent), "allow tickets");
}
