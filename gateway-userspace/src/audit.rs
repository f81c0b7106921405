//! The audit stream: one record per decision, written by one thread, lost never in silence.
//!
//! Whoever decides first reserves a [`Slot`] and only then acts: a request that could not be
//! recorded is refused. Writing into a slot never waits and never fails. The writer thread
//! turns records into JSON Lines, chains them by hash, and writes them in groups.
//!
//! Must never: block a request on the disk, drop a record without counting it, or continue a
//! file that it cannot prove to be its own.

mod config;
mod default_path;
mod file;
mod handle;
mod line;
mod loss;
mod memory;
mod open_error;
mod record;
pub mod remote;
mod session;
mod sink;
mod status;
mod writer;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

pub use config::{AuditConfig, MAX_CAPACITY, SyncPolicy, Target};
pub use default_path::{NoStateDirectory, default_path, state_folder};
pub use handle::{Audit, Slot};
pub use line::{GENESIS, MAX_LINE};
pub use memory::MemoryLog;
pub use open_error::{NotAudit, OpenError};
pub use record::{
    ANCESTOR_EXE_MAX, CALL_MAX, COMM_MAX, EXE_MAX, HINT_MAX, HOST_MAX, METHOD_MAX,
    NOTICED_ABOUT_MAX, NOTICED_MAX, NOTICED_WHAT_MAX, PATH_MAX, Subject,
};
pub use session::{COMMAND_MAX, SessionFacts};
pub use status::{AuditUnavailable, Summary};

use crate::{
    identity::{Assurance, Process},
    names::{AgentId, PolicyDigest, RuleId},
};

/// Who saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The kernel half alone: a refused system call or packet.
    Kernel,
    /// The gateway alone: no kernel half is there.
    Gateway,
    /// The gateway, with who called as the kernel saw it.
    Both,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Policy allowed it and it was carried out, or tried.
    Allow,
    /// It was refused.
    Deny,
    /// Policy refuses it; observe mode let it pass.
    Observe,
}

/// At whose door a failure lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The agent sent something wrong, or went away.
    Agent,
    /// The upstream failed.
    Upstream,
    /// Policy said so.
    Policy,
    /// Sluice itself.
    Us,
}

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// CONNECT.
    Connect,
    /// A readable HTTP request.
    Http,
    /// TLS relayed unopened.
    Tls,
    /// Raw TCP.
    Tcp,
    /// A DNS question.
    Dns,
    /// A socket call or packet that the kernel half refused.
    Direct,
    /// Something that Sluice noticed by itself, such as a connection that only the kernel saw.
    Finding,
    /// A run of an agent: that it begins, and how it ended.
    Session,
    /// The policy itself: another was put in force, or could not be.
    Policy,
    /// Events of the kernel half, or records, that were lost; `repeated` says how many.
    Loss,
}

/// Whether more will follow under the same event id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A long-lived tunnel is open; its `end` will follow.
    Open,
    /// All is said.
    End,
}

/// Something that was noticed in a request or its answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noticed {
    /// The stable label: at most [`NOTICED_WHAT_MAX`] of a-z, 0-9, `_`, `-`.
    pub what: Cow<'static, str>,
    /// What it is about, or where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The rule that looked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// What became of it.
    pub action: NoticedAction,
}

/// What became of something that was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticedAction {
    /// It passed.
    Alert,
    /// The agent did not get to see it; the rest passed.
    Hide,
    /// It was made unreadable; the rest passed.
    Redact,
    /// All of it was refused.
    Block,
}

/// One line of the audit stream.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When the decision was made (UTC, RFC 3339, microseconds).
    #[serde(serialize_with = "microseconds")]
    pub time: jiff::Timestamp,
    /// Unique, sortable by time; also in the body of a refusal.
    pub event: uuid::Uuid,
    /// Open or end.
    pub phase: Phase,
    /// Who saw it.
    pub source: Source,
    /// Whose policy applied.
    pub agent: AgentId,
    /// How far the boundary holds for this agent.
    pub assurance: Assurance,
    /// What was asked for.
    pub kind: Kind,
    /// What became of it.
    pub outcome: Outcome,
    /// The rule that decided or came nearest.
    pub rule: Option<RuleId>,
    /// Stable label of the reason; for an allowed request that failed, of the failure.
    pub reason: &'static str,
    /// What the caller was told to do about it.
    pub hint: Option<String>,
    /// Digest of the policy that decided.
    pub policy: PolicyDigest,
    /// The process, as the kernel saw it.
    pub process: Option<Arc<Process>>,
    /// Where the agent's end was.
    pub peer: Option<SocketAddr>,
    /// What the agent asked the kernel for.
    pub original_destination: Option<SocketAddr>,
    /// Host, or DNS name.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// HTTP method, DNS record type, or hook of the kernel half.
    pub method: Option<String>,
    /// Path without the query.
    pub path: Option<String>,
    /// What was called on an MCP server: method, and name of the tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// Whether the gateway read what was said: false for what it relays unopened.
    pub inspected: bool,
    /// Address that was dialled.
    pub upstream: Option<SocketAddr>,
    /// HTTP status that the agent saw.
    pub status: Option<u16>,
    /// Bytes from the agent to the upstream.
    pub bytes_out: u64,
    /// Bytes from the upstream to the agent.
    pub bytes_in: u64,
    /// Microseconds from the decision to the end.
    pub duration_us: u64,
    /// At whose door a failure lies; none where nothing failed.
    pub blame: Option<Blame>,
    /// How many more of the same were folded into this record.
    pub repeated: u64,
    /// What was noticed in what was said, the first [`NOTICED_MAX`] of it; absent where nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub noticed: Vec<Noticed>,
    /// What a record of kind `session` is about; absent from all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Box<SessionFacts>>,
}

/// Always six digits, so that times sort as text.
fn microseconds<S: Serializer>(time: &jiff::Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}
