//! Everything that can go wrong with what an agent asks for, and the one place that says what
//! follows: status, reason, blame.

use std::time::Duration;

use super::{
    activity::End,
    dial::DialError,
    hello::HelloError,
    http1::{HeadError, chunked::ChunkError},
};
use crate::{
    audit::Blame,
    dns::resolver::ResolveError,
    inspect::Unread,
    names::{BadHost, Host},
    policy::Denial,
    websocket::{
        WsError,
        handshake::{AnswerError, OfferError},
    },
};

/// Why a request was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Policy refuses.
    #[error("{}", .0.hint)]
    Denied(Denial),
    /// Policy allows it, only not as often.
    #[error("{}", .denial.hint)]
    Throttled {
        /// The rule that says how often, and why.
        denial: Denial,
        /// When it would be allowed again.
        wait: Duration,
    },
    /// Policy allowed what is open; the one that is in force now does not, and this is why.
    #[error("{0}")]
    PolicyChanged(String),
    /// TLS that is open, and that the policy in force now looks into.
    #[error("the policy looks inside TLS there now; connect again")]
    NowOpened,
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
    /// TLS that cannot be relayed unopened, since it may be meant for a host that it hides.
    #[error(
        "the ClientHello may hide another one (ECH), and policy does not let the gateway open it; \
         turn ECH off, or delete `inspect = \"never\"`"
    )]
    HiddenHello,
    /// The agent's end of TLS does not trust the gateway's certificates.
    #[error(
        "the program does not trust the gateway's certificate authority, or expects the \
         certificate of {0} itself; give it the authority (SSL_CERT_FILE), or allow the host by a \
         rule that needs no look inside"
    )]
    Distrusted(Host),
    /// The agent's end of TLS failed otherwise.
    #[error("the TLS handshake with the agent failed: {0}")]
    AgentTls(String),
    /// The upstream's certificate is not trusted.
    #[error("the upstream's certificate: {0}")]
    UpstreamCertificate(String),
    /// The upstream's end of TLS failed otherwise.
    #[error("the TLS handshake with the upstream failed: {0}")]
    UpstreamTls(String),
    /// A WebSocket handshake that is none.
    #[error("the WebSocket handshake: {0}")]
    WebSocketOffer(OfferError),
    /// An answer to it that grants something else.
    #[error("the upstream's answer to the WebSocket handshake: {0}")]
    WebSocketAnswer(AnswerError),
    /// What the agent sends over WebSocket.
    #[error("{0}")]
    AgentWebSocket(WsError),
    /// What the upstream sends over WebSocket.
    #[error("from the upstream: {0}")]
    UpstreamWebSocket(WsError),
    /// The gateway ends.
    #[error("the gateway ends")]
    Draining,
    /// HTTP/2 from or to the agent.
    #[error("HTTP/2: {0}")]
    AgentHttp2(h2::Error),
    /// HTTP/2 from or to the upstream.
    #[error("HTTP/2 with the upstream: {0}")]
    UpstreamHttp2(h2::Error),
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
    /// More bodies at once than are read ahead.
    #[error("too many bodies at once that a condition is about")]
    NoRoomAhead,
    /// Nobody is known to be on the line.
    #[error("nobody is known to be on the line")]
    Unattributed,
    /// The name did not resolve.
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    /// No upstream address could be reached.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The proxy upstream closed the connection.
    #[error("the proxy upstream closed the connection")]
    ProxyGone,
    /// It did not answer.
    #[error("the proxy upstream did not answer in time")]
    ProxyStalled,
    /// It refuses.
    #[error("the proxy upstream answered {0}")]
    ProxyRefused(u16),
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
    /// An answer that policy is about, and that cannot be read.
    #[error("the answer cannot be read, and policy is about what it says: {0}")]
    AnswerUnread(Unread),
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

impl From<End> for Failure {
    /// That this end does not go on.
    fn from(end: End) -> Self {
        match end {
            End::Agent => Self::AgentStalled,
            End::Upstream => Self::UpstreamStalled,
        }
    }
}

impl Failure {
    /// The refusal of policy, if it is one.
    pub(crate) fn denial(&self) -> Option<&Denial> {
        match self {
            Self::Denied(denial) | Self::Throttled { denial, .. } => Some(denial),
            _not_policy => None,
        }
    }

    /// Seconds after which trying again may help.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            // A part of a second is rounded up: whoever keeps to it is not refused again.
            Self::Throttled { wait, .. } => {
                Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
            _other => None,
        }
    }

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
            Self::Throttled { denial, .. } => Report {
                reason: denial.reason.label(),
                status: 429,
                error: "throttled",
                blame: Blame::Policy,
                refuses: true,
            },
            Self::PolicyChanged(_) | Self::NowOpened => {
                ended("policy_changed", 403, "policy_denied", Blame::Policy)
            }
            Self::Name(_) => agent("name_malformed", 400),
            Self::Request(error) => agent(error.label(), error.status()),
            Self::RequestBody(error) => agent(error.label(), 400),
            Self::RequestSlow => agent("head_timeout", 408),
            Self::Hello(error) => agent(error.label(), 400),
            Self::SniMismatch => agent("sni_mismatch", 403),
            Self::WebSocketOffer(error) => agent(error.label(), 400),
            Self::WebSocketAnswer(error) => upstream(error.label(), 502),
            Self::AgentWebSocket(error) => agent(error.label(), 400),
            Self::UpstreamWebSocket(error) => upstream(error.label(), 502),
            Self::Draining => ended("drained", 503, "gateway_failed", Blame::Us),
            Self::HiddenHello => agent("hidden_hello", 403),
            Self::Distrusted(_) => ended("agent_distrusts", 400, "bad_request", Blame::Agent),
            Self::AgentTls(_) => ended("agent_tls", 400, "bad_request", Blame::Agent),
            Self::AgentHttp2(_) => ended("agent_http2", 400, "bad_request", Blame::Agent),
            Self::UpstreamCertificate(_) => upstream("upstream_certificate", 502),
            Self::UpstreamTls(_) => upstream("upstream_tls", 502),
            Self::UpstreamHttp2(_) => upstream("upstream_http2", 502),
            Self::NoDestination => agent("no_destination", 400),
            Self::ConnectionLimit => agent("connection_limit", 429),
            Self::QuestionLimit => agent("question_limit", 429),
            Self::NoRoomAhead => agent("bodies_ahead", 429),
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
            Self::ProxyGone => upstream("proxy_gone", 502),
            Self::ProxyStalled => upstream("proxy_timeout", 504),
            Self::ProxyRefused(_) => upstream("proxy_refused", 502),
            Self::UpstreamClosed => upstream("upstream_closed", 502),
            Self::UpstreamGone => upstream("upstream_gone", 502),
            Self::UpstreamStalled => upstream("upstream_stalled", 504),
            Self::Response(error) => upstream(error.label(), 502),
            Self::ResponseBody(error) => upstream(error.label(), 502),
            Self::AnswerUnread(unread) => upstream(unread.label(), 502),
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
