//! What can be wrong with a policy file, and the mend for each.

use super::{
    carry::NoFile, condition::BadCondition, host_pattern::BadPattern, path_pattern::BadPath,
    query::BadQuery, rate::BadRate,
};
use crate::names::{BadHost, BadName};

/// Bytes of the largest policy file.
pub(super) const FILE_MAX: usize = 4 << 20;
/// Rules of the largest policy.
pub(super) const RULES_MAX: usize = 10_000;

/// Whether a fault keeps the policy from being used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It does.
    Error,
    /// The policy works; something in it is likely not meant so.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// The file is larger than a policy may be.
    #[error("larger than {} MiB", FILE_MAX >> 20)]
    TooLarge,
    /// Not UTF-8.
    #[error("not UTF-8 text")]
    NotUtf8,
    /// A character that makes the text read differently than it is.
    #[error("hidden character U+{:04X}", *.0 as u32)]
    Hidden(char),
    /// Not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A value of another type.
    #[error("`{key}`: {message}")]
    Type {
        /// The key.
        key: &'static str,
        /// What the reader says.
        message: String,
        /// What it should look like.
        example: &'static str,
    },
    /// A key that must be there is not.
    #[error("`{key}` is missing")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it should look like.
        example: &'static str,
    },
    /// A key or section that no version knows.
    #[error("unknown {what} `{name}`")]
    Unknown {
        /// Key or section.
        what: &'static str,
        /// As written.
        name: String,
        /// What was probably meant.
        meant: Option<&'static str>,
        /// What there is.
        known: String,
    },
    /// A key or section that a later version will know.
    #[error("`{name}` is not built yet")]
    NotBuilt {
        /// As written.
        name: String,
        /// What to do until then.
        instead: &'static str,
    },
    /// A file format of another version.
    #[error("schema {0} is unknown to this version")]
    Schema(i64),
    /// No name of an agent or rule.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A word that is none of those allowed.
    #[error("`{found}` is not a value of `{key}`")]
    Word {
        /// The key.
        key: &'static str,
        /// As written.
        found: String,
        /// What is allowed.
        allowed: String,
        /// What was probably meant.
        meant: Option<&'static str>,
    },
    /// Two rules of one name.
    #[error("rule `{0}` is there twice")]
    DuplicateId(String),
    /// A list without entries.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// The same entry twice.
    #[error("`{entry}` is in `{key}` twice")]
    DuplicateEntry {
        /// The key.
        key: &'static str,
        /// The entry.
        entry: String,
    },
    /// More rules than a policy may have.
    #[error("more than {RULES_MAX} rules")]
    TooManyRules,
    /// No path that means one place only.
    #[error("`{text}` in `{key}` {why}")]
    Place {
        /// The key.
        key: &'static str,
        /// As written.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More paths than a list may have.
    #[error("more than {} paths in `{_0}`", super::settings::PLACES_MAX)]
    TooManyPlaces(&'static str),
    /// No port.
    #[error("{0} is not a port")]
    Port(String),
    /// More local ports than the kernel half has room for.
    #[error("more than {} ports in `loopback`", gateway_common::LOOPBACK_PORTS_MAX)]
    TooManyLoopback,
    /// What names no device.
    #[error("`{0}` names no device")]
    DevicePath(String),
    /// More devices than the kernel half has room for.
    #[error(
        "more than {} devices in `devices`",
        gateway_common::agent::DEVICES_MAX
    )]
    TooManyDevices,
    /// What names no unix socket.
    #[error("`{0}` names no unix socket")]
    UnixName(String),
    /// More unix sockets than the kernel half has room for.
    #[error("more than {} sockets in `unix`", gateway_common::unix::UNIX_NAMES_MAX)]
    TooManyUnix,
    /// All sockets, and others beside them.
    #[error("`unix` says \"any\" and names others beside it")]
    UnixAny,
    /// A rule that says nothing about where to.
    #[error("the rule has neither `hosts` nor `tcp`")]
    NoTarget,
    /// A rule that mixes HTTP and raw TCP.
    #[error("the rule has both `hosts` and `tcp`")]
    TwoTargets,
    /// A key that means nothing for raw TCP.
    #[error("`{0}` in a rule over raw TCP")]
    NotForTcp(&'static str),
    /// A key that means nothing in a rule that refuses.
    #[error("`{0}` in a rule that refuses")]
    NotForDeny(&'static str),
    /// Whether WebSocket is open, in a rule that opens nothing.
    #[error("`websocket` in a rule that does not allow")]
    NotForRefusing,
    /// No condition.
    #[error("{0}")]
    Condition(BadCondition),
    /// No host pattern.
    #[error("`{text}`: {bad}")]
    Host {
        /// As written.
        text: String,
        /// Why.
        bad: BadPattern,
    },
    /// No `host:port`.
    #[error("`{0}` is not a host with a port")]
    HostPort(String),
    /// No URL of an MCP server.
    #[error("`{0}` is not the URL of an MCP server")]
    McpServer(String),
    /// An MCP server in TLS that is never opened.
    #[error("an MCP server in TLS, which is never opened")]
    HiddenServer,
    /// No name of a call.
    #[error("`{0}` is not the name of a tool, prompt, resource or method")]
    CallName(String),
    /// No HTTP method.
    #[error("`{0}` is not an HTTP method")]
    Method(String),
    /// A method that no rule can list.
    #[error("CONNECT is decided on host and port alone")]
    MethodConnect,
    /// No path pattern.
    #[error("`{text}`: {bad}")]
    Path {
        /// As written.
        text: String,
        /// Why.
        bad: BadPath,
    },
    /// Methods or paths where TLS hides them.
    #[error("`{0}` needs `ports`: the default has 443, where TLS hides it and is never opened")]
    HiddenByDefault(&'static str),
    /// Methods or paths on port 443.
    #[error("port 443 in a rule with `{0}`, which TLS hides and is never opened")]
    HiddenByTls(&'static str),
    /// An address that can never be reached.
    #[error("{0} is not a public address")]
    NotPublic(std::net::IpAddr),
    /// An address that no connection goes to.
    #[error("{0} is no address that a connection can go to")]
    NoDestination(std::net::IpAddr),
    /// No DNS record type.
    #[error("`{0}` is not a DNS record type")]
    RecordType(String),
    /// No name to give addresses to.
    #[error("`{text}`: {bad}")]
    StaticName {
        /// As written.
        text: String,
        /// Why.
        bad: BadHost,
    },
    /// No address.
    #[error("`{0}` is not an address")]
    StaticAddress(String),
    /// What names nothing that a policy could be for.
    #[error("`{text}` in `{key}` names nothing that a policy is for")]
    Bound {
        /// The key.
        key: &'static str,
        /// As written.
        text: String,
    },
    /// More entries than a list may have.
    #[error("more than 256 entries in `{0}`")]
    TooManyBound(&'static str),
    /// A number beyond what it limits.
    #[error("`{key}` is not above 0 and at most {most}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// The largest.
        most: u8,
    },
    /// No rate.
    #[error("`{found}`: {bad}")]
    Rate {
        /// As written.
        found: String,
        /// Why.
        bad: BadRate,
    },
    /// A file of certificates that cannot be read.
    #[error("`{file}`: {why}")]
    TrustFile {
        /// As written.
        file: String,
        /// Why.
        why: NoFile,
    },
    /// A file without certificates.
    #[error("no certificate in `{0}`")]
    TrustEmpty(String),
    /// A file with something that is no certificate.
    #[error("`{file}`: {why}")]
    TrustPem {
        /// As written.
        file: String,
        /// Why.
        why: String,
    },
    /// A file without a private key.
    #[error("no private key in `key`")]
    ClientKey,
    /// No proxy.
    #[error("`{0}` is not a proxy")]
    Proxy(String),
    /// Exceptions from nothing.
    #[error("`no_proxy` without `proxy`")]
    NoProxyAlone,
    /// A rule that never decides anything.
    #[error("rule `{rule}` never decides: rule `{by}` {how}")]
    Shadowed {
        /// The rule.
        rule: String,
        /// The last of those that cover it.
        by: String,
        /// What that one does.
        how: &'static str,
    },
    /// More tests than a policy may have.
    #[error("more than {RULES_MAX} tests")]
    TooManyTests,
    /// A test that asks nothing, or several things.
    #[error("none or several of `http`, `mcp`, `connect`, `tls`, `tcp`, `dns`")]
    TestInput,
    /// A test that calls nothing, or several things.
    #[error("`mcp` says not one thing that is called")]
    TestCall,
    /// A test of a call on nobody knows which server.
    #[error("`mcp` names no server, and the policy has not one alone")]
    TestServer,
    /// A test that asks what is no request.
    #[error(transparent)]
    Query(BadQuery),
    /// A test that names a rule which is not there.
    #[error("there is no rule `{0}`")]
    TestRule(String),
    /// A test that expects a reason of what is allowed.
    #[error("what is allowed is allowed for no reason")]
    TestReason,
    /// A static name that no rule uses.
    #[error("no rule allows `{0}`, so its addresses are never used")]
    StaticUnused(String),
}

impl Fault {
    /// Whether it keeps the policy from being used.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Shadowed { .. } | Self::StaticUnused(_) => Severity::Warning,
            Self::Unreadable(_)
            | Self::TooLarge
            | Self::NotUtf8
            | Self::Hidden(_)
            | Self::Syntax(_)
            | Self::Type { .. }
            | Self::Missing { .. }
            | Self::Unknown { .. }
            | Self::NotBuilt { .. }
            | Self::Schema(_)
            | Self::Name(_)
            | Self::Word { .. }
            | Self::DuplicateId(_)
            | Self::Empty(_)
            | Self::DuplicateEntry { .. }
            | Self::TooManyRules
            | Self::Port(_)
            | Self::TooManyLoopback
            | Self::DevicePath(_)
            | Self::TooManyDevices
            | Self::UnixName(_)
            | Self::TooManyUnix
            | Self::UnixAny
            | Self::Place { .. }
            | Self::TooManyPlaces(_)
            | Self::NoTarget
            | Self::TwoTargets
            | Self::NotForTcp(_)
            | Self::NotForDeny(_)
            | Self::NotForRefusing
            | Self::Condition(_)
            | Self::Host { .. }
            | Self::HostPort(_)
            | Self::McpServer(_)
            | Self::HiddenServer
            | Self::CallName(_)
            | Self::Method(_)
            | Self::MethodConnect
            | Self::Path { .. }
            | Self::HiddenByDefault(_)
            | Self::HiddenByTls(_)
            | Self::NotPublic(_)
            | Self::NoDestination(_)
            | Self::RecordType(_)
            | Self::StaticName { .. }
            | Self::StaticAddress(_)
            | Self::Bound { .. }
            | Self::TooManyBound(_)
            | Self::OutOfRange { .. }
            | Self::Rate { .. }
            | Self::TrustFile { .. }
            | Self::TrustEmpty(_)
            | Self::TrustPem { .. }
            | Self::ClientKey
            | Self::Proxy(_)
            | Self::NoProxyAlone
            | Self::TooManyTests
            | Self::TestInput
            | Self::TestCall
            | Self::TestServer
            | Self::Query(_)
            | Self::TestRule(_)
            | Self::TestReason => Severity::Error,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> String {
        let text = match self {
            Self::Unreadable(_) => "check the path and who may read it",
            Self::TooLarge => "split the agent's work among several agents, or use wildcards",
            Self::NotUtf8 => "save the file as UTF-8",
            Self::Hidden(_) => "delete it: what is read and what is meant must be the same",
            Self::Syntax(_) => {
                "see https://toml.io/en/v1.0.0; strings are in quotes, lists in brackets"
            }
            Self::Type { example, .. } => return format!("write it as in `{example}`"),
            Self::Missing { example, .. } => return format!("add a line such as `{example}`"),
            Self::Unknown { meant, known, .. } => {
                return meant.map_or_else(
                    || format!("there are: {known}"),
                    |meant| format!("did you mean `{meant}`?"),
                );
            }
            Self::NotBuilt { instead, .. } => instead,
            Self::Schema(_) => {
                "write `schema = 1`, or use the version of sluice that the file is for"
            }
            Self::Name(_) => "use small letters and dashes, as in `github-read`",
            Self::Word { allowed, meant, .. } => {
                return meant.map_or_else(
                    || format!("write one of: {allowed}"),
                    |meant| format!("did you mean \"{meant}\"?"),
                );
            }
            Self::DuplicateId(_) => {
                "give each rule a name of its own: records refer to rules by it"
            }
            Self::Empty(_) => "list something, or leave the key out",
            Self::DuplicateEntry { .. } => "keep one of them",
            Self::TooManyRules => {
                "put hosts that are allowed the same into one rule, or use wildcards"
            }
            Self::Port(_) => "ports go from 1 to 65535",
            Self::Place { .. } => "write a path from the root without `..`, e.g. \"/srv/work\"",
            Self::TooManyPlaces(_) => "name the folders that hold them instead",
            Self::TooManyLoopback => {
                "list only the ports that the agent needs; each is a way past the gateway"
            }
            Self::DevicePath(_) => "write the path of a node, such as \"/dev/nvidia0\"",
            Self::TooManyDevices => "name only the devices that the agent needs",
            Self::UnixName(_) => {
                "write an absolute path without `.`, `..` and `//`, of at most 107 bytes, or an \
                 abstract name behind an `@`, or \"self\", or \"any\""
            }
            Self::TooManyUnix => "name only the sockets that the agent needs",
            Self::UnixAny => "delete the others, or better: delete \"any\"",
            Self::NoTarget => {
                "add `hosts = [\"api.example.com\"]` for HTTP and TLS, or `tcp = [\"db.example.com:5432\"]`"
            }
            Self::TwoTargets => "make two rules of it",
            Self::NotForTcp(_) => {
                "leave it out: `tcp` entries carry their port, and nobody reads what goes through"
            }
            Self::NotForDeny(_) => "leave it out: the rule opens nothing",
            Self::NotForRefusing => {
                "write `when = 'http.websocket'` if it is about WebSocket alone"
            }
            Self::Condition(bad) => return bad.mend(),
            Self::Host { bad, .. } => return bad.mend(),
            Self::HostPort(_) => {
                "write \"db.example.com:5432\", \"192.0.2.7:5432\" or \"[2001:db8::7]:5432\""
            }
            Self::McpServer(_) => {
                "write it in full, as in \"https://mcp.example.com/mcp\", without user, fragment, dot segments, `//` and `;`"
            }
            Self::HiddenServer => "have TLS opened with `inspect = \"auto\"`",
            Self::CallName(_) => {
                "write 1 to 256 characters, with `*` for any text, as in \"search_*\""
            }
            Self::Method(_) => "write methods in capitals, as in `methods = [\"GET\", \"HEAD\"]`",
            Self::MethodConnect => {
                "leave it out: a rule that allows host and port allows CONNECT to it"
            }
            Self::Path { bad, .. } => bad.mend(),
            Self::HiddenByDefault(_) => {
                "add `ports = [80]`, or have TLS opened with `inspect = \"auto\"`"
            }
            Self::HiddenByTls(_) => "leave 443 out, or have TLS opened with `inspect = \"auto\"`",
            Self::NotPublic(_) => "add `private = true` if the agent is meant to reach it",
            Self::NoDestination(_) => "write the address of a host",
            Self::RecordType(_) => {
                "write its name, as in `deny_types = [\"TXT\", \"NULL\"]`, or its number, as in \"TYPE65\""
            }
            Self::StaticName { .. } => "write a DNS name on the left",
            Self::StaticAddress(_) => {
                "write an address, as in `resolve = { \"db.example.com\" = \"192.0.2.7\" }`"
            }
            Self::Bound { .. } => {
                "write it as in `systemd = [\"bot@*.service\"]`, `cgroup = [\"/agents.slice/bot-*\"]`, `kubernetes = { namespace = \"agents\", labels = { app = \"bot\" } }`"
            }
            Self::TooManyBound(_) => "use a pattern that covers several",
            Self::OutOfRange { .. } => "write a smaller number that is not 0, or leave the key out",
            Self::Rate { .. } => "write it as in \"60/min\"",
            Self::TrustFile { .. } => "write a path from the folder of the policy",
            Self::TrustEmpty(_) | Self::TrustPem { .. } => {
                "write a file of PEM certificates: `-----BEGIN CERTIFICATE-----` and so on"
            }
            Self::ClientKey => "write a file of a PEM key: `-----BEGIN PRIVATE KEY-----` and so on",
            Self::Proxy(_) => "write host and port alone, as in \"http://proxy.example.com:3128\"",
            Self::NoProxyAlone => "delete it, or add `proxy`",
            Self::TooManyTests => "keep those that differ in what the policy says",
            Self::TestCall => "write one of `tool`, `prompt`, `resource` and `method`",
            Self::TestServer => "add `server = \"https://mcp.example.com/mcp\"`",
            Self::TestInput => "ask one thing: `input = { http = \"https://api.example.com/\" }`",
            Self::Query(_) => {
                "write it as in `http = \"https://api.example.com/\"` or `connect = \"api.example.com:443\"`"
            }
            Self::TestRule(_) => "write the `id` of a rule in this file",
            Self::TestReason => "leave `reason` out, or expect \"deny\"",
            Self::Shadowed { .. } => {
                "delete it, or move it before the other if it should be the one in the records"
            }
            Self::StaticUnused(_) => "delete it, or add a rule that allows the name",
        };
        text.into()
    }
}
