//! Answers of MCP servers.

use std::sync::LazyLock;

use bytes::BytesMut;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    definitions::Definitions,
    inspect::{Form, Head, Inspector},
    names::{AgentId, Host},
    policy::{Called, Content, Facts, Policy, Request, Scheme},
};

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let text = "schema = 1\nagent = \"a\"\n[[mcp]]\nid = \"x\"\n\
        server = \"http://a.example/mcp\"\ntools = [\"a*\"]\n";
    Policy::parse("fuzz.toml", text).unwrap()
});

/// Whatever a server sends, the agent gets to see no tool that it may not call, neither as JSON
/// nor as events; and it makes no difference in which pieces it comes.
pub(super) fn mcp_answer(octets: &[u8]) {
    let Some((choice, octets)) = octets.split_first() else {
        return;
    };
    let is_events = choice & 1 == 1;
    let kind: &[u8] = match is_events {
        true => b"text/event-stream",
        false => b"application/json",
    };
    let head = Head {
        status: if choice & 2 == 2 { 404 } else { 200 },
        content_types: &[kind],
        encodings: &[],
    };
    let answers = choice & 4 == 4;
    let whole = read(&head, answers, [octets]);
    if !is_events {
        return look(&String::from_utf8_lossy(&whole));
    }
    let pieces = octets.chunks(usize::from(choice >> 3) + 1);
    let in_pieces = read(&head, answers, pieces);
    // The second half of a line end may stand alone, where no client sees it.
    assert_eq!(events(&whole), events(&in_pieces), "in pieces");
    events(&whole).iter().for_each(|data| look(data));
}

/// The data of each event that has some.
fn events(octets: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(octets);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let events = text.trim_start_matches('\u{feff}').split("\n\n");
    let data = events.map(|event| {
        let data = event.lines().filter_map(|line| line.strip_prefix("data"));
        let data: Vec<_> = data.map(|it| it.strip_prefix(':').unwrap_or(it)).collect();
        data.join("\n")
    });
    data.filter(|data| !data.is_empty()).collect()
}

/// What the agent gets.
fn read<'a>(
    head: &Head<'_>,
    answers: bool,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> BytesMut {
    let host = Host::parse("a.example").unwrap();
    let facts = Facts {
        scheme: Scheme::Http,
        query: "",
        headers: &[],
        websocket: false,
        content: Content::Empty,
    };
    let request = Request::Http {
        host: &host,
        port: 80,
        method: "POST",
        path: "/mcp",
        facts: &facts,
    };
    let called = Called {
        ids: answers.then(|| 1.into()).into_iter().collect(),
        ..Called::default()
    };
    let (definitions, agent) = (Definitions::default(), AgentId::parse("a").unwrap());
    let from = (&*POLICY, &definitions);
    let mut inspector = Inspector::new(from, (&agent, &request), &called, 1 << 20, Uuid::nil());
    let mut out = BytesMut::new();
    match inspector.form(head).unwrap().unwrap() {
        Form::Whole(whole) => {
            let body: Vec<u8> = pieces.into_iter().flatten().copied().collect();
            if let Ok(passed) = inspector.whole(whole, &body) {
                out.extend_from_slice(&passed);
            }
        }
        Form::Events(mut events) => {
            for piece in pieces {
                if inspector.events(&mut events, piece, &mut out).is_err() {
                    break;
                }
            }
        }
    }
    out
}

/// Reads as one does who takes the last of two keys, and keys in any case.
fn look(text: &str) {
    let Ok(value) = serde_json::from_str::<Value>(text.trim()) else {
        return;
    };
    let messages = match &value {
        Value::Array(batch) => batch.as_slice(),
        one => std::slice::from_ref(one),
    };
    for result in messages.iter().flat_map(|message| all(message, "result")) {
        for tool in all(result, "tools").filter_map(Value::as_array).flatten() {
            for name in all(tool, "name").filter_map(Value::as_str) {
                assert!(name.starts_with('a'), "{name} in {text}");
            }
        }
    }
}

fn all<'a>(value: &'a Value, key: &'static str) -> impl Iterator<Item = &'a Value> {
    let members = value.as_object().into_iter().flatten();
    members
        .filter(move |(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, value)| value)
}
