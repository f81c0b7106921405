//! Policy: parses files, compiles them, and is the one place that decides.
//!
//! Pure: no I/O but reading the file it is given, no clock, no tokio, no aya.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::names::{Host, HostName, RuleId};

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
    private: bool,
    named_addresses: Vec<IpAddr>,
    observed: Option<Denial>,
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
