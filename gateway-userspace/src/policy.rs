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
mod decide;
mod dialable;
mod fault;
mod hint;
mod host_pattern;
mod index;
mod load;
mod path_pattern;
mod pin;
mod places;
mod query;
mod report;
mod rule;
mod settings;

pub use address::{AddressClass, classify};
pub use fault::{Fault, Severity};
pub use host_pattern::{BadPattern, HostPattern};
pub use path_pattern::{BadPath, PathPattern};
pub use places::Place;
pub use query::{BadQuery, Query};
pub use report::{PolicyErrors, Problem};
pub use rule::{Outcome, Rule, Target, Traffic};
pub(crate) use settings::Word;
pub use settings::{
    Direct, Dns, DnsMode, Inbound, Mode, Network, ProcessPolicy, UnixSockets, Upstream,
};

use index::Index;

/// The policy that allows nothing, for an agent that was given none.
const LOCKED_DOWN: &str = include_str!("../../policies/locked-down.toml");

/// A policy as it decides. Cheap to clone and to share.
#[derive(Clone, Debug)]
pub struct Policy {
    inner: Arc<Compiled>,
    agent: AgentId,
    mode: Mode,
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
    rules: Vec<Rule>,
    index: Index,
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

    /// Compiles a text; `name` stands for the file in errors.
    ///
    /// # Errors
    /// [`PolicyErrors`] with all that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyErrors> {
        load::bytes(name, text.as_bytes())
    }

    /// The shipped policy that allows nothing.
    #[must_use]
    pub fn locked_down() -> Self {
        Self::parse("locked-down.toml", LOCKED_DOWN).expect("a test parses the shipped policies")
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

    /// The text it was compiled from, for a process that compiles it again.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Whether refusals are carried out.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The same policy for an agent of another name.
    #[must_use]
    pub fn with_agent(mut self, agent: AgentId) -> Self {
        self.agent = agent;
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
        self.inner.assurance
    }

    /// What the kernel half does.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// What the launcher leaves to the agent's processes.
    #[must_use]
    pub fn process(&self) -> &ProcessPolicy {
        &self.inner.process
    }

    /// Which DNS questions are answered.
    #[must_use]
    pub fn dns(&self) -> &Dns {
        &self.inner.dns
    }

    /// How the gateway reaches what it dials.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.inner.upstream
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
        self.inner.index.tcp_names(port)
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
    /// A rule would allow it only after looking inside TLS, which this build cannot do.
    NeedsInspection,
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
            Self::PrivateAddress => "private_address",
            Self::MetadataAddress => "metadata_address",
            Self::NoAddress => "no_address",
            Self::DnsOff => "dns_off",
            Self::DnsType => "dns_type",
        }
    }
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
    /// Refused.
    Deny(Denial),
}

/// An allowed request whose addresses are not known yet. Only this module makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    rule: Option<RuleId>,
    private: Option<PrivateLeave>,
    /// Whether unfit addresses pass.
    observes: bool,
    observed: Option<Denial>,
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
    observed: Option<Denial>,
}

impl Permit {
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
