//! The JSON Schema of a policy file, made from the tables of [`schema`]: what the
//! loader knows as a key, the schema has, and nothing else.

use serde_json::{Map, Value, json};

use super::{
    mcp::OnChange,
    schema::{
        self, BIND, CLIENT, DNS, EGRESS, EXPECT, INPUT, KUBERNETES, LIMIT, MCP, NETWORK, PROCESS,
        ROOT, State, TEST, Table, UPSTREAM,
    },
};
use crate::{
    identity::Assurance,
    policy::{Action, DenyReason, Direct, DnsMode, Inbound, Inspect, Mode, settings::Word},
};

/// What values a key takes.
#[derive(Clone, Copy)]
enum Form {
    /// A text.
    Text,
    /// `true` or `false`.
    Switch,
    /// This number alone.
    Exactly(i64),
    /// A number that is not negative.
    Count,
    /// The same, with a fraction.
    Number,
    /// Texts.
    Texts,
    /// Ports.
    Ports,
    /// Ports, and words that stand for some.
    PortsOr(&'static str),
    /// One of these words, the first if it is not there.
    Word(fn() -> Vec<&'static str>),
    /// The same, without a default.
    Choice(fn() -> Vec<&'static str>),
    /// Names, each with an address or several.
    Addresses,
    /// Names, each with a text.
    Pairs,
    /// Anything.
    Any,
    /// A table.
    Table(&'static Forms),
    /// Tables.
    Tables(&'static Forms),
    /// A text, or a table that says more.
    TextOr(&'static Forms),
    /// `true`, `false`, or one of these words.
    SwitchOr(fn() -> Vec<&'static str>),
}

/// The forms of a table's keys, each with what it means.
struct Forms {
    table: fn() -> &'static Table,
    keys: &'static [(&'static str, Form, &'static str)],
    required: &'static [&'static str],
    /// Keys of which exactly one must be there.
    one_of: &'static [&'static str],
}

fn words<T: Word>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

/// The schema of the whole file (2020-12).
pub(in crate::policy) fn document() -> Value {
    let Value::Object(mut root) = object(&ROOT_FORMS) else {
        return Value::Null;
    };
    root.insert(
        "$schema".to_owned(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    root.insert("title".to_owned(), "Sluice policy".into());
    root.insert(
        "description".to_owned(),
        "Who an agent is, what its boundary looks like, and what it may reach.".into(),
    );
    Value::Object(root)
}

fn object(forms: &Forms) -> Value {
    let mut properties = Map::new();
    for key in (forms.table)().keys {
        let State::Built(example) = key.state else {
            continue;
        };
        let known = forms.keys.iter().find(|(name, ..)| *name == key.name);
        let mut property = match known {
            Some((_, form, meaning)) => {
                let mut property = form.value();
                if let Some(property) = property.as_object_mut() {
                    property.insert("description".to_owned(), (*meaning).into());
                }
                property
            }
            // A test asks for a form; until there is one, the example tells the type.
            None => like(key.name, example),
        };
        if let (Some(property), Some(example)) =
            (property.as_object_mut(), value_of(key.name, example))
        {
            property.insert("examples".to_owned(), json!([example]));
        }
        properties.insert(key.name.to_owned(), property);
    }
    let mut object = Map::new();
    object.insert("type".to_owned(), "object".into());
    object.insert("properties".to_owned(), properties.into());
    object.insert("additionalProperties".to_owned(), false.into());
    if !forms.required.is_empty() {
        object.insert("required".to_owned(), json!(forms.required));
    }
    if !forms.one_of.is_empty() {
        let each = forms.one_of.iter().map(|key| json!({ "required": [key] }));
        object.insert("oneOf".to_owned(), each.collect());
    }
    Value::Object(object)
}

impl Form {
    fn value(self) -> Value {
        // The loader refuses further values, such as those that are there twice: what it takes, this
        // takes.
        let port = || json!({ "type": "integer", "minimum": 1, "maximum": 65535 });
        let text = || json!({ "type": "string" });
        let list = |items: Value| json!({ "type": "array", "items": items });
        match self {
            Self::Text => text(),
            Self::Switch => json!({ "type": "boolean" }),
            Self::SwitchOr(words) => {
                json!({ "anyOf": [{ "type": "boolean" }, { "enum": words() }] })
            }
            Self::Exactly(number) => json!({ "const": number, "type": "integer" }),
            Self::Count => json!({ "type": "integer", "minimum": 0 }),
            Self::Number => json!({ "type": "number", "minimum": 0 }),
            Self::Texts => list(text()),
            Self::Ports => list(port()),
            Self::PortsOr(word) => list(json!({ "anyOf": [port(), { "const": word }] })),
            Self::Word(words) => {
                let words = words();
                json!({ "type": "string", "enum": words, "default": words.first() })
            }
            Self::Choice(words) => json!({ "type": "string", "enum": words() }),
            Self::Addresses => json!({
                "type": "object",
                "additionalProperties": {
                    "anyOf": [text(), { "type": "array", "items": text(), "minItems": 1 }],
                },
            }),
            Self::Pairs => json!({ "type": "object", "additionalProperties": text() }),
            Self::Any => json!({}),
            Self::Table(forms) => object(forms),
            Self::Tables(forms) => json!({ "type": "array", "items": object(forms) }),
            Self::TextOr(forms) => json!({ "anyOf": [text(), object(forms)] }),
        }
    }
}

/// What a key's example gives it.
fn value_of(key: &str, example: &str) -> Option<Value> {
    let table: Map<String, Value> = toml::from_str(example).ok()?;
    let value = table.get(key)?.clone();
    let empty = value.as_object().is_some_and(Map::is_empty) || value == json!([{}]);
    (!empty).then_some(value)
}

/// The type that a key's example has.
fn like(key: &str, example: &str) -> Value {
    let table: Option<Map<String, Value>> = toml::from_str(example).ok();
    let kind = match table.as_ref().and_then(|table| table.get(key)) {
        Some(Value::String(_)) => "string",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "integer",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
        Some(Value::Null) | None => return json!({}),
    };
    json!({ "type": kind })
}

static ROOT_FORMS: Forms = Forms {
    table: || &ROOT,
    keys: &[
        ("schema", Form::Exactly(1), "Version of the format."),
        (
            "agent",
            Form::Text,
            "Name of the agent: 1 to 63 of a-z 0-9 . _ -, starting with a letter or digit.",
        ),
        (
            "mode",
            Form::Word(words::<Mode>),
            "Whether refusals are carried out, or only recorded.",
        ),
        (
            "assurance",
            Form::Word(words::<Assurance>),
            "Weakest boundary under which the agent may start.",
        ),
        (
            "inspect",
            Form::Word(words::<Inspect>),
            "Whether TLS is opened to read what is inside: where a rule needs it, everywhere, or nowhere.",
        ),
        (
            "network",
            Form::Table(&NETWORK_FORMS),
            "What the kernel does.",
        ),
        (
            "process",
            Form::Table(&PROCESS_FORMS),
            "What the agent's processes have, and what the launcher leaves to them.",
        ),
        ("dns", Form::Table(&DNS_FORMS), "Which names are answered."),
        (
            "bind",
            Form::Table(&BIND_FORMS),
            "Which agents the daemon puts under it.",
        ),
        (
            "egress",
            Form::Tables(&EGRESS_FORMS),
            "What is allowed, and what is refused or asked about.",
        ),
        (
            "mcp",
            Form::Tables(&MCP_FORMS),
            "What may be called on MCP servers, and what is refused or asked about.",
        ),
        (
            "upstream",
            Form::Table(&UPSTREAM_FORMS),
            "How the gateway reaches what it dials.",
        ),
        (
            "limit",
            Form::Table(&LIMIT_FORMS),
            "How much the agent may do, whatever allows it.",
        ),
        (
            "test",
            Form::Tables(&TEST_FORMS),
            "What the policy is meant to say to some requests.",
        ),
    ],
    required: &["schema", "agent"],
    one_of: &[],
};

static NETWORK_FORMS: Forms = Forms {
    table: || &NETWORK,
    keys: &[
        (
            "direct",
            Form::Word(words::<Direct>),
            "TCP connections that do not go to the gateway: sent there, or refused.",
        ),
        (
            "inbound",
            Form::Word(words::<Inbound>),
            "Who may connect to the agent.",
        ),
        (
            "loopback",
            Form::PortsOr("self"),
            "TCP ports on loopback that the agent reaches past the gateway; \"self\" stands for its own listeners.",
        ),
        (
            "unix",
            Form::Texts,
            "Unix sockets that the agent reaches: absolute paths, abstract names behind an @, \"self\", or \"any\" alone.",
        ),
    ],
    required: &[],
    one_of: &[],
};

static PROCESS_FORMS: Forms = Forms {
    table: || &PROCESS,
    keys: &[
        (
            "ptrace",
            Form::Switch,
            "Its processes may trace one another.",
        ),
        (
            "user_namespaces",
            Form::Switch,
            "It may make user namespaces.",
        ),
        ("io_uring", Form::Switch, "It may use io_uring."),
        ("devices", Form::Texts, "Device nodes that it may open."),
        ("run", Form::Texts, "Paths below /run that stay in sight."),
        (
            "read",
            Form::Texts,
            "Paths below which it may read and execute.",
        ),
        ("write", Form::Texts, "Paths below which it may write."),
    ],
    required: &[],
    one_of: &[],
};

static DNS_FORMS: Forms = Forms {
    table: || &DNS,
    keys: &[
        (
            "mode",
            Form::Word(words::<DnsMode>),
            "Names that are answered: those that some rule could allow, none, or any.",
        ),
        (
            "deny_types",
            Form::Texts,
            "Record types refused for every name, by name or as TYPE65.",
        ),
        (
            "allow_types",
            Form::Texts,
            "The only record types answered; all that are not refused if it is not there.",
        ),
        (
            "max_label",
            Form::Count,
            "Octets of the longest label of a name that is asked for.",
        ),
        (
            "max_name",
            Form::Count,
            "Octets of the longest name that is asked for.",
        ),
        (
            "entropy",
            Form::Number,
            "Bits per character above which a label counts as data.",
        ),
        (
            "rate",
            Form::Text,
            "Questions of the agent: a number per s, min, h or day.",
        ),
    ],
    required: &[],
    one_of: &[],
};

static BIND_FORMS: Forms = Forms {
    table: || &BIND,
    keys: &[
        ("systemd", Form::Texts, "Units; * stands for any letters."),
        (
            "cgroup",
            Form::Texts,
            "Paths of cgroups; * stands for any letters but a slash.",
        ),
        (
            "kubernetes",
            Form::Table(&KUBERNETES_FORMS),
            "Pods of a namespace.",
        ),
    ],
    required: &[],
    one_of: &[],
};

static KUBERNETES_FORMS: Forms = Forms {
    table: || &KUBERNETES,
    keys: &[
        ("namespace", Form::Text, "Its name."),
        ("labels", Form::Pairs, "Labels that the pods have."),
    ],
    required: &["namespace"],
    one_of: &[],
};

static EGRESS_FORMS: Forms = Forms {
    table: || &EGRESS,
    keys: &[
        ("id", Form::Text, "Name of the rule, unique in the file."),
        (
            "hosts",
            Form::Texts,
            "Hosts over HTTP and TLS; *.x.y is one label more, **.x.y one or several.",
        ),
        (
            "ports",
            Form::Ports,
            "On which ports; 80 and 443 if it is not there.",
        ),
        (
            "methods",
            Form::Texts,
            "HTTP methods, in capitals; all if it is not there.",
        ),
        (
            "paths",
            Form::Texts,
            "Paths, without the query: * is one segment, ** at the end all that remains; all if it is not there.",
        ),
        ("tcp", Form::Texts, "host:port, for any bytes."),
        (
            "private",
            Form::Switch,
            "The host may have addresses that are not public.",
        ),
        (
            "inspect",
            Form::Word(words::<Inspect>),
            "Whether TLS is opened there.",
        ),
        (
            "mode",
            Form::Word(words::<Mode>),
            "Whether what the rule would refuse is refused, or only recorded.",
        ),
        (
            "limit",
            Form::Text,
            "How often the rule allows a request: a number per s, min, h or day.",
        ),
        (
            "when",
            Form::Text,
            "A condition in CEL that must hold besides.",
        ),
        (
            "websocket",
            Form::Switch,
            "Whether opening a WebSocket is covered.",
        ),
        (
            "action",
            Form::Word(words::<Action>),
            "What becomes of what the rule covers.",
        ),
    ],
    required: &["id"],
    one_of: &["hosts", "tcp"],
};

static MCP_FORMS: Forms = Forms {
    table: || &MCP,
    keys: &[
        ("id", Form::Text, "Name of the rule, unique in the file."),
        ("server", Form::Text, "The server's URL, as clients use it."),
        (
            "tools",
            Form::Texts,
            "Tools that may be called; * stands for any text.",
        ),
        ("prompts", Form::Texts, "Prompts that may be got."),
        (
            "resources",
            Form::Texts,
            "URIs of resources that may be read.",
        ),
        (
            "methods",
            Form::Texts,
            "Methods of MCP; without it, those that every client needs.",
        ),
        (
            "pin_definitions",
            Form::SwitchOr(words::<OnChange>),
            "What becomes of a tool whose definition is another than at first: hidden and refused (true, block), or recorded (alert).",
        ),
        (
            "private",
            Form::Switch,
            "The server may have addresses that are not public.",
        ),
        (
            "mode",
            Form::Word(words::<Mode>),
            "Whether what the rule would refuse is refused, or only recorded.",
        ),
        (
            "limit",
            Form::Text,
            "How often the rule allows a request: a number per s, min, h or day.",
        ),
        (
            "when",
            Form::Text,
            "A condition in CEL that must hold of calls besides.",
        ),
        (
            "action",
            Form::Word(words::<Action>),
            "What becomes of what the rule covers.",
        ),
    ],
    required: &["id", "server"],
    one_of: &[],
};

static UPSTREAM_FORMS: Forms = Forms {
    table: || &UPSTREAM,
    keys: &[
        ("resolve", Form::Addresses, "Names with fixed addresses."),
        (
            "trust",
            Form::Texts,
            "Files of further root certificates, PEM.",
        ),
        (
            "proxy",
            Form::Text,
            "HTTP proxy that connections go through.",
        ),
        (
            "no_proxy",
            Form::Texts,
            "Hosts that are reached without it.",
        ),
        (
            "client",
            Form::Tables(&CLIENT_FORMS),
            "Certificates that the gateway shows to upstreams.",
        ),
    ],
    required: &[],
    one_of: &[],
};

static CLIENT_FORMS: Forms = Forms {
    table: || &CLIENT,
    keys: &[
        ("hosts", Form::Texts, "Hosts that it is shown to."),
        ("certificate", Form::Text, "File of the chain, PEM."),
        ("key", Form::Text, "File of the private key, PEM."),
    ],
    required: &["hosts", "certificate", "key"],
    one_of: &[],
};

static LIMIT_FORMS: Forms = Forms {
    table: || &LIMIT,
    keys: &[(
        "requests",
        Form::Text,
        "Requests of the agent: a number per s, min, h or day.",
    )],
    required: &[],
    one_of: &[],
};

static TEST_FORMS: Forms = Forms {
    table: || &TEST,
    keys: &[
        ("name", Form::Text, "Its name, unique in the file."),
        ("input", Form::Table(&INPUT_FORMS), "What is asked."),
        (
            "expect",
            Form::Table(&EXPECT_FORMS),
            "What the policy is meant to say.",
        ),
    ],
    required: &["name", "input", "expect"],
    one_of: &[],
};

static INPUT_FORMS: Forms = Forms {
    table: || &INPUT,
    keys: &[
        (
            "http",
            Form::TextOr(&INPUT_HTTP_FORMS),
            "An HTTP request; for https, the one inside TLS.",
        ),
        (
            "mcp",
            Form::TextOr(&INPUT_MCP_FORMS),
            "A call on an MCP server: a tool, or a table that says more.",
        ),
        (
            "connect",
            Form::TextOr(&INPUT_PLACE_FORMS),
            "A tunnel to host:port.",
        ),
        (
            "tls",
            Form::TextOr(&INPUT_PLACE_FORMS),
            "TLS to host:port that stays closed.",
        ),
        (
            "tcp",
            Form::TextOr(&INPUT_TCP_FORMS),
            "A connection to address:port that is neither HTTP nor TLS.",
        ),
        ("dns", Form::TextOr(&INPUT_DNS_FORMS), "A DNS question."),
    ],
    required: &[],
    one_of: &["http", "mcp", "connect", "tls", "tcp", "dns"],
};

static INPUT_HTTP_FORMS: Forms = Forms {
    table: || schema::input("http"),
    keys: &[
        ("url", Form::Text, "The URL in full."),
        ("method", Form::Text, "GET if it is not there."),
        ("headers", Form::Pairs, "Header fields."),
        ("json", Form::Any, "The body, as JSON."),
        ("body_size", Form::Count, "Octets of the body."),
        ("websocket", Form::Switch, "Whether it opens a WebSocket."),
    ],
    required: &["url"],
    one_of: &[],
};

static INPUT_MCP_FORMS: Forms = Forms {
    table: || schema::input("mcp"),
    keys: &[
        (
            "server",
            Form::Text,
            "The server's URL; that of the policy, if it has one alone.",
        ),
        ("method", Form::Text, "What is asked, if nothing is called."),
        ("tool", Form::Text, "The tool that is called."),
        ("prompt", Form::Text, "The prompt that is got."),
        ("resource", Form::Text, "The resource that is read."),
        ("args", Form::Any, "Arguments of the tool or prompt."),
    ],
    required: &[],
    one_of: &["method", "tool", "prompt", "resource"],
};

static INPUT_PLACE_FORMS: Forms = Forms {
    table: || schema::input("connect"),
    keys: &[("to", Form::Text, "host:port")],
    required: &["to"],
    one_of: &[],
};

static INPUT_TCP_FORMS: Forms = Forms {
    table: || schema::input("tcp"),
    keys: &[
        ("to", Form::Text, "address:port"),
        ("names", Form::Texts, "Names that stand for the address."),
    ],
    required: &["to"],
    one_of: &[],
};

static INPUT_DNS_FORMS: Forms = Forms {
    table: || schema::input("dns"),
    keys: &[
        ("name", Form::Text, "The name."),
        ("type", Form::Text, "Record type; A if it is not there."),
    ],
    required: &["name"],
    one_of: &[],
};

static EXPECT_FORMS: Forms = Forms {
    table: || &EXPECT,
    keys: &[
        ("action", Form::Choice(words::<Action>), "The verdict."),
        ("rule", Form::Text, "The rule that decides."),
        (
            "reason",
            Form::Choice(words::<DenyReason>),
            "Why it is refused.",
        ),
    ],
    required: &["action"],
    one_of: &[],
};

#[cfg(test)]
mod tests;
