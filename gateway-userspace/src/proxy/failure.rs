//! Everything that can go wrong with what an agent asks for, and the one place that says what
//! follows: status, reason, blame.

use super::{
    dial::DialError,
    http1::{HeadError, chunked::ChunkError},
    sniff::HelloError,
};
use crate::{audit::Blame, dns::resolver::ResolveError, names::BadHost, policy::Denial};

/// Why a request was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Policy refuses.
    #[error("{}", .0.hint)]
    Denied(Denial),
    /// The name asked for is not one.
    #[error("{0}")]
    Name(BadHost),
    /// A request head that is malformed, ambiguous or not supported.
    #[error("{0}")]
    Request(#[from] HeadError),
    /// A request body that is not what its framing says.
    #[error("{0}")]
    RequestBody(ChunkError),
    /// A request head that did not come in time.
    #[error("the request head did not come in time")]
    RequestSlow,
    /// A ClientHello that is none.
    #[error("{0}")]
    Hello(HelloError),
    /// TLS inside a tunnel that is meant for another host than the tunnel's.
    #[error("the name in the TLS handshake is not the one that CONNECT named")]
    SniMismatch,
    /// Nothing says where it should go.
    #[error("neither HTTP nor TLS with a server name: the gateway cannot tell where it should go")]
    NoDestination,
    /// The agent closed the connection before all was said.
    #[error("the agent closed the connection")]
    AgentGone,
    /// The agent stopped in the middle of something.
    #[error("the agent sent and took nothing for too long")]
    AgentStalled,
    /// The agent has too many connections open.
    #[error("this agent has as many connections open as it may have")]
    ConnectionLimit,
    /// More DNS questions at once than are worked on.
    #[error("too many DNS questions at once")]
    QuestionLimit,
    /// Nobody is known to be on the line.
    #[error("nobody is known to be on the line")]
    Unattributed,
    /// The name did not resolve.
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    /// No upstream address could be reached.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The upstream closed the connection before its response began.
    #[error("the upstream closed the connection without a response")]
    UpstreamClosed,
    /// The upstream closed the connection before all was said.
    #[error("the upstream closed the connection too early")]
    UpstreamGone,
    /// The upstream did not go on.
    #[error("the upstream sent and took nothing for too long")]
    UpstreamStalled,
    /// A response head that is malformed or ambiguous.
    #[error("the upstream's response: {0}")]
    Response(HeadError),
    /// A response body that is not what its framing says.
    #[error("the upstream's response: {0}")]
    ResponseBody(ChunkError),
    /// More interim responses than anybody needs.
    #[error("the upstream sent too many interim responses")]
    InterimLimit,
    /// Nothing moved for too long.
    #[error("nothing was sent either way for too long")]
    Idle,
    /// The connection is as old as one may become.
    #[error("the connection reached its age limit")]
    AgeLimit,
    /// No room for the record of it.
    #[error("the audit log cannot take a record, and nothing passes unrecorded")]
    AuditUnavailable,
}

/// What follows from a [`Failure`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Report {
    /// The label in records, metrics and bodies.
    pub(crate) reason: &'static str,
    /// HTTP status, where HTTP is spoken and the response has not begun.
    pub(crate) status: u16,
    /// The kind of error in a body.
    pub(crate) error: &'static str,
    /// At whose door it lies.
    pub(crate) blame: Blame,
    /// Whether it is a refusal even though a rule allowed the request so far.
    pub(crate) refuses: bool,
}

impl Failure {
    /// What follows.
    pub(crate) fn report(&self) -> Report {
        match self {
            Self::Denied(denial) => Report {
                reason: denial.reason.label(),
                status: 403,
                error: "policy_denied",
                blame: Blame::Policy,
                refuses: true,
            },
            Self::Name(_) => agent("name_malformed", 400),
            Self::Request(error) => agent(error.label(), error.status()),
            Self::RequestBody(error) => agent(error.label(), 400),
            Self::RequestSlow => agent("head_timeout", 408),
            Self::Hello(error) => agent(error.label(), 400),
            Self::SniMismatch => agent("sni_mismatch", 403),
            Self::NoDestination => agent("no_destination", 400),
            Self::ConnectionLimit => agent("connection_limit", 429),
            Self::QuestionLimit => agent("question_limit", 429),
            Self::Unattributed => agent("unattributed", 403),
            Self::AgentGone => ended("agent_gone", 400, "bad_request", Blame::Agent),
            Self::AgentStalled => ended("agent_stalled", 408, "bad_request", Blame::Agent),
            Self::Resolve(error) => upstream(error.label(), error.status()),
            Self::Dial(DialError::Itself(_)) => Report {
                reason: "gateway_loop",
                status: 403,
                error: "bad_request",
                blame: Blame::Agent,
                refuses: true,
            },
            Self::Dial(DialError::TimedOut { .. }) => upstream("connect_timeout", 504),
            Self::Dial(DialError::Failed { .. }) => upstream("connect_failed", 502),
            Self::Dial(DialError::NoAddress) => upstream("no_address", 502),
            Self::UpstreamClosed => upstream("upstream_closed", 502),
            Self::UpstreamGone => upstream("upstream_gone", 502),
            Self::UpstreamStalled => upstream("upstream_stalled", 504),
            Self::Response(error) => upstream(error.label(), 502),
            Self::ResponseBody(error) => upstream(error.label(), 502),
            Self::InterimLimit => upstream("interim_limit", 502),
            Self::Idle => ended("idle", 504, "gateway_failed", Blame::Agent),
            Self::AgeLimit => ended("age_limit", 504, "gateway_failed", Blame::Us),
            Self::AuditUnavailable => Report {
                reason: "audit_unavailable",
                status: 503,
                error: "gateway_failed",
                blame: Blame::Us,
                refuses: true,
            },
        }
    }
}

/// The agent sent something that is refused.
const fn agent(reason: &'static str, status: u16) -> Report {
    Report {
        reason,
        status,
        error: "bad_request",
        blame: Blame::Agent,
        refuses: true,
    }
}

/// The upstream failed what policy had allowed.
const fn upstream(reason: &'static str, status: u16) -> Report {
    ended(reason, status, "upstream_failed", Blame::Upstream)
}

const fn ended(reason: &'static str, status: u16, error: &'static str, blame: Blame) -> Report {
    Report {
        reason,
        status,
        error,
        blame,
        refuses: false,
    }
}
