//! Policy: parses files, compiles them, and is the one place that decides.
//!
//! Pure: no I/O but reading the file it is given, no clock, no tokio, no aya.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use serde::Serialize;

use crate::{
    identity::Assurance,
    names::{AgentId, Host, HostName, PolicyDigest, RuleId},
};

mod address;
mod answer;
mod bind;
mod carry;
mod condition;
mod decide;
mod dialable;
mod facts;
mod fault;
mod hint;
mod host_pattern;
mod index;
mod intersect;
mod load;
mod mcp;
mod name_shape;
mod path_pattern;
mod pin;
mod places;
mod query;
mod rate;
mod report;
mod rule;
mod settings;
mod test;

pub use address::{AddressClass, classify};
pub use bind::{Bind, Kubernetes};
pub use carry::{BadCargo, NoFile};
pub use condition::{BadCondition, Condition};
pub use facts::{Content, Facts, OwnedFacts, Scheme};
pub use fault::{Fault, Severity};
pub use host_pattern::{BadPattern, HostPattern};
pub use mcp::{Called, Calls, Mcp, NamePattern, Offer, Pin, Server};
pub use path_pattern::{BadPath, PathPattern};
pub use places::Place;
pub use query::{BadQuery, Query};
pub use rate::{BadRate, Rate};
pub use report::{PolicyErrors, Problem};
pub use rule::{Outcome, Rule, Target, Traffic};
pub(crate) use settings::Word;
pub use settings::{
    Action, ClientCertificate, Direct, Dns, DnsMode, Inbound, Inspect, Mode, Network,
    ProcessPolicy, UnixSockets, Upstream, UpstreamProxy,
};

pub use test::{Coverage, Expectation, Finding, PolicyTest, TestResult, TestRun};

use index::Index;

/// The policy that allows nothing, for an agent that was given none.
const LOCKED_DOWN: &str = include_str!("../../policies/locked-down.toml");

/// A policy as it decides. Cheap to clone and to share.
#[derive(Clone, Debug)]
pub struct Policy {
    inner: Arc<Compiled>,
    agent: AgentId,
    mode: Mode,
    /// The node's policy, which narrows this one.
    node: Option<Arc<intersect::Node>>,
}

/// What a file was compiled to.
#[derive(Debug)]
struct Compiled {
    digest: PolicyDigest,
    agent: AgentId,
    mode: Mode,
    assurance: Assurance,
    network: Network,
    process: ProcessPolicy,
    dns: Dns,
    upstream: Upstream,
    inspect: Inspect,
    requests: Option<Rate>,
    bind: Bind,
    attached: carry::Attached,
    rules: Vec<Rule>,
    index: Index,
    tests: Vec<PolicyTest>,
    warnings: PolicyErrors,
    source: String,
}

impl Policy {
    /// Reads and compiles a file.
    ///
    /// # Errors
    /// [`PolicyErrors`] with all that is wrong with it, or why it could not be read.
    pub fn load(path: &Path) -> Result<Self, PolicyErrors> {
        load::file(path)
    }

    /// Compiles a text that names no files; `name` stands for the file in errors.
    ///
    /// # Errors
    /// [`PolicyErrors`] with all that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyErrors> {
        load::bytes(name, text.as_bytes(), carry::Files::Nowhere)
    }

    /// The shipped policy that allows nothing.
    #[must_use]
    pub fn locked_down() -> Self {
        Self::parse("locked-down.toml", LOCKED_DOWN).expect("a test parses the shipped policies")
    }

    /// The JSON Schema of policy files (2020-12), for editors.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        load::json_schema()
    }

    /// Whom it governs.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// SHA-256 over the file's bytes.
    #[must_use]
    pub fn digest(&self) -> PolicyDigest {
        self.inner.digest
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Whether refusals are carried out.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.joint_mode()
    }

    /// Whether this policy itself observes, whatever the node's does.
    #[must_use]
    pub(crate) const fn own_mode(&self) -> Mode {
        self.mode
    }

    /// Whom the daemon puts under it.
    #[must_use]
    pub fn bind(&self) -> &Bind {
        &self.inner.bind
    }

    /// The same policy for an agent of another name.
    #[must_use]
    pub fn with_agent(mut self, agent: AgentId) -> Self {
        self.agent = agent.clone();
        self.node = self.node.map(|node| {
            Arc::new(intersect::Node {
                policy: node.policy.clone().with_agent(agent),
                network: node.network.clone(),
                process: node.process.clone(),
                dns: node.dns.clone(),
            })
        });
        self
    }

    /// The same policy, recording refusals instead of carrying them out.
    #[must_use]
    pub fn with_observe(mut self) -> Self {
        self.mode = Mode::Observe;
        self
    }

    /// The weakest boundary under which the agent may start. Default: partial.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        let own = self.inner.assurance;
        let node = self.node.as_ref().map(|node| node.policy.assurance());
        node.map_or(own, |node| node.max(own))
    }

    /// What the kernel half does.
    #[must_use]
    pub fn network(&self) -> &Network {
        self.node
            .as_ref()
            .map_or(&self.inner.network, |node| &node.network)
    }

    /// What the launcher leaves to the agent's processes.
    #[must_use]
    pub fn process(&self) -> &ProcessPolicy {
        self.node
            .as_ref()
            .map_or(&self.inner.process, |node| &node.process)
    }

    /// Which DNS questions are answered.
    #[must_use]
    pub fn dns(&self) -> &Dns {
        self.node.as_ref().map_or(&self.inner.dns, |node| &node.dns)
    }

    /// How the gateway reaches what it dials.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.inner.upstream
    }

    /// How many requests the agent may make, whatever allows them: by this policy and by the
    /// node's. Default: no limit.
    pub fn requests(&self) -> impl Iterator<Item = Rate> {
        let node = self
            .node
            .as_ref()
            .and_then(|node| node.policy.inner.requests);
        let own = self.inner.requests;
        // The same rate twice is one count.
        own.into_iter()
            .chain(node.filter(|node| Some(*node) != own))
    }

    /// The rules, in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.inner.rules
    }

    /// What is odd about the policy, though not wrong.
    #[must_use]
    pub fn warnings(&self) -> &PolicyErrors {
        &self.inner.warnings
    }

    /// Names that raw TCP rules name exactly with this port: a raw connection is recognised by
    /// the addresses that they have.
    pub fn tcp_names(&self, port: u16) -> impl Iterator<Item = &HostName> {
        let node = self.node.as_ref();
        let node = node.map(|node| node.policy.inner.index.tcp_names(port));
        self.inner
            .index
            .tcp_names(port)
            .chain(node.into_iter().flatten())
    }

    /// Whether some raw TCP rule names hosts of this port by a wildcard, so that only names that
    /// the agent asked for can tell whether it applies.
    #[must_use]
    pub fn tcp_pattern_possible(&self, port: u16) -> bool {
        self.inner.index.has_tcp_wildcard(port)
    }

    /// Whether some rule over HTTP and TLS covers this port, so that the first bytes are worth
    /// waiting for.
    #[must_use]
    pub fn sniffs(&self, port: u16) -> bool {
        self.inner.index.has_web(port)
            || self
                .node
                .as_ref()
                .is_some_and(|node| node.policy.sniffs(port))
    }

    /// Whether some rule that covers this place has a condition on the body.
    #[must_use]
    pub fn wants_body(&self, host: &Host, port: u16) -> bool {
        let node = self.node.as_ref();
        node.is_some_and(|node| node.policy.wants_body(host, port))
            || self.any_at(host, port, |rule| {
                matches!(rule.traffic, Traffic::Mcp(_))
                    || rule.when.as_ref().is_some_and(Condition::needs_body)
            })
    }

    /// Whether TLS to this place is opened. A rule that covers it with `inspect = "never"` keeps
    /// it shut, whatever others say; but one of the agent's policy does not keep shut what the
    /// node's has opened.
    #[must_use]
    pub fn inspects(&self, host: &Host, port: u16) -> bool {
        let shut = self.any_at(host, port, |rule| rule.inspect == Some(Inspect::Never));
        let node = self.node.as_ref().map(|node| &node.policy);
        match node {
            Some(node) if node.inspects(host, port) => true,
            Some(node) if node.any_at(host, port, |rule| rule.inspect == Some(Inspect::Never)) => {
                false
            }
            Some(_) | None => !shut && self.opens(host, port),
        }
    }

    /// Whether this policy itself has TLS to this place opened.
    fn opens(&self, host: &Host, port: u16) -> bool {
        let root = self.inner.inspect;
        let says = |wanted| move |rule: &Rule| rule.inspect == Some(wanted);
        root == Inspect::Always
            || self.any_at(host, port, says(Inspect::Always))
            || self.any_at(host, port, |rule| {
                rule.inspect.unwrap_or(root) == Inspect::Auto && rule.needs_inspection()
            })
    }

    /// Whether TLS to this place may be opened, though no rule needs it.
    #[must_use]
    pub fn may_inspect(&self, host: &Host, port: u16) -> bool {
        let shut = |rule: &Rule| rule.inspect.unwrap_or(self.inner.inspect) == Inspect::Never;
        let node = self.node.as_ref();
        !self.any_at(host, port, shut)
            && self.inner.inspect != Inspect::Never
            && node.is_none_or(|node| node.policy.may_inspect(host, port))
    }

    /// Whether one of the rules that cover this place is like that.
    fn any_at(&self, host: &Host, port: u16, like: impl Fn(&Rule) -> bool) -> bool {
        let mut found = false;
        self.inner
            .index
            .visit(&Request::Connect { host, port }, |slot| {
                let rule = self.rules().get(slot.rule);
                found |= rule.is_some_and(|rule| {
                    let target = rule.targets.get(slot.target);
                    target.is_some_and(|target| {
                        target.hosts.covers(host) && target.ports.binary_search(&port).is_ok()
                    }) && like(rule)
                });
            });
        found
    }
}

/// Why a request is decided so.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// Every rule, in the order of the file, and how far the request got with it.
    pub tried: Vec<Tried>,
}

/// A rule that was tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Tried {
    /// The rule.
    pub rule: RuleId,
    /// How far the request got.
    pub outcome: Outcome,
    /// The same in words, to be read after "the rule".
    pub finding: String,
}

/// What an agent asks for.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// A tunnel (CONNECT); what is inside is decided again.
    Connect {
        /// Named host.
        host: &'a Host,
        /// Named port.
        port: u16,
    },
    /// An HTTP request that the gateway can read.
    Http {
        /// Named host.
        host: &'a Host,
        /// Named port.
        port: u16,
        /// Method as sent, upper case.
        method: &'a str,
        /// Path as it goes upstream, without the query.
        path: &'a str,
        /// What else is known of it.
        facts: &'a Facts<'a>,
    },
    /// TLS that is relayed unopened.
    Tls {
        /// Name in the ClientHello.
        host: &'a Host,
        /// Destination port.
        port: u16,
    },
    /// Neither HTTP nor TLS: decided on the destination alone.
    Tcp {
        /// Destination that the agent asked the kernel for.
        destination: SocketAddr,
        /// Names that stand for this address: answered to this agent, or resolved just now.
        names: &'a [HostName],
    },
    /// A DNS question.
    Dns {
        /// The name.
        name: &'a HostName,
        /// Record type number.
        record_type: u16,
    },
}

impl Request<'_> {
    /// The port, of anything but a DNS question.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Connect { port, .. } | Self::Http { port, .. } | Self::Tls { port, .. } => {
                Some(*port)
            }
            Self::Tcp { destination, .. } => Some(destination.port()),
            Self::Dns { .. } => None,
        }
    }
}

/// Why policy refuses. Labels are stable and reach the agent and the audit record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// No rule names this host (or destination).
    NoRule,
    /// A rule names the host, but not this port.
    PortNotAllowed,
    /// A rule names host and port, but not this method.
    MethodNotAllowed,
    /// A rule names host, port and method, but not this path.
    PathNotAllowed,
    /// A rule could decide only after looking inside TLS, or into bytes that are not opened.
    NeedsInspection,
    /// A rule refuses it.
    DeniedByRule,
    /// A rule wants a human to be asked first.
    ApprovalRequired,
    /// A rule covers it, but not as the opening of a WebSocket.
    WebsocketNotAllowed,
    /// There is an MCP server, and no `[[mcp]]` rule allows what is said to it.
    McpOnly,
    /// What is said to an MCP server has no one reading.
    McpUnclear,
    /// A header field says something else than the body to an MCP server.
    McpMismatch,
    /// A rule names the MCP server, but not this call.
    CallNotAllowed,
    /// What an MCP server says of the tool is not what it said at first.
    DefinitionChanged,
    /// What came back could not be read, and policy is about what it says.
    AnswerUnclear,
    /// A rule covers it, under a condition that does not hold.
    ConditionNotMet,
    /// A rule covers it, under a condition that could not be evaluated.
    ConditionFailed,
    /// A rule allows it, only not as often.
    RateLimited,
    /// The name resolved to a private, loopback, link-local or other non-public address.
    PrivateAddress,
    /// The address is a cloud metadata service's.
    MetadataAddress,
    /// The name has no address.
    NoAddress,
    /// The policy has DNS off.
    DnsOff,
    /// The policy refuses this DNS record type.
    DnsType,
    /// A DNS name has a longer label than the policy answers.
    DnsLabel,
    /// A DNS name is longer than the policy answers.
    DnsName,
    /// A DNS name looks more random than the policy answers.
    DnsEntropy,
}

impl DenyReason {
    /// The stable label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::PortNotAllowed => "port_not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::NeedsInspection => "needs_inspection",
            Self::DeniedByRule => "denied_by_rule",
            Self::ApprovalRequired => "approval_required",
            Self::WebsocketNotAllowed => "websocket_not_allowed",
            Self::McpOnly => "mcp_only",
            Self::McpUnclear => "mcp_unclear",
            Self::McpMismatch => "mcp_mismatch",
            Self::CallNotAllowed => "call_not_allowed",
            Self::DefinitionChanged => "definition_changed",
            Self::AnswerUnclear => "answer_unclear",
            Self::ConditionNotMet => "condition_not_met",
            Self::ConditionFailed => "condition_failed",
            Self::RateLimited => "rate_limited",
            Self::PrivateAddress => "private_address",
            Self::MetadataAddress => "metadata_address",
            Self::NoAddress => "no_address",
            Self::DnsOff => "dns_off",
            Self::DnsType => "dns_type",
            Self::DnsLabel => "dns_label",
            Self::DnsName => "dns_name",
            Self::DnsEntropy => "dns_entropy",
        }
    }
}

impl Word for DenyReason {
    const WORDS: &'static [(&'static str, Self)] = &[
        (Self::NoRule.label(), Self::NoRule),
        (Self::PortNotAllowed.label(), Self::PortNotAllowed),
        (Self::MethodNotAllowed.label(), Self::MethodNotAllowed),
        (Self::PathNotAllowed.label(), Self::PathNotAllowed),
        (Self::NeedsInspection.label(), Self::NeedsInspection),
        (Self::DeniedByRule.label(), Self::DeniedByRule),
        (Self::ApprovalRequired.label(), Self::ApprovalRequired),
        (Self::WebsocketNotAllowed.label(), Self::WebsocketNotAllowed),
        (Self::McpOnly.label(), Self::McpOnly),
        (Self::McpUnclear.label(), Self::McpUnclear),
        (Self::McpMismatch.label(), Self::McpMismatch),
        (Self::CallNotAllowed.label(), Self::CallNotAllowed),
        (Self::DefinitionChanged.label(), Self::DefinitionChanged),
        (Self::AnswerUnclear.label(), Self::AnswerUnclear),
        (Self::ConditionNotMet.label(), Self::ConditionNotMet),
        (Self::ConditionFailed.label(), Self::ConditionFailed),
        (Self::RateLimited.label(), Self::RateLimited),
        (Self::PrivateAddress.label(), Self::PrivateAddress),
        (Self::MetadataAddress.label(), Self::MetadataAddress),
        (Self::NoAddress.label(), Self::NoAddress),
        (Self::DnsOff.label(), Self::DnsOff),
        (Self::DnsType.label(), Self::DnsType),
        (Self::DnsLabel.label(), Self::DnsLabel),
        (Self::DnsName.label(), Self::DnsName),
        (Self::DnsEntropy.label(), Self::DnsEntropy),
    ];
}

/// A refusal, with what the caller can do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    /// The rule that came nearest; none if no rule names the host.
    pub rule: Option<RuleId>,
    /// Why.
    pub reason: DenyReason,
    /// What to change, or whom to ask, in one sentence.
    pub hint: String,
}

/// The answer to a [`Request`].
#[must_use]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Allowed, once the addresses are known to be fit.
    Allow(Grant),
    /// A human must be asked first. As long as nothing can ask, it is a refusal.
    Approve(Denial),
    /// Refused.
    Deny(Denial),
}

impl Decision {
    /// The grant, where nobody has to be asked.
    ///
    /// # Errors
    /// The refusal otherwise.
    pub fn granted(self) -> Result<Grant, Denial> {
        match self {
            Self::Allow(grant) => Ok(grant),
            Self::Approve(denial) | Self::Deny(denial) => Err(denial),
        }
    }

    /// Whether rules allow it, so that nothing is refused or only observed.
    #[must_use]
    pub const fn is_allowed(&self) -> bool {
        match self {
            Self::Allow(grant) => grant.observed.is_none(),
            Self::Approve(_) | Self::Deny(_) => false,
        }
    }
}

/// An allowed request whose addresses are not known yet. Only this module makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    rule: Option<RuleId>,
    private: Option<PrivateLeave>,
    /// How often the rule allows it, and whether it insists.
    limit: Option<(Rate, Mode)>,
    /// Whether unfit addresses pass.
    observes: bool,
    observed: Option<Denial>,
    /// What the node's policy leaves open.
    node: Option<NodeLeave>,
}

/// What a node's policy adds to the addresses of a grant.
#[derive(Clone, PartialEq, Eq, Debug)]
struct NodeLeave {
    private: Option<PrivateLeave>,
    observes: bool,
}

/// What `private = true` on a rule that allows the request adds.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PrivateLeave {
    rule: RuleId,
    /// Addresses that the rule itself names.
    named: Arc<[IpAddr]>,
}

/// Leave to dial exactly these addresses. Only [`Grant::pin`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permit {
    rule: Option<RuleId>,
    addresses: Vec<SocketAddr>,
    /// Behind a proxy at these addresses: the place to ask it for.
    beyond: Option<(Host, u16)>,
    observed: Option<Denial>,
}

impl Permit {
    /// The place that the proxy at these addresses is to be asked for; none where they are the
    /// upstream's own.
    #[must_use]
    pub const fn beyond(&self) -> Option<&(Host, u16)> {
        self.beyond.as_ref()
    }

    /// The rule that allowed it; none where observe mode let a refusal pass.
    #[must_use]
    pub const fn rule(&self) -> Option<&RuleId> {
        self.rule.as_ref()
    }

    /// The addresses that may be dialled, in the order of trying. Never empty.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The refusal that observe mode did not carry out.
    #[must_use]
    pub const fn observed(&self) -> Option<&Denial> {
        self.observed.as_ref()
    }
}
