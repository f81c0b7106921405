//! Header fields in which revision 2026-07-28 repeats what the body says: `Mcp-Method`, `Mcp-Name`
//! and `Mcp-Param-*`. Others on the way may go by them, so they must not say anything else.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{McpError, Message};

/// Looks whether these fields repeat what the messages say, as far as they are there.
///
/// # Errors
/// [`McpError::Mirror`].
pub fn check(messages: &[Message<'_>], headers: &[(&str, &[u8])]) -> Result<(), McpError> {
    let mut seen = [false; 2];
    for (name, value) in headers {
        let name = name.to_ascii_lowercase().replace('_', "-");
        let Some(what) = name.strip_prefix("mcp-") else {
            continue;
        };
        let agrees = match (what, messages) {
            ("method", [Message::Call(call)]) => {
                !std::mem::replace(&mut seen[0], true)
                    && text(value).as_deref() == Some(call.method)
            }
            ("name", [Message::Call(call)]) => {
                !std::mem::replace(&mut seen[1], true)
                    && text(value)
                        .is_some_and(|name| call.object.name().or(call.task) == Some(&name))
            }
            ("method" | "name", _) => false,
            (other, [Message::Call(call)]) if other.starts_with("param-") => {
                let arguments = call.object.arguments();
                arguments
                    .zip(text(value))
                    .is_some_and(|(arguments, text)| has(arguments, &text))
            }
            (other, _) => !other.starts_with("param-"),
        };
        if !agrees {
            return Err(McpError::Mirror);
        }
    }
    Ok(())
}

/// The value, out of the wrapping for what fits no field: `=?base64?…?=`.
fn text(value: &[u8]) -> Option<String> {
    const OPENS: &[u8] = b"=?base64?";
    let value = value.trim_ascii();
    let wrapped = value
        .split_at_checked(OPENS.len())
        .filter(|(opens, _)| opens.eq_ignore_ascii_case(OPENS))
        .and_then(|(_, rest)| rest.strip_suffix(b"?="));
    let bytes = match wrapped {
        Some(encoded) => BASE64_STANDARD.decode(encoded).ok()?,
        None => value.to_vec(),
    };
    String::from_utf8(bytes).ok()
}

/// Whether some argument has this value: which one it is, the tool's schema says, and that is not
/// at hand.
fn has(arguments: &Map<String, Value>, text: &str) -> bool {
    arguments.values().any(|value| match value {
        Value::String(it) => it == text,
        Value::Bool(it) => it.to_string() == text,
        Value::Number(it) => {
            it.to_string() == text
                || it
                    .as_f64()
                    .zip(text.parse().ok())
                    .is_some_and(|(a, b): (f64, f64)| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()))
        }
        Value::Object(inner) => has(inner, text),
        Value::Null | Value::Array(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mcp::messages;

    #[test]
    fn what_is_repeated_is_what_the_body_says() {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params":
            {"name": "größe", "arguments": {"region": "eu", "amount": 42, "dry": true, "in": {"x": "y"}}}});
        let wrapped = format!("=?BASE64?{}?=", BASE64_STANDARD.encode("größe"));
        let said = |headers: &[(&str, &str)]| {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
            check(&messages(&call).unwrap(), &headers)
        };
        for agrees in [
            &[][..],
            &[("Mcp-Method", "tools/call"), ("MCP-NAME", &wrapped)],
            &[
                ("mcp-session-id", "7"),
                ("mcp-protocol-version", "2026-07-28"),
            ],
            &[
                ("mcp-param-region", "eu"),
                ("mcp-param-amount", "42.0"),
                ("mcp-param-x", "y"),
            ],
        ] {
            assert_eq!(said(agrees), Ok(()), "{agrees:?}");
        }
        for differs in [
            &[("Mcp-Method", "tools/list")][..],
            &[("Mcp-Method", "tools/call"), ("mcp-method", "tools/call")],
            &[("mcp_method", "tools/list")],
            &[("Mcp-Name", "other")],
            &[("Mcp-Name", "=?base64?!?=")],
            &[("Mcp-Param-Region", "us")],
        ] {
            assert_eq!(said(differs), Err(McpError::Mirror), "{differs:?}");
        }
        let task =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": "7"}});
        for (name, agrees) in [(&b"7"[..], true), (b"8", false)] {
            let headers = [("mcp-method", &b"tasks/get"[..]), ("mcp-name", name)];
            assert_eq!(check(&messages(&task).unwrap(), &headers).is_ok(), agrees);
        }
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let headers: [(&str, &[u8]); 1] = [("mcp-name", b"refund")];
        assert!(check(&messages(&ping).unwrap(), &headers).is_err());
        let batch = json!([ping, ping]);
        let headers: [(&str, &[u8]); 1] = [("mcp-method", b"ping")];
        assert!(check(&messages(&batch).unwrap(), &headers).is_err());
    }
}
