//! `[[test]]`: from a table to a [`PolicyTest`].

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    ops::Range,
};

use serde_json::{Map, Value, json};

use super::{
    reader::{Section, not_a},
    schema,
    sections::duplicate,
};
use crate::{
    names::{Host, RuleId},
    policy::{
        Action, BadQuery, DenyReason, Expectation, Fault, HostPattern, OwnedFacts, PolicyTest,
        Query, Rule, Server, Traffic, fault::RULES_MAX, report::Problems,
    },
};

/// What a test can ask.
const INPUTS: [&str; 6] = ["http", "mcp", "connect", "tls", "tcp", "dns"];
/// What a call on an MCP server is said by.
const CALLS: [&str; 4] = ["tool", "prompt", "resource", "method"];

/// The tests of a file.
pub(super) fn tests(
    sections: Vec<Section<'_>>,
    rules: &[&Rule],
    problems: &mut Problems,
) -> Vec<PolicyTest> {
    if let Some(first) = sections.get(RULES_MAX) {
        problems.add(Fault::TooManyTests, first.span());
        return Vec::new();
    }
    let known: HashMap<&str, &RuleId> = rules.iter().map(|it| (it.id.as_str(), &it.id)).collect();
    let mut seen: HashMap<String, Range<usize>> = HashMap::new();
    let mut tests = Vec::with_capacity(sections.len());
    for mut section in sections {
        let name = section.require::<String>("name", problems);
        if let Some(name) = &name
            && let Some(first) = seen.insert(name.get_ref().clone(), name.span())
        {
            duplicate("name", name.get_ref().clone(), name.span(), first, problems);
        }
        section.demand("input", problems);
        section.demand("expect", problems);
        let input = section.section("input", &schema::INPUT, problems);
        let expect = section.section("expect", &schema::EXPECT, problems);
        let (input, expect) = (
            query(input, rules, problems),
            expectation(expect, &known, problems),
        );
        if let (Some(name), Some(input), Some(expect)) = (name, input, expect) {
            tests.push(PolicyTest {
                span: name.span(),
                name: name.into_inner(),
                input,
                expect,
            });
        }
    }
    tests
}

fn query(mut section: Section<'_>, rules: &[&Rule], problems: &mut Problems) -> Option<Query> {
    let mut named = INPUTS.into_iter().filter(|key| section.has(key));
    let (Some(key), None) = (named.next(), named.next()) else {
        problems.add(Fault::TestInput, section.span());
        return None;
    };
    let span = section.value(key)?.span();
    let query = match section.value(key)?.get_ref() {
        toml::de::DeValue::String(tool) if key == "mcp" => {
            let call = call("tool", tool.as_ref(), None);
            Ok(to_server(only_server(rules, span.clone(), problems)?, call))
        }
        toml::de::DeValue::String(text) => plain(key, text),
        toml::de::DeValue::Table(_) if key == "mcp" => {
            let table = section.section(key, schema::input(key), problems);
            mcp(table, rules, problems)?
        }
        toml::de::DeValue::Table(_) => {
            let table = section.section(key, schema::input(key), problems);
            detailed(key, table, problems)?
        }
        other => {
            let fault = section.wrong_type(key, &not_a("string or table", other));
            problems.add(fault, span);
            return None;
        }
    };
    query
        .map_err(|bad| problems.add(Fault::Query(bad), span))
        .ok()
}

/// A request that is said in one string.
fn plain(key: &str, text: &str) -> Result<Query, BadQuery> {
    match key {
        "connect" => Query::connect(text),
        "tls" => Query::tls(text),
        "tcp" => Query::tcp(address(text)?, &[]),
        "dns" => Query::dns(text, "A"),
        _http => Query::http(text, "GET"),
    }
}

/// A request that is said in a table.
fn detailed(
    key: &str,
    mut section: Section<'_>,
    problems: &mut Problems,
) -> Option<Result<Query, BadQuery>> {
    let mut text = |key, problems: &mut Problems| {
        let value = section.take::<String>(key, problems);
        value.map(toml::Spanned::into_inner)
    };
    Some(match key {
        "tcp" => {
            let to = text("to", problems);
            let names = section.take::<Vec<String>>("names", problems);
            let names = names.map(toml::Spanned::into_inner).unwrap_or_default();
            match to {
                Some(to) => address(&to).and_then(|to| Query::tcp(to, &names)),
                None => return missing("to", &section, problems),
            }
        }
        "dns" => {
            let kind = text("type", problems).unwrap_or_else(|| "A".to_owned());
            match text("name", problems) {
                Some(name) => Query::dns(&name, &kind),
                None => return missing("name", &section, problems),
            }
        }
        "connect" | "tls" => match text("to", problems) {
            Some(to) => plain(key, &to),
            None => return missing("to", &section, problems),
        },
        _http => {
            let method = text("method", problems).unwrap_or_else(|| "GET".to_owned());
            let Some(url) = text("url", problems) else {
                return missing("url", &section, problems);
            };
            Query::http(&url, &method).map(|mut query| {
                if let Query::Http { facts, .. } = &mut query {
                    add_facts(facts, &mut section, problems);
                }
                query
            })
        }
    })
}

/// A call that is said in a table.
fn mcp(
    mut section: Section<'_>,
    rules: &[&Rule],
    problems: &mut Problems,
) -> Option<Result<Query, BadQuery>> {
    let mut named = CALLS.into_iter().filter(|key| section.has(key));
    let (Some(key), None) = (named.next(), named.next()) else {
        problems.add(Fault::TestCall, section.span());
        return None;
    };
    let what = section.take::<String>(key, problems)?.into_inner();
    let args = section.take::<Map<String, Value>>("args", problems);
    let call = call(key, &what, args.map(toml::Spanned::into_inner));
    let Some(server) = section.take::<String>("server", problems) else {
        let server = only_server(rules, section.span(), problems)?;
        return Some(Ok(to_server(server, call)));
    };
    Some(Query::http(server.get_ref(), "POST").map(|mut query| {
        if let Query::Http { facts, .. } = &mut query {
            facts.body = Some(sized(call));
        }
        query
    }))
}

/// The message of a call.
fn call(key: &str, what: &str, args: Option<Map<String, Value>>) -> Value {
    let (method, params) = match key {
        "tool" => (
            "tools/call",
            json!({ "name": what, "arguments": args.unwrap_or_default() }),
        ),
        "prompt" => (
            "prompts/get",
            json!({ "name": what, "arguments": args.unwrap_or_default() }),
        ),
        "resource" => ("resources/read", json!({ "uri": what })),
        _method => (what, json!({})),
    };
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

fn sized(body: Value) -> (u64, Option<Value>) {
    let size = u64::try_from(body.to_string().len()).unwrap_or(u64::MAX);
    (size, Some(body))
}

/// The server that all rules are about.
fn only_server<'r>(
    rules: &[&'r Rule],
    span: Range<usize>,
    problems: &mut Problems,
) -> Option<(&'r Host, u16, &'r Server)> {
    let mut servers = rules.iter().filter_map(|rule| {
        let Traffic::Mcp(mcp) = &rule.traffic else {
            return None;
        };
        let target = rule.targets.first()?;
        let HostPattern::Exact(host) = &target.hosts else {
            return None;
        };
        Some((host, *target.ports.first()?, &mcp.server))
    });
    let first = servers.next();
    if first.is_none() || servers.any(|other| Some(other) != first) {
        problems.add(Fault::TestServer, span);
        return None;
    }
    first
}

fn to_server((host, port, server): (&Host, u16, &Server), call: Value) -> Query {
    Query::Http {
        host: host.clone(),
        port,
        method: "POST".to_owned(),
        path: server.path.clone().into(),
        facts: OwnedFacts {
            scheme: server.scheme,
            query: server.query.clone().into(),
            body: Some(sized(call)),
            ..OwnedFacts::default()
        },
    }
}

/// What a test says of a request beside its URL and method.
fn add_facts(facts: &mut OwnedFacts, section: &mut Section<'_>, problems: &mut Problems) {
    let headers = section.take::<BTreeMap<String, String>>("headers", problems);
    facts.headers = headers
        .map(|headers| headers.into_inner().into_iter().collect())
        .unwrap_or_default();
    let websocket = section.take::<bool>("websocket", problems);
    facts.websocket = websocket.is_some_and(toml::Spanned::into_inner);
    let json = section.take::<Value>("json", problems);
    let json = json.map(toml::Spanned::into_inner);
    let size = section.take::<u64>("body_size", problems);
    let size = match (size, &json) {
        (Some(size), _) => Some(size.into_inner()),
        (None, Some(json)) => u64::try_from(json.to_string().len()).ok(),
        (None, None) => None,
    };
    facts.body = size.map(|size| (size, json));
}

fn missing<T>(key: &'static str, section: &Section<'_>, problems: &mut Problems) -> Option<T> {
    section.demand(key, problems);
    None
}

fn address(text: &str) -> Result<SocketAddr, BadQuery> {
    text.parse().map_err(|_| BadQuery::Address(text.to_owned()))
}

fn expectation(
    mut section: Section<'_>,
    known: &HashMap<&str, &RuleId>,
    problems: &mut Problems,
) -> Option<Expectation> {
    section.demand("action", problems);
    let action: Action = section.word("action", problems);
    let rule = section.take::<String>("rule", problems);
    let rule = rule.and_then(|rule| {
        let found = known.get(rule.get_ref().as_str());
        if found.is_none() {
            problems.add(Fault::TestRule(rule.get_ref().clone()), rule.span());
        }
        found.map(|id| (*id).clone())
    });
    if action == Action::Allow
        && let Some(reason) = section.value("reason")
    {
        problems.add(Fault::TestReason, reason.span());
        return None;
    }
    let reason = section
        .has("reason")
        .then(|| section.word::<DenyReason>("reason", problems));
    Some(Expectation {
        action,
        rule,
        reason,
    })
}
