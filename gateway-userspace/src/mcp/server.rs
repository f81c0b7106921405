//! What an MCP server says: answers, what it offers in them, and what it asks of the agent.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{BATCH_MAX, Call, McpError, Message, Object, known, message};

/// Entries of one list that a server offers.
pub const OFFERS_MAX: usize = 10_000;

/// One message of a server.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Said<'a> {
    /// It asks the agent for something, which will answer.
    Asks(Call<'a>),
    /// It tells something.
    Notes,
    /// It answers, with a result or, if there is none, with an error.
    Answers(Option<&'a Map<String, Value>>),
}

/// A list of what the agent may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// Tools, by name.
    Tools,
    /// Prompts, by name.
    Prompts,
    /// Resources, by URI.
    Resources,
    /// Resources, by template.
    Templates,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The key of a result.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The call that an entry invites to.
    ///
    /// # Errors
    /// [`McpError`] if it does not say so in one way.
    pub fn invites(self, entry: &Value) -> Result<Call<'_>, McpError> {
        const KEYS: [&str; 10] = [
            "name",
            "title",
            "description",
            "inputSchema",
            "outputSchema",
            "annotations",
            "arguments",
            "uri",
            "uriTemplate",
            "_meta",
        ];
        let entry = entry.as_object().ok_or(McpError::Envelope)?;
        known(entry, &KEYS)?;
        let text = |key: &str| entry.get(key).and_then(Value::as_str).ok_or(McpError::Name);
        let (method, object) = match self {
            Self::Tools => ("tools/call", Object::Tool(text("name")?, None)),
            Self::Prompts => ("prompts/get", Object::Prompt(text("name")?, None)),
            Self::Resources => ("resources/read", Object::Resource(text("uri")?)),
            Self::Templates => ("resources/read", Object::Resource(text("uriTemplate")?)),
        };
        Ok(Call {
            method,
            object,
            task: None,
            id: None,
        })
    }
}

/// The messages of a server in one body or event.
///
/// # Errors
/// [`McpError`] if it is none that all readers read alike.
pub fn said(body: &Value) -> Result<Vec<Said<'_>>, McpError> {
    match body {
        Value::Array(batch) if batch.len() <= BATCH_MAX => batch.iter().map(one).collect(),
        Value::Object(_) => Ok(vec![one(body)?]),
        _other => Err(McpError::Batch),
    }
}

fn one(value: &Value) -> Result<Said<'_>, McpError> {
    const RESULT: [&str; 6] = [
        "tools",
        "prompts",
        "resources",
        "resourceTemplates",
        "inputRequests",
        "resultType",
    ];
    let object = value.as_object().ok_or(McpError::Envelope)?;
    if object.contains_key("method") {
        return match message(value)? {
            Message::Call(call) if call.id.is_some() => Ok(Said::Asks(call)),
            Message::Call(_) => Ok(Said::Notes),
            Message::Answer => Err(McpError::Envelope),
        };
    }
    known(
        object,
        &["jsonrpc", "id", "method", "params", "result", "error"],
    )?;
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(McpError::Envelope);
    }
    match (object.get("result"), object.get("error")) {
        (Some(Value::Object(result)), None) => {
            known(result, &RESULT)?;
            Ok(Said::Answers(Some(result)))
        }
        (None, Some(Value::Object(_))) => Ok(Said::Answers(None)),
        (_, _) => Err(McpError::Envelope),
    }
}

/// What a result says that the server needs from the agent before it goes on (2026-07-28).
///
/// # Errors
/// [`McpError`] if that has no one reading.
pub fn needs(result: &Map<String, Value>) -> Result<Vec<&str>, McpError> {
    let requests = match result.get("inputRequests") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(requests)) if requests.len() <= BATCH_MAX => requests,
        Some(_) => return Err(McpError::Envelope),
    };
    requests
        .values()
        .map(|request| {
            let request = request.as_object().ok_or(McpError::Envelope)?;
            known(request, &["method", "params"])?;
            let method = request.get("method").and_then(Value::as_str);
            method.ok_or(McpError::Envelope)
        })
        .collect()
}

/// SHA-256 of what a server says of a tool: all of its keys but `_meta`, in an order of their own.
#[must_use]
pub fn definition(tool: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    match tool {
        Value::Object(object) => canonical_object(object, &["_meta"], &mut hash),
        other => canonical(other, &mut hash),
    }
    hash.finalize().into()
}

/// Writes JSON with its keys sorted: the same value is the same text, however it was sent.
fn canonical(value: &Value, out: &mut Sha256) {
    match value {
        Value::Object(object) => canonical_object(object, &[], out),
        Value::Array(list) => {
            out.update(b"[");
            for item in list {
                canonical(item, out);
                out.update(b",");
            }
            out.update(b"]");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.update(value.to_string());
        }
    }
}

fn canonical_object(object: &Map<String, Value>, without: &[&str], out: &mut Sha256) {
    let mut entries: Vec<_> = object
        .iter()
        .filter(|(key, _)| !without.contains(&key.as_str()))
        .collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    out.update(b"{");
    for (key, value) in entries {
        out.update(Value::from(key.as_str()).to_string());
        out.update(b":");
        canonical(value, out);
        out.update(b",");
    }
    out.update(b"}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_asks_tells_and_answers() {
        let asks = json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {}});
        let messages = said(&asks).unwrap();
        let [Said::Asks(call)] = messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!(call.method, "elicitation/create");
        let notes = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}});
        assert_eq!(said(&notes).as_deref(), Ok(&[Said::Notes][..]));
        let fails = json!({"jsonrpc": "2.0", "id": null, "error": {"code": 1, "message": ""}});
        assert_eq!(said(&fails).as_deref(), Ok(&[Said::Answers(None)][..]));
        assert_eq!(said(&json!([])).as_deref(), Ok(&[][..]));
        for body in [
            json!({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}),
            json!({"jsonrpc": "2.0", "id": 1, "result": {}, "Result": {"tools": []}}),
            json!({"jsonrpc": "2.0", "id": 1, "result": {"Tools": []}}),
            json!({"jsonrpc": "2.0", "id": 1, "result": []}),
            json!({"id": 1, "result": {}}),
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}}),
            json!("x"),
        ] {
            assert!(said(&body).is_err(), "{body}");
        }
    }

    #[test]
    fn offers_name_what_they_invite_to() {
        let refund = json!({"name": "refund"});
        let call = List::Tools.invites(&refund).map(|call| call.object);
        assert_eq!(call, Ok(Object::Tool("refund", None)));
        let template = json!({"name": "x", "uriTemplate": "file:///{path}"});
        let call = List::Templates.invites(&template).map(|call| call.object);
        assert_eq!(call, Ok(Object::Resource("file:///{path}")));
        for entry in [json!({}), json!("x"), json!({"name": "a", "Name": "b"})] {
            assert!(List::Tools.invites(&entry).is_err(), "{entry}");
        }
    }

    #[test]
    fn needs_are_listed() {
        let server_needs = needs;
        let needs = |requests: Value| {
            let result = json!({"resultType": "input_required", "inputRequests": requests});
            let result = result.as_object().unwrap().clone();
            server_needs(&result).map(|needs| needs.join(" "))
        };
        let one = json!({"a": {"method": "sampling/createMessage", "params": {}}});
        assert_eq!(needs(one).unwrap(), "sampling/createMessage");
        assert!(needs(json!({"a": {"params": {}}})).is_err());
        assert!(needs(json!({"a": {"method": "x", "Method": "y"}})).is_err());
        assert!(needs(json!([1])).is_err());
    }

    #[test]
    fn a_definition_is_what_is_said_not_how() {
        let tool = r#"{"name":"a","description":"b","inputSchema":{"x":1,"y":[1,2]}}"#;
        let turned =
            r#"{"inputSchema":{"y":[1,2],"x":1},"_meta":{"t":5},"description":"b","name":"a"}"#;
        let digest = |text: &str| definition(&serde_json::from_str(text).unwrap());
        assert_eq!(digest(tool), digest(turned));
        for other in [
            r#"{"name":"a","description":"c","inputSchema":{"x":1,"y":[1,2]}}"#,
            r#"{"name":"a","description":"b","inputSchema":{"x":1,"y":[2,1]}}"#,
            r#"{"name":"a","description":"b","inputSchema":{"x":1,"y":[1,2],"_meta":1}}"#,
            r#"{"name":"a","description":"b","inputSchema":{"x":"1","y":[1,2]}}"#,
        ] {
            assert_ne!(digest(tool), digest(other), "{other}");
        }
    }
}
