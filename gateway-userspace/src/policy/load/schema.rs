//! Every key that a policy file may have or will have, and what to say about it.

/// A table of the file.
pub(in crate::policy) struct Table {
    /// What an entry is called.
    pub(super) what: &'static str,
    /// Its entries.
    pub(super) keys: &'static [Key],
}

/// A key of a table.
pub(in crate::policy) struct Key {
    /// As written.
    pub(super) name: &'static str,
    /// Whether this version carries it out.
    pub(super) state: State,
}

/// Whether a key is carried out.
#[derive(Clone, Copy)]
pub(in crate::policy) enum State {
    /// It is; this is what it looks like.
    Built(&'static str),
    /// A later version will; this is what to do until then.
    NotBuilt(&'static str),
}

const fn built(name: &'static str, example: &'static str) -> Key {
    Key {
        name,
        state: State::Built(example),
    }
}

const fn later(name: &'static str, instead: &'static str) -> Key {
    Key {
        name,
        state: State::NotBuilt(instead),
    }
}

const AS_EGRESS: &str =
    "delete it; the host can be allowed by an [[egress]] rule, whose TLS is relayed unopened";
const NO_LIMITS: &str = "delete it; nothing counts requests, bytes or tokens yet";
const NO_CREDENTIALS: &str = "delete it; the agent must bring its own credentials for now";

/// The file.
pub(super) static ROOT: Table = Table {
    what: "key or section",
    keys: &[
        built("schema", "schema = 1"),
        built("agent", "agent = \"support-bot\""),
        built("mode", "mode = \"enforce\""),
        built("assurance", "assurance = \"confined\""),
        built("network", "[network]"),
        built("process", "[process]"),
        built("dns", "[dns]"),
        built("egress", "[[egress]]"),
        built("upstream", "[upstream]"),
        later(
            "bind",
            "delete it, and name the policy with `sluice run --policy`",
        ),
        later("mcp", AS_EGRESS),
        later("llm", AS_EGRESS),
        later("dlp", "delete it; nothing looks into what is sent yet"),
        later("limit", NO_LIMITS),
        later("loop", "delete it; nothing looks for repeated calls yet"),
        later(
            "scope",
            "delete it; what an agent does for the first time is not noticed yet",
        ),
        later("credential", NO_CREDENTIALS),
        later("test", "delete it, and ask `sluice policy explain` for now"),
    ],
};

/// `[network]`.
pub(super) static NETWORK: Table = Table {
    what: "key of [network]",
    keys: &[
        built("direct", "direct = \"redirect\""),
        built("inbound", "inbound = \"deny\""),
        built("loopback", "loopback = [\"self\", 9229]"),
        built("unix", "unix = [\"/run/docker.sock\"]"),
    ],
};

/// `[process]`.
pub(super) static PROCESS: Table = Table {
    what: "key of [process]",
    keys: &[
        built("ptrace", "ptrace = true"),
        built("user_namespaces", "user_namespaces = true"),
        built("io_uring", "io_uring = true"),
        built("devices", "devices = [\"/dev/nvidia0\"]"),
        built("run", "run = [\"/run/secrets\"]"),
        built("read", "read = [\"/usr\", \"/srv/work\"]"),
        built("write", "write = [\"/srv/work\"]"),
    ],
};

/// `[dns]`.
pub(super) static DNS: Table = Table {
    what: "key of [dns]",
    keys: &[
        built("mode", "mode = \"policy-names\""),
        built("deny_types", "deny_types = [\"TXT\", \"NULL\", \"ANY\"]"),
    ],
};

/// `[[egress]]`.
pub(super) static EGRESS: Table = Table {
    what: "key of [[egress]]",
    keys: &[
        built("id", "id = \"github-read\""),
        built("hosts", "hosts = [\"api.github.com\"]"),
        built("ports", "ports = [80, 443]"),
        built("methods", "methods = [\"GET\", \"HEAD\"]"),
        built("paths", "paths = [\"/repos/acme/**\"]"),
        built("tcp", "tcp = [\"db.example.com:5432\"]"),
        built("private", "private = true"),
        later(
            "mode",
            "delete it; `mode = \"observe\"` is for the policy as a whole",
        ),
        later("credential", NO_CREDENTIALS),
        later("limit", NO_LIMITS),
        later("budget", NO_LIMITS),
        later(
            "when",
            "delete it, or delete the rule if it must not hold without the condition",
        ),
        later(
            "action",
            "delete the rule if it refuses or asks: what no rule allows is refused",
        ),
        later(
            "approval",
            "delete the rule: what no rule allows is refused",
        ),
    ],
};

/// `[upstream]`.
pub(super) static UPSTREAM: Table = Table {
    what: "key of [upstream]",
    keys: &[
        built(
            "resolve",
            "resolve = { \"db.example.com\" = \"192.0.2.7\" }",
        ),
        later(
            "trust",
            "delete it; TLS is relayed unopened, so the agent itself checks certificates",
        ),
    ],
};
