//! MCP (Model Context Protocol) over Streamable HTTP: what the body of a request asks for, as far
//! as policy is about it.
//!
//! Pure. The body is the truth. Revision 2026-07-28 repeats method and name in header fields, and
//! 2025-03-26 has batches; what two readers could take for two things is an error.

mod mirror;
pub mod server;

use serde_json::{Map, Value};

pub use mirror::check as check_mirrors;

/// Messages in a batch.
pub const BATCH_MAX: usize = 50;

/// One message of JSON-RPC 2.0 from a client.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Message<'a> {
    /// A request, or a notification if it has no id.
    Call(Call<'a>),
    /// An answer to what the server asked: sampling, elicitation, roots.
    Answer,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Call<'a> {
    /// `tools/call`, `initialize`, ….
    pub method: &'a str,
    /// What it is about.
    pub object: Object<'a>,
    /// A task of the server's that it is about: no policy names one, but `Mcp-Name` does.
    pub task: Option<&'a str>,
    /// What its answer will name; none for a notification.
    pub id: Option<&'a Value>,
}

/// What a call is about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Object<'a> {
    /// Nothing that a policy names.
    None,
    /// A tool, with its arguments.
    Tool(&'a str, Option<&'a Map<String, Value>>),
    /// A prompt, with its arguments.
    Prompt(&'a str, Option<&'a Map<String, Value>>),
    /// A resource, by its URI or template.
    Resource(&'a str),
}

impl<'a> Object<'a> {
    /// The tool, prompt or resource.
    #[must_use]
    pub const fn name(self) -> Option<&'a str> {
        match self {
            Self::None => None,
            Self::Tool(name, _) | Self::Prompt(name, _) | Self::Resource(name) => Some(name),
        }
    }

    /// Arguments of a tool or prompt.
    #[must_use]
    pub const fn arguments(self) -> Option<&'a Map<String, Value>> {
        match self {
            Self::Tool(_, arguments) | Self::Prompt(_, arguments) => arguments,
            Self::None | Self::Resource(_) => None,
        }
    }
}

/// Why a request to an MCP server has no one reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum McpError {
    /// The body was not read, or is not JSON.
    #[error("its body is not JSON that was read")]
    NotRead,
    /// A body where the transport has none.
    #[error("it has a body, which only a POST has")]
    Body,
    /// Neither POST, GET nor DELETE, or the opening of a WebSocket.
    #[error("MCP is spoken by POST, GET and DELETE alone")]
    Method,
    /// Neither an object nor a list of some.
    #[error("its body is no message and no batch of 1 to {BATCH_MAX}")]
    Batch,
    /// No JSON-RPC 2.0.
    #[error("a message is not JSON-RPC 2.0")]
    Envelope,
    /// A key that differs from a known one, or from another, in nothing but case.
    #[error("keys differ in nothing but case, which not every reader tells apart")]
    LookAlike,
    /// A call without its name, or with one that is no text.
    #[error("a call does not name what it calls")]
    Name,
    /// A header field says something else than the body.
    #[error("a header field says something else than the body")]
    Mirror,
}

/// The messages of a body.
///
/// # Errors
/// [`McpError`] if it is none that all readers read alike.
pub fn messages(body: &Value) -> Result<Vec<Message<'_>>, McpError> {
    match body {
        Value::Array(batch) if (1..=BATCH_MAX).contains(&batch.len()) => {
            batch.iter().map(message).collect()
        }
        Value::Object(_) => Ok(vec![message(body)?]),
        _other => Err(McpError::Batch),
    }
}

fn message(value: &Value) -> Result<Message<'_>, McpError> {
    const KEYS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
    let object = value.as_object().ok_or(McpError::Batch)?;
    known(object, &KEYS)?;
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(McpError::Envelope);
    }
    let id = object.get("id");
    if id.is_some_and(|id| !(id.is_string() || id.is_i64() || id.is_u64())) {
        return Err(McpError::Envelope);
    }
    let answers = object.contains_key("result") || object.contains_key("error");
    match (object.get("method"), answers, id) {
        (None, true, Some(_)) if !object.contains_key("params") => Ok(Message::Answer),
        (Some(Value::String(method)), false, id) => {
            let params = params(object)?;
            let object = about(method, params)?;
            let task = params.filter(|_| method.starts_with("tasks/"));
            let task = task.and_then(|params| params.get("taskId")?.as_str());
            Ok(Message::Call(Call {
                method,
                object,
                task,
                id,
            }))
        }
        (_, _, _) => Err(McpError::Envelope),
    }
}

fn params(message: &Map<String, Value>) -> Result<Option<&Map<String, Value>>, McpError> {
    match message.get("params") {
        None => Ok(None),
        Some(Value::Object(params)) => Ok(Some(params)),
        Some(_) => Err(McpError::Envelope),
    }
}

fn about<'a>(method: &str, params: Option<&'a Map<String, Value>>) -> Result<Object<'a>, McpError> {
    let text = |key: &str| {
        let value = params.and_then(|params| params.get(key));
        value.and_then(Value::as_str).ok_or(McpError::Name)
    };
    if let Some(params) = params {
        known(params, &["name", "arguments", "uri", "ref", "taskId"])?;
    }
    match method {
        "tools/call" => Ok(Object::Tool(text("name")?, arguments(params)?)),
        "prompts/get" => Ok(Object::Prompt(text("name")?, arguments(params)?)),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => {
            Ok(Object::Resource(text("uri")?))
        }
        "completion/complete" => {
            let object = params.and_then(|params| params.get("ref")?.as_object());
            let object = object.ok_or(McpError::Name)?;
            known(object, &["type", "name", "uri"])?;
            let text = |key: &str| object.get(key).and_then(Value::as_str);
            match (text("type"), text("name"), text("uri")) {
                (Some("ref/prompt"), Some(name), None) => Ok(Object::Prompt(name, None)),
                (Some("ref/resource"), None, Some(uri)) => Ok(Object::Resource(uri)),
                (_, _, _) => Err(McpError::Name),
            }
        }
        _other => Ok(Object::None),
    }
}

fn arguments(params: Option<&Map<String, Value>>) -> Result<Option<&Map<String, Value>>, McpError> {
    match params.and_then(|params| params.get("arguments")) {
        None => Ok(None),
        Some(Value::Object(arguments)) => {
            distinct(arguments)?;
            Ok(Some(arguments))
        }
        Some(_) => Err(McpError::Envelope),
    }
}

/// As readers that do not mind case read a name.
fn folded(name: &str) -> String {
    name.to_lowercase().replace('ſ', "s")
}

/// Refuses keys that some readers would take for one of these.
fn known(object: &Map<String, Value>, keys: &[&str]) -> Result<(), McpError> {
    let alike = |key: &String| {
        !keys.contains(&key.as_str()) && keys.iter().any(|known| folded(known) == folded(key))
    };
    match object.keys().any(alike) {
        true => Err(McpError::LookAlike),
        false => Ok(()),
    }
}

/// Refuses keys that some readers would take for each other, at any depth.
fn distinct(object: &Map<String, Value>) -> Result<(), McpError> {
    let mut seen = std::collections::HashSet::with_capacity(object.len());
    if !object.keys().all(|key| seen.insert(folded(key))) {
        return Err(McpError::LookAlike);
    }
    object.values().try_for_each(distinct_within)
}

fn distinct_within(value: &Value) -> Result<(), McpError> {
    match value {
        Value::Object(object) => distinct(object),
        Value::Array(list) => list.iter().try_for_each(distinct_within),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn only(body: &Value) -> Result<Message<'_>, McpError> {
        messages(body).map(|messages| messages[0])
    }

    #[test]
    fn calls_say_what_they_are_about() {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": "refund", "arguments": {"amount": 5}}});
        let Ok(Message::Call(call)) = only(&body) else {
            panic!("{:?}", only(&body))
        };
        assert_eq!(
            (call.method, call.object.name()),
            ("tools/call", Some("refund"))
        );
        assert_eq!(call.object.arguments().unwrap()["amount"], 5);
        assert_eq!(call.id, Some(&json!(1)));
        for (method, params, object) in [
            ("initialize", json!({}), Object::None),
            (
                "resources/read",
                json!({"uri": "file:///a"}),
                Object::Resource("file:///a"),
            ),
            (
                "prompts/get",
                json!({"name": "p"}),
                Object::Prompt("p", None),
            ),
            (
                "completion/complete",
                json!({"ref": {"type": "ref/resource", "uri": "x://{y}"}}),
                Object::Resource("x://{y}"),
            ),
        ] {
            let body = json!({"jsonrpc": "2.0", "method": method, "params": params});
            let Ok(Message::Call(call)) = only(&body) else {
                panic!("{method}")
            };
            assert_eq!((call.object, call.id), (object, None), "{method}");
        }
        let answer = json!({"jsonrpc": "2.0", "id": "a", "result": {}});
        assert_eq!(only(&answer), Ok(Message::Answer));
    }

    #[test]
    fn what_has_two_readings_has_none() {
        let call = |params: Value| json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        for (body, error) in [
            (json!([]), McpError::Batch),
            (json!("x"), McpError::Batch),
            (json!([[{}]]), McpError::Batch),
            (json!({"id": 1, "method": "ping"}), McpError::Envelope),
            (
                json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}),
                McpError::Envelope,
            ),
            (
                json!({"jsonrpc": "2.0", "id": null, "method": "ping"}),
                McpError::Envelope,
            ),
            (
                json!({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}),
                McpError::Envelope,
            ),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}}),
                McpError::Envelope,
            ),
            (json!({"jsonrpc": "2.0", "result": {}}), McpError::Envelope),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "Method": "tools/call"}),
                McpError::LookAlike,
            ),
            (
                json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "param\u{17f}": {}}),
                McpError::LookAlike,
            ),
            (call(json!([])), McpError::Envelope),
            (call(json!({})), McpError::Name),
            (call(json!({"name": 5})), McpError::Name),
            (call(json!({"name": "a", "Name": "b"})), McpError::LookAlike),
            (
                call(json!({"name": "a", "arguments": []})),
                McpError::Envelope,
            ),
            (
                call(json!({"name": "a", "arguments": {"x": [{"amount": 1, "Amount": 2}]}})),
                McpError::LookAlike,
            ),
        ] {
            assert_eq!(messages(&body).err(), Some(error), "{body}");
        }
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        assert!(messages(&json!(vec![ping.clone(); BATCH_MAX])).is_ok());
        assert!(messages(&json!(vec![ping; BATCH_MAX + 1])).is_err());
    }
}
