use proptest::prelude::*;

use super::*;
use crate::policy::Scheme;

/// What a condition says of `GET /v1/x?q=1` to api.example.com with these facts.
fn holds_with(text: &str, facts: &Facts<'_>) -> Result<bool, Trouble> {
    let condition = Condition::parse(text).unwrap_or_else(|(bad, _)| panic!("{text}: {bad}"));
    condition.holds(View {
        agent: "support-bot",
        host: &Host::parse("api.example.com").unwrap(),
        port: 443,
        method: "GET",
        path: "/v1/x",
        facts,
        call: None,
        shared: &Shared::default(),
    })
}

fn holds(text: &str) -> Result<bool, Trouble> {
    holds_json(
        text,
        r#"{"amount": 100, "big": 1e3, "list": [1, 2, 3], "text": "abc"}"#,
    )
}

fn holds_json(text: &str, json: &str) -> Result<bool, Trouble> {
    let json = serde_json::from_str(json).unwrap();
    let headers: [(&str, &[u8]); 3] = [("X-Team", b"red"), ("x-team", b"blue"), ("Accept", b"*/*")];
    holds_with(
        text,
        &Facts {
            scheme: Scheme::Https,
            query: "q=1",
            headers: &headers,
            websocket: false,
            content: Content::Read {
                size: 60,
                json: Some(&json),
            },
        },
    )
}

#[test]
fn every_fact_can_be_asked_for() {
    for text in [
        "http.method == 'GET' && http.host == 'api.example.com' && http.port == 443",
        "http.path.startsWith('/v1/') && http.query == 'q=1' && http.scheme == 'https'",
        "!http.websocket && agent == 'support-bot' && http.body_size == 60",
        "http.headers['x-team'] == 'red, blue' && has(http.headers.accept)",
        "!has(http.headers.cookie) && !('cookie' in http.headers)",
        "has(http.json) && http.json.amount <= 100 && http.json.big > 999",
        "http.json.list.exists(x, x == 2) && http.json.list.all(x, x < 4)",
        "http.json.list.filter(x, x > 1).exists_one(x, x == 3)",
        "http.path.matches('^/v[0-9]+/')",
        "size(http.json.text) == 3 && http.json.amount + 1 == 101",
    ] {
        assert_eq!(holds(text), Ok(true), "{text}");
        assert_eq!(holds(&format!("!({text})")), Ok(false), "not {text}");
    }
}

#[test]
fn what_cannot_be_evaluated_says_why() {
    for (text, expected) in [
        ("http.headers.cookie == 'a'", Trouble::Absent),
        ("http.json.nothing == 1", Trouble::Absent),
        ("http.json.list[7] == 1", Trouble::Absent),
        ("http.json.text < 7", Trouble::Types),
        ("http.json.amount", Trouble::NotBoolean),
        ("http.json.amount / 0 == 1", Trouble::Failed),
        (
            "http.json.amount * 9223372036854775807 == 1",
            Trouble::Failed,
        ),
    ] {
        assert_eq!(holds(text), Err(expected), "{text}");
    }
}

#[test]
fn a_body_that_nobody_read_is_not_taken_for_none() {
    for text in [
        "has(http.json)",
        "http.body_size == 0",
        "http.method == 'GET' || has(http.json)",
    ] {
        assert_eq!(
            holds_with(text, &Facts::default()),
            Err(Trouble::Unread),
            "{text}"
        );
    }
    let empty = Facts {
        content: Content::Empty,
        ..Facts::default()
    };
    assert_eq!(
        holds_with("http.body_size == 0 && !has(http.json)", &empty),
        Ok(true)
    );
    assert_eq!(holds_with("http.json.a == 1", &empty), Err(Trouble::Absent));
    assert_eq!(
        holds_with("http.method == 'GET'", &Facts::default()),
        Ok(true)
    );
}

#[test]
fn what_must_not_be_said_is_refused_with_its_place() {
    use BadCondition as Bad;
    let bad = |text: &str| {
        let (bad, span) = Condition::parse(text).expect_err(text);
        (bad, text[span].to_owned())
    };
    let at = |text: &str, expected: BadCondition, place: &str| {
        let (found, span) = bad(text);
        assert_eq!(found, expected, "{text}");
        assert!(span.contains(place), "{text}: {span}");
    };
    at(
        "request.size < 1",
        Bad::Variable("request".into()),
        "request",
    );
    at(
        "agent == 'ü' && user == 'b'",
        Bad::Variable("user".into()),
        "user",
    );
    at("mcp.tool == 'x'", Bad::NotMcp, "mcp");
    at("http == 1", Bad::Whole("http"), "http");
    at("http['method'] == 'GET'", Bad::Whole("http"), "http");
    at("http.verb == 'GET'", Bad::Field("http", "verb".into()), "");
    at("now() == 1", Bad::Function("now".into()), "");
    at("type(agent) == string", Bad::Function("type".into()), "");
    at(
        "http.json.a.exists(http, true)",
        Bad::Hides("http".into()),
        "",
    );
    at("http.json.a.exists(x, x.exists(y, y))", Bad::Nested, "");
    at("Some{a: 1} == agent", Bad::Message, "");
    at("agent.matches(http.path)", Bad::Computed, "");
    assert!(matches!(bad("agent.matches('(')").0, Bad::Pattern(_)));
    assert!(matches!(
        bad("agent.matches('((a{100}){100}){100}')").0,
        Bad::Pattern(_)
    ));
    assert!(matches!(bad("agent ==").0, Bad::Syntax(_)));
    assert!(matches!(bad("").0, Bad::Syntax(_)));
    // One after the other is not one inside the other.
    assert!(Condition::parse("http.json.a.filter(x, x > 1).exists(x, x == 2)").is_ok());
}

#[test]
fn an_expression_has_bounds() {
    let long = |count: usize| format!("agent == '{}'", "x".repeat(count - 11));
    assert_eq!(long(2048).len(), 2048);
    assert!(Condition::parse(&long(2048)).is_ok());
    let (bad, _) = Condition::parse(&long(2049)).unwrap_err();
    assert_eq!(bad, BadCondition::Length);
    let chain = |links: usize| format!("agent{} == 1", ".a".repeat(links));
    assert!(Condition::parse(&chain(126)).is_ok());
    let (bad, _) = Condition::parse(&chain(127)).unwrap_err();
    assert_eq!(bad, BadCondition::Depth);
    // As deep as text can make it: refused or taken, and no stack runs out.
    for deep in [
        "(".repeat(1000) + "true" + &")".repeat(1000),
        "!".repeat(2000) + "true",
        "-".repeat(2000) + "1 == 1",
        "[".repeat(1000) + &"]".repeat(1000),
        "true ? ".repeat(250) + "true" + &" : true".repeat(40),
        format!("agent{}", ".a".repeat(1000)),
        format!("agent{}", "[0]".repeat(600)),
        "true".to_owned() + &" && true".repeat(250),
        "1".to_owned() + &"+1".repeat(1000),
        "{1:".repeat(600),
    ] {
        if let Ok(condition) = Condition::parse(&deep) {
            assert!(condition.nodes < 4096);
            let _either_way = holds(&deep);
        }
    }
}

#[test]
fn an_evaluation_has_bounds() {
    let list = |count: usize| {
        let list: Vec<String> = (0..count).map(|it| it.to_string()).collect();
        format!("{{\"list\": [{}]}}", list.join(","))
    };
    let text = "http.json.list.exists(x, x == -1)";
    assert_eq!(holds_json(text, &list(ENTRIES_MAX)), Ok(false));
    assert_eq!(
        holds_json(text, &list(ENTRIES_MAX + 1)),
        Err(Trouble::Large)
    );
    assert_eq!(
        holds_json("has(http.json)", &list(ENTRIES_MAX + 1)),
        Err(Trouble::Large)
    );

    // A large text is read once, not once for each entry.
    let large = format!(
        "{{\"text\": \"{}\", \"list\": [{}1]}}",
        "x".repeat(1 << 20),
        "1,".repeat(500)
    );
    assert_eq!(
        holds_json("http.json.text.contains('y')", &large),
        Ok(false)
    );
    let each = "http.json.list.exists(x, (http.json.text + 'a').contains('y'))";
    assert_eq!(holds_json(each, &large), Err(Trouble::Large));
}

#[test]
fn many_conditions_together_have_a_bound() {
    let json = serde_json::json!({"list": vec![1; 900]});
    let facts = Facts {
        content: Content::Read {
            size: 1,
            json: Some(&json),
        },
        ..Facts::default()
    };
    let condition = Condition::parse("http.json.list.all(x, x == 1 || x == 2)").unwrap();
    let shared = Shared::default();
    let host = Host::parse("a.example").unwrap();
    let view = View {
        agent: "a",
        host: &host,
        port: 80,
        method: "GET",
        path: "/",
        facts: &facts,
        call: None,
        shared: &shared,
    };
    let found: Vec<_> = (0..1000).map(|_| condition.holds(view)).collect();
    assert_eq!(found.first(), Some(&Ok(true)));
    assert_eq!(found.last(), Some(&Err(Trouble::Large)));
}

#[test]
fn calls_are_seen_by_rules_on_calls() {
    let args = serde_json::json!({"amount": 5, "tags": ["a"]});
    let call = Call {
        method: "tools/call",
        object: Object::Tool("refund", args.as_object()),
        task: None,
        id: None,
    };
    let facts = Facts::default();
    let said = |text: &str, call: Option<&Call<'_>>| {
        Condition::parse_mcp(text).unwrap().holds(View {
            agent: "a",
            host: &Host::parse("api.example.com").unwrap(),
            port: 443,
            method: "POST",
            path: "/mcp",
            facts: &facts,
            call,
            shared: &Shared::default(),
        })
    };
    for (text, expected) in [
        ("mcp.tool == 'refund' && mcp.args.amount <= 5", Ok(true)),
        ("mcp.args.tags.exists(tag, tag == 'b')", Ok(false)),
        ("mcp.prompt == '' && mcp.resource == ''", Ok(true)),
        ("has(mcp.args.other)", Ok(false)),
        ("mcp.args.other > 1", Err(Trouble::Absent)),
        ("mcp.args.amount == 'x' && http.method == 'POST'", Ok(false)),
        ("mcp.args.amount > 'x'", Err(Trouble::Types)),
    ] {
        assert_eq!(said(text, Some(&call)), expected, "{text}");
    }
    assert_eq!(said("mcp.tool == ''", None), Err(Trouble::Absent));
    for (text, bad) in [
        ("mcp == 1", BadCondition::Whole("mcp")),
        (
            "mcp.secret == 1",
            BadCondition::Field("mcp", "secret".into()),
        ),
    ] {
        assert_eq!(Condition::parse_mcp(text).unwrap_err().0, bad, "{text}");
    }
}

/// Expressions of all that there is, most of them without sense.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "1",
        "2.5",
        "'ab'",
        "true",
        "agent",
        "http.path",
        "http.port",
        "http.json.amount",
        "http.json.list",
        "http.json.text",
        "http.json.nothing",
        "http.headers",
        "http.body_size",
        "[1, 2]",
    ]);
    leaf.prop_map(str::to_owned)
        .prop_recursive(5, 64, 3, |inner| {
            let operator =
                prop::sample::select(vec!["+", "*", "/", "%", "==", "<", "&&", "||", "in"]);
            prop_oneof![
                (inner.clone(), operator, inner.clone())
                    .prop_map(|(a, it, b)| format!("({a} {it} {b})")),
                (inner.clone(), inner.clone(), inner.clone())
                    .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
                inner.clone().prop_map(|a| format!("!({a})")),
                inner.clone().prop_map(|a| format!("({a}).size()")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).contains({b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
                (inner.clone(), inner).prop_map(|(a, b)| format!("({a}).exists(it, {b} == it)")),
            ]
        })
}

proptest! {
    /// Whatever it says of whatever it is about: it ends, within what it may spend.
    #[test]
    fn every_evaluation_ends_within_its_bounds(
        text in expressions(),
        entries in 0..=ENTRIES_MAX + 1,
        length in 0..50_000_usize,
    ) {
        let Ok(condition) = Condition::parse(&text) else {
            return Ok(());
        };
        let json = serde_json::json!({
            "amount": i64::MAX,
            "list": vec![1; entries],
            "text": "x".repeat(length),
        });
        let headers: [(&str, &[u8]); 1] = [("x", b"y")];
        let facts = Facts {
            headers: &headers,
            content: Content::Read { size: 7, json: Some(&json) },
            ..Facts::default()
        };
        let shared = Shared::default();
        let view = View {
            agent: "a",
            host: &Host::parse("api.example.com").unwrap(),
            port: 443,
            method: "POST",
            path: "/",
            facts: &facts,
            call: None,
            shared: &shared,
        };
        let mut before = 0;
        for _ in 0..3 {
            let said = condition.holds(view);
            let spent = shared.spent.get() - before;
            before = shared.spent.get();
            prop_assert!(spent <= STEPS_MAX && before <= STEPS_TOGETHER, "{text}: {spent}");
            let reads_list = condition.reads.json;
            if reads_list && entries > ENTRIES_MAX {
                prop_assert_eq!(said, Err(Trouble::Large));
            }
        }
    }
}
