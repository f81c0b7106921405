//! Answers of the gateway's own: machine-readable, so that an agent can act on them.

use std::fmt::Write as _;

use serde::Serialize;
use uuid::Uuid;

use super::failure::Failure;
use crate::names::RuleId;

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

/// The answer to a request that failed.
pub(crate) fn render(failure: &Failure, event: Uuid, shape: Shape) -> Vec<u8> {
    let (report, body) = (failure.report(), body(failure, event));
    let mut answer = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        report.status,
        phrase(report.status),
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
        answer.push_str(&body);
    }
    answer.into_bytes()
}

/// The usual words for a status.
fn phrase(status: u16) -> &'static str {
    match status {
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
