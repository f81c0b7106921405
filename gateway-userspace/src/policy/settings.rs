//! What a policy says beside its rules: mode, floor, network, DNS, static names.

use std::{collections::HashMap, net::IpAddr, path::PathBuf, str::FromStr as _, sync::Arc};

use hickory_proto::rr::RecordType;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use super::{HostPattern, Rate};
use crate::{
    identity::Assurance,
    names::{Host, HostName},
};

/// A setting that is written as one word of a few.
pub(crate) trait Word: Copy + PartialEq + Sized + 'static {
    /// All words with what they mean, the default first.
    const WORDS: &'static [(&'static str, Self)];

    /// The word for this value.
    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, value)| *value == self)
            .map_or("", |(word, _)| word)
    }
}

/// Whether refusals are carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are.
    Enforce,
    /// They are recorded, and everything passes.
    Observe,
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self::Enforce), ("observe", Self::Observe)];
}

/// Whether TLS is opened to read what is inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Inspect {
    /// Where a rule could decide only inside.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere: what could be decided only inside is refused.
    Never,
}

impl Word for Inspect {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

/// What a rule does with what it covers. Ordered: the later wins, whatever the order of the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passes.
    Allow,
    /// A human is to be asked.
    Approve,
    /// It is refused.
    Deny,
}

impl Word for Action {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("allow", Self::Allow),
        ("approve", Self::Approve),
        ("deny", Self::Deny),
    ];
}

impl Word for Assurance {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("partial", Self::Partial),
        ("confined", Self::Confined),
        ("sealed", Self::Sealed),
        ("observe", Self::Observe),
        ("cooperative", Self::Cooperative),
    ];
}

/// What becomes of a TCP connection that does not go to the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direct {
    /// The kernel half sends it to the gateway, which decides.
    Redirect,
    /// The kernel half refuses it: only explicit proxy requests get out.
    Deny,
}

impl Word for Direct {
    const WORDS: &'static [(&'static str, Self)] =
        &[("redirect", Self::Redirect), ("deny", Self::Deny)];
}

/// Who may connect to the agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Inbound {
    /// Nobody.
    Deny,
    /// Processes of this host, over loopback.
    Loopback,
    /// Anybody.
    Allow,
}

impl Word for Inbound {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("deny", Self::Deny),
        ("loopback", Self::Loopback),
        ("allow", Self::Allow),
    ];
}

/// `[network]`: what the kernel half does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Network {
    /// Connections that do not go to the gateway. Default: redirect.
    pub direct: Direct,
    /// Connections to the agent. Default: deny.
    pub inbound: Inbound,
    /// TCP ports on 127.0.0.1 and ::1 that the agent may reach beside the gateway's, ascending,
    /// at most [`gateway_common::LOOPBACK_PORTS_MAX`]. Default: none.
    pub loopback: Vec<u16>,
    /// The agent reaches its own TCP listeners on loopback. Default: no.
    pub own_loopback: bool,
    /// Unix sockets that the agent may reach. Default: none.
    pub unix: UnixSockets,
}

/// `unix` of `[network]`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct UnixSockets {
    /// Every one.
    pub any: bool,
    /// Those that the agent itself made, which takes BPF-LSM.
    pub own: bool,
    /// Absolute paths, and abstract names behind an `@`; at most
    /// [`gateway_common::unix::UNIX_NAMES_MAX`].
    pub names: Vec<String>,
}

/// Most paths of each list in `[process]`.
pub(super) const PLACES_MAX: usize = 64;

/// `[process]`: what the launcher leaves to the agent's processes. Everything is closed by
/// default; what is opened here is named in the assurance level.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ProcessPolicy {
    /// Its processes may trace one another (debuggers). Default: no.
    pub ptrace: bool,
    /// It may make user namespaces and what lives in them. Default: no.
    pub user_namespaces: bool,
    /// It may use `io_uring`. Default: no.
    pub io_uring: bool,
    /// Paths of devices that the agent may open beside terminals, randomness, `/dev/null` and its
    /// like; at most [`gateway_common::agent::DEVICES_MAX`]. Default: none.
    pub devices: Vec<String>,
    /// Paths below `/run` that stay in sight. Default: none.
    pub run: Vec<PathBuf>,
    /// Places it may read and execute below; none leaves it to file permissions.
    pub read: Option<Vec<PathBuf>>,
    /// Places it may write below; none leaves it to file permissions.
    pub write: Option<Vec<PathBuf>>,
}

/// Which names the gateway's resolver answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsMode {
    /// Those that some rule could allow.
    PolicyNames,
    /// None.
    Off,
    /// All.
    Any,
}

impl Word for DnsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("policy-names", Self::PolicyNames),
        ("off", Self::Off),
        ("any", Self::Any),
    ];
}

/// `[dns]`: which questions are answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Which names. Default: those that some rule could allow.
    pub mode: DnsMode,
    /// Record types that are refused for every name. Default: [`Dns::DENY_TYPES`].
    pub deny_types: Vec<u16>,
    /// Record types besides which none is answered. Default: all that are not refused.
    pub allow_types: Option<Vec<u16>>,
    /// Octets of the longest label that is asked for. Default: 63.
    pub max_label: u8,
    /// Octets of the longest name that is asked for. Default: 253.
    pub max_name: u8,
    /// Thousandths of a bit for each octet that a long label may have. Default: any.
    pub entropy: Option<u16>,
    /// Questions that the agent may ask. Default: no limit.
    pub rate: Option<Rate>,
}

impl Dns {
    /// TXT, NULL and ANY carry data best; AXFR and IXFR carry whole zones.
    pub const DENY_TYPES: [u16; 5] = [16, 10, 255, 252, 251];
}

/// `[upstream]`: how the gateway reaches what it dials.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Upstream {
    /// Names with fixed addresses, which are not looked up. Never an empty list.
    pub resolve: HashMap<HostName, Vec<IpAddr>>,
    /// Roots that certificates may lead to, beside the system's.
    pub trust: Vec<CertificateDer<'static>>,
    /// Certificates that are shown to upstreams that ask; for a host, the first that names it.
    pub client: Vec<Arc<ClientCertificate>>,
    /// The proxy that connections go through. Default: none.
    pub proxy: Option<UpstreamProxy>,
}

impl Upstream {
    /// The certificate that this host is shown, if it asks.
    #[must_use]
    pub fn client_for(&self, host: &Host) -> Option<&Arc<ClientCertificate>> {
        let shown = |it: &&Arc<ClientCertificate>| it.hosts.iter().any(|hosts| hosts.covers(host));
        self.client.iter().find(shown)
    }
}

/// `[[upstream.client]]`: who the gateway is to some upstreams.
#[derive(PartialEq, Eq)]
pub struct ClientCertificate {
    /// Hosts that it is shown to.
    pub hosts: Vec<HostPattern>,
    /// The certificate, with its chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// `proxy` and `no_proxy` of `[upstream]`: an HTTP proxy that takes CONNECT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamProxy {
    /// Its host.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Hosts that are reached without it.
    pub without: Vec<HostPattern>,
}

impl UpstreamProxy {
    /// Whether connections to this host go through it.
    #[must_use]
    pub fn takes(&self, host: &Host) -> bool {
        !self.without.iter().any(|hosts| hosts.covers(host))
    }
}

/// The number of a DNS record type, by its name or as `TYPE65`.
#[must_use]
pub(super) fn record_type(text: &str) -> Option<u16> {
    if let Some(number) = text.strip_prefix("TYPE") {
        return number.parse().ok();
    }
    // The one that hickory has a number for, but no name.
    if text == "IXFR" {
        return Some(RecordType::IXFR.into());
    }
    RecordType::from_str(text).ok().map(u16::from)
}
