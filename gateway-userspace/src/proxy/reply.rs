//! Answers of the gateway's own: machine-readable, so that an agent can act on them.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::Failure;
use crate::{
    audit::Blame,
    names::RuleId,
    policy::{Called, DenyReason},
};

/// Codes of errors in JSON-RPC.
const INVALID_REQUEST: i64 = -32600;
/// Of MCP, since 2026-07-28.
const HEADER_MISMATCH: i64 = -32020;
const REFUSED: i64 = -32000;

/// What the agent gets to read.
#[derive(Serialize)]
struct Body<'a> {
    error: &'static str,
    rule: Option<&'a RuleId>,
    reason: &'static str,
    hint: String,
    event: Uuid,
}

/// What follows the head: whether the connection stays, and whether a body may be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// The connection stays open.
    pub(crate) keep_alive: bool,
    /// It answers HEAD.
    pub(crate) to_head: bool,
}

/// What the agent gets to read of a request that failed.
pub(crate) fn body(failure: &Failure, event: Uuid) -> String {
    let report = failure.report();
    let body = Body {
        error: report.error,
        rule: failure.denial().and_then(|denial| denial.rule.as_ref()),
        reason: report.reason,
        hint: failure.to_string(),
        event,
    };
    let mut body = serde_json::to_string(&body).expect("names and texts are valid JSON");
    body.push('\n');
    body
}

/// An answer of the gateway's own: HTTP status and body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Reply {
    /// What the agent gets to read of a request that failed. Calls on an MCP server that policy
    /// refuses get errors of JSON-RPC, which clients hand on to who called.
    pub(crate) fn new(failure: &Failure, event: Uuid, called: Option<&Called>) -> Self {
        let (report, body) = (failure.report(), body(failure, event));
        let ids = called
            .map(|called| called.ids.as_slice())
            .unwrap_or_default();
        if ids.is_empty() || report.blame != Blame::Policy {
            return Self {
                status: report.status,
                body,
            };
        }
        let reason = failure.denial().map(|denial| denial.reason);
        let (status, code) = match (report.status, reason) {
            (403, Some(DenyReason::McpUnclear)) => (400, INVALID_REQUEST),
            (403, Some(DenyReason::McpMismatch)) => (400, HEADER_MISMATCH),
            (403, _) => (200, REFUSED),
            (other, _) => (other, REFUSED),
        };
        let data: Value = serde_json::from_str(&body).unwrap_or_default();
        let error = |id: &Value| {
            json!({
                "jsonrpc": "2.0",
                "id": id,
                "error": { "code": code, "message": failure.to_string(), "data": data },
            })
        };
        let body = match ids {
            [id] => error(id),
            ids => ids.iter().map(error).collect(),
        };
        Self {
            status,
            body: format!("{body}\n"),
        }
    }
}

/// The answer to a request that failed.
pub(crate) fn render(failure: &Failure, reply: &Reply, shape: Shape) -> Vec<u8> {
    let Reply { status, body } = reply;
    let mut answer = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        phrase(*status),
        body.len()
    );
    if let Some(seconds) = failure.retry_after() {
        let _infallible = write!(answer, "Retry-After: {seconds}\r\n");
    }
    if !shape.keep_alive {
        answer.push_str("Connection: close\r\n");
    }
    let _infallible = write!(answer, "Cache-Control: no-store\r\n\r\n");
    if !shape.to_head {
        answer.push_str(body);
    }
    answer.into_bytes()
}

/// The usual words for a status.
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        408 => "Request Timeout",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // Every status that a report gives is above; a test goes through them.
        _ => "Error",
    }
}
