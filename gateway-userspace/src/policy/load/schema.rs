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
const NO_LIMITS: &str = "delete it; nothing counts tokens yet";
const NO_CREDENTIALS: &str = "delete it; the agent must bring its own credentials for now";

/// The file.
pub(super) static ROOT: Table = Table {
    what: "key or section",
    keys: &[
        built("schema", "schema = 1"),
        built("agent", "agent = \"support-bot\""),
        built("mode", "mode = \"enforce\""),
        built("assurance", "assurance = \"confined\""),
        built("inspect", "inspect = \"auto\""),
        built("network", "[network]"),
        built("process", "[process]"),
        built("dns", "[dns]"),
        built("egress", "[[egress]]"),
        built("upstream", "[upstream]"),
        built("bind", "[bind]"),
        built("mcp", "[[mcp]]"),
        later("llm", AS_EGRESS),
        later("dlp", "delete it; nothing looks into what is sent yet"),
        built("limit", "[limit]"),
        later("loop", "delete it; nothing looks for repeated calls yet"),
        later(
            "scope",
            "delete it; what an agent does for the first time is not noticed yet",
        ),
        later("credential", NO_CREDENTIALS),
        built("test", "[[test]]"),
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
        built("allow_types", "allow_types = [\"A\", \"AAAA\"]"),
        built("max_label", "max_label = 40"),
        built("max_name", "max_name = 120"),
        built("entropy", "entropy = 4.0"),
        built("rate", "rate = \"30/s\""),
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
        built("inspect", "inspect = \"never\""),
        built("mode", "mode = \"observe\""),
        later("credential", NO_CREDENTIALS),
        built("limit", "limit = \"60/min\""),
        later("budget", NO_LIMITS),
        built("when", "when = 'http.path.startsWith(\"/v1/\")'"),
        built("websocket", "websocket = false"),
        built("action", "action = \"deny\""),
        later(
            "approval",
            "delete the rule: what no rule allows is refused",
        ),
    ],
};

/// `[[mcp]]`.
pub(super) static MCP: Table = Table {
    what: "key of [[mcp]]",
    keys: &[
        built("id", "id = \"tickets\""),
        built("server", "server = \"https://mcp.example.com/mcp\""),
        built("tools", "tools = [\"search_*\", \"refund\"]"),
        built("prompts", "prompts = [\"summary\"]"),
        built("resources", "resources = [\"file:///srv/docs/*\"]"),
        built("methods", "methods = [\"tools/list\"]"),
        built("private", "private = true"),
        built("mode", "mode = \"observe\""),
        built("limit", "limit = \"60/min\""),
        built(
            "when",
            "when = 'mcp.tool != \"refund\" || mcp.args.amount <= 100'",
        ),
        built("action", "action = \"deny\""),
        built("pin_definitions", "pin_definitions = true"),
        later("credential", NO_CREDENTIALS),
        later(
            "approval",
            "delete it; nothing can ask a human yet, and `action = \"approve\"` refuses",
        ),
    ],
};

/// `[bind]`.
pub(super) static BIND: Table = Table {
    what: "key of [bind]",
    keys: &[
        built("systemd", "systemd = [\"support-bot@*.service\"]"),
        built("cgroup", "cgroup = [\"/agents.slice/support-*\"]"),
        built("kubernetes", "kubernetes = { namespace = \"agents\" }"),
    ],
};

/// `kubernetes` of `[bind]`.
pub(super) static KUBERNETES: Table = Table {
    what: "key of `kubernetes`",
    keys: &[
        built("namespace", "namespace = \"agents\""),
        built("labels", "labels = { app = \"support-bot\" }"),
    ],
};

/// `[limit]`.
pub(super) static LIMIT: Table = Table {
    what: "key of [limit]",
    keys: &[
        built("requests", "requests = \"300/min\""),
        later(
            "connections",
            "delete it; the gateway has a limit of its own",
        ),
        later("bytes_out", "delete it; nothing limits bytes yet"),
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
        built("trust", "trust = [\"acme-ca.pem\"]"),
        built("proxy", "proxy = \"http://proxy.example.com:3128\""),
        built("no_proxy", "no_proxy = [\"git.example.com\"]"),
        built("client", "[[upstream.client]]"),
    ],
};

/// `[[upstream.client]]`.
pub(super) static CLIENT: Table = Table {
    what: "key of [[upstream.client]]",
    keys: &[
        built("hosts", "hosts = [\"partner.example.com\"]"),
        built("certificate", "certificate = \"client.pem\""),
        built("key", "key = \"client.key\""),
    ],
};

/// `[[test]]`.
pub(super) static TEST: Table = Table {
    what: "key of [[test]]",
    keys: &[
        built("name", "name = \"reads pass\""),
        built("input", "input = { http = \"https://api.example.com/\" }"),
        built("expect", "expect = { action = \"allow\" }"),
    ],
};

/// `input` of `[[test]]`.
pub(super) static INPUT: Table = Table {
    what: "key of `input`",
    keys: &[
        built("http", "http = \"https://api.example.com/\""),
        built(
            "mcp",
            "mcp = { tool = \"refund\", args = { amount = 500 } }",
        ),
        built("connect", "connect = \"api.example.com:443\""),
        built("tls", "tls = \"api.example.com:443\""),
        built("tcp", "tcp = \"192.0.2.7:5432\""),
        built("dns", "dns = \"api.example.com\""),
    ],
};

/// `expect` of `[[test]]`.
pub(super) static EXPECT: Table = Table {
    what: "key of `expect`",
    keys: &[
        built("action", "action = \"allow\""),
        built("rule", "rule = \"github-read\""),
        built("reason", "reason = \"path_not_allowed\""),
    ],
};

static INPUT_HTTP: Table = Table {
    what: "key of `http`",
    keys: &[
        built("url", "url = \"https://api.example.com/\""),
        built("method", "method = \"POST\""),
        built("headers", "headers = { accept = \"application/json\" }"),
        built("json", "json = { amount = 100 }"),
        built("body_size", "body_size = 1000"),
        built("websocket", "websocket = true"),
    ],
};

static INPUT_MCP: Table = Table {
    what: "key of `mcp`",
    keys: &[
        built("server", "server = \"https://mcp.example.com/mcp\""),
        built("method", "method = \"tools/list\""),
        built("tool", "tool = \"refund\""),
        built("prompt", "prompt = \"summary\""),
        built("resource", "resource = \"file:///srv/docs/a.md\""),
        built("args", "args = { amount = 500 }"),
    ],
};

static INPUT_PLACE: Table = Table {
    what: "key of `input`",
    keys: &[built("to", "to = \"api.example.com:443\"")],
};

static INPUT_TCP: Table = Table {
    what: "key of `tcp`",
    keys: &[
        built("to", "to = \"192.0.2.7:5432\""),
        built("names", "names = [\"db.example.com\"]"),
    ],
};

static INPUT_DNS: Table = Table {
    what: "key of `dns`",
    keys: &[
        built("name", "name = \"api.example.com\""),
        built("type", "type = \"AAAA\""),
    ],
};

/// What a request in `input` says, by its key.
pub(super) fn input(key: &str) -> &'static Table {
    match key {
        "mcp" => &INPUT_MCP,
        "tcp" => &INPUT_TCP,
        "dns" => &INPUT_DNS,
        "connect" | "tls" => &INPUT_PLACE,
        _http => &INPUT_HTTP,
    }
}
