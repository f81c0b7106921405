//! What a rule says of an MCP server: where it is, and which calls are meant.

use serde_json::Value;

use super::{
    Action, Content, Facts, Scheme,
    path_pattern::{decoded, is_plain},
};
use crate::mcp::{self, Call, McpError, Message, Object};

/// Methods that name nothing that could be listed: a client cannot do without them.
const BASE: [&str; 20] = [
    "initialize",
    "ping",
    "server/discover",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "notifications/elicitation/complete",
    "notifications/tasks/status",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "logging/setLevel",
    "subscriptions/listen",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tasks/cancel",
];

/// The server of an `[[mcp]]` rule, and what the rule covers there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mcp {
    /// Where it is, behind host and port.
    pub server: Server,
    /// Which calls; all if every list is empty.
    pub calls: Calls,
    /// Whether what the server says of its tools must stay what it was.
    pub pin: Pin,
}

/// What becomes of a tool of which the server says something else than at first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Pin {
    /// Nobody looks.
    #[default]
    Off,
    /// It is recorded.
    Alert,
    /// It is recorded, hidden from the agent, and calls of it are refused.
    Block,
}

/// What an agent gets to see of something that a server offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Offer {
    /// It is shown.
    Shown {
        /// The strictest of what the rules that cover it say of its definition.
        pin: Pin,
    },
    /// It is not, since no rule lets the agent call it.
    Hidden,
}

/// Where on its host a server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its path.
    pub path: Box<str>,
    /// What stands behind the `?`, if anything.
    pub query: Box<str>,
}

/// Which calls a rule names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Calls {
    /// Methods of JSON-RPC.
    pub methods: Vec<NamePattern>,
    /// Tools.
    pub tools: Vec<NamePattern>,
    /// Prompts.
    pub prompts: Vec<NamePattern>,
    /// URIs of resources.
    pub resources: Vec<NamePattern>,
}

/// A name in which `*` stands for any text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(Box<str>);

impl NamePattern {
    /// Characters in a pattern.
    pub(super) const MAX: usize = 256;

    /// A pattern; none if it is empty or longer than [`Self::MAX`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (1..=Self::MAX)
            .contains(&text.chars().count())
            .then(|| Self(text.into()))
    }

    /// Whether it stands for this name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else {
            return *self.0 == *name;
        };
        let Some(name) = name.strip_prefix(start) else {
            return false;
        };
        let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(mut name) = name.strip_suffix(end) else {
            return false;
        };
        // The first place that fits leaves the most for the others.
        middle.split('*').all(|part| match name.split_once(part) {
            Some((_, after)) => {
                name = after;
                true
            }
            None => false,
        })
    }

    /// Whether it stands for this URI, as every server reads it.
    fn matches_uri(&self, uri: &str) -> bool {
        self.matches(uri) && (!self.0.contains('*') || is_plain_uri(uri))
    }

    /// Whether somebody who does not mind case takes it for this name.
    fn may_match(&self, name: &str) -> bool {
        Self(self.0.to_lowercase().into()).matches(&name.to_lowercase())
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What is said to a server, as far as it can be told.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Spoken<'a> {
    /// No rule knows a server there.
    NoServer,
    /// A stream is opened, or a session ended.
    Nothing,
    /// This message; of a batch, one after the other.
    Message(&'a Message<'a>),
    /// Nothing yet: the server offers what could be called so, with arguments unknown.
    Offered(&'a Call<'a>),
    /// It has no one reading.
    Unclear(McpError),
}

/// The messages of a request to an MCP server; none where it opens a stream or ends a session.
pub(super) fn read<'a>(method: &str, facts: &Facts<'a>) -> Result<Vec<Message<'a>>, McpError> {
    if facts.websocket {
        return Err(McpError::Method);
    }
    match (method, facts.content) {
        (
            "POST",
            Content::Read {
                json: Some(json), ..
            },
        ) => {
            let messages = mcp::messages(json)?;
            mcp::check_mirrors(&messages, facts.headers)?;
            Ok(messages)
        }
        ("POST", Content::Read { json: None, .. } | Content::Unread | Content::Empty) => {
            Err(McpError::NotRead)
        }
        ("GET" | "DELETE", Content::Empty) => Ok(Vec::new()),
        ("GET" | "DELETE", Content::Read { .. } | Content::Unread) => Err(McpError::Body),
        _other => Err(McpError::Method),
    }
}

/// What is called on an MCP server, for the record and for the answer.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Called {
    /// Method and name; of a batch, how many messages. As far as it can be told.
    pub what: Option<String>,
    /// The ids of the requests, which are answered.
    pub ids: Vec<Value>,
    /// The tools that are called.
    pub tools: Vec<String>,
}

/// What is called, as far as it can be told.
pub(super) fn called(content: Content<'_>) -> Called {
    let Content::Read {
        json: Some(json), ..
    } = content
    else {
        return Called::default();
    };
    let messages = mcp::messages(json);
    let tools = messages
        .iter()
        .flatten()
        .filter_map(|message| match message {
            Message::Call(Call {
                object: Object::Tool(name, _),
                ..
            }) => Some((*name).to_owned()),
            Message::Call(_) | Message::Answer => None,
        });
    let tools = tools.collect();
    let what = match messages.as_deref() {
        Ok([Message::Call(call)]) => Some(match call.object.name() {
            Some(name) => format!("{} {name}", call.method),
            None => call.method.to_owned(),
        }),
        Ok([Message::Answer]) => Some("answer".to_owned()),
        Ok(batch) => Some(format!("batch of {}", batch.len())),
        Err(_) => None,
    };
    let ids = ids(json);
    Called { what, ids, tools }
}

fn ids(json: &Value) -> Vec<Value> {
    let messages = match json {
        Value::Array(batch) => batch.as_slice(),
        one => std::slice::from_ref(one),
    };
    messages
        .iter()
        .take(mcp::BATCH_MAX)
        .filter(|message| message.get("method").is_some())
        .filter_map(|message| message.get("id"))
        .filter(|id| id.is_string() || id.is_i64() || id.is_u64())
        .cloned()
        .collect()
}

impl Server {
    /// Whether this is what the rule names.
    pub(super) fn is_at(&self, scheme: Scheme, path: &str, query: &str) -> bool {
        self.scheme == scheme && *self.path == *path && *self.query == *query
    }

    /// Whether a server may take this path for the one that the rule names.
    pub(super) fn may_be_at(&self, path: &str) -> bool {
        fn tidy(path: &str) -> impl Iterator<Item = u8> {
            let octets = decoded(path.trim_end_matches('/'));
            octets.map(|octet| octet.to_ascii_lowercase())
        }
        !is_plain(path) || tidy(&self.path).eq(tidy(path))
    }
}

/// Whether no server reads this URI in another way: no dot segments, no separators encoded.
fn is_plain_uri(uri: &str) -> bool {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    is_plain(&format!("/{}", rest.trim_start_matches('/')))
}

/// How a rule's lists stand to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cover {
    /// It is not meant.
    No,
    /// It is meant, whatever a condition says of other calls.
    Base,
    /// It is meant where the condition holds.
    Named,
}

impl Calls {
    fn is_empty(&self) -> bool {
        let lists = [&self.methods, &self.tools, &self.prompts, &self.resources];
        lists.into_iter().all(Vec::is_empty)
    }

    /// Whether the rule means what opens a stream, ends a session or answers the server.
    pub(super) fn cover_session(&self, action: Action, has_condition: bool) -> Cover {
        match action {
            Action::Allow => Cover::Base,
            Action::Approve | Action::Deny if self.is_empty() && !has_condition => Cover::Base,
            Action::Approve | Action::Deny => Cover::No,
        }
    }

    /// Whether the rule means this call.
    pub(super) fn cover(&self, call: &Call<'_>, action: Action, has_condition: bool) -> Cover {
        let is_uri = matches!(call.object, Object::Resource(_));
        let fits = |patterns: &[NamePattern], name: &str| {
            patterns.iter().any(|pattern| match action {
                Action::Allow if is_uri => pattern.matches_uri(name),
                Action::Allow => pattern.matches(name),
                Action::Approve | Action::Deny => {
                    pattern.may_match(name) || is_uri && !is_plain_uri(name)
                }
            })
        };
        let by_method = self.methods.iter().any(|pattern| match action {
            Action::Allow => pattern.matches(call.method),
            Action::Approve | Action::Deny => pattern.may_match(call.method),
        });
        let named = match call.object {
            Object::Tool(name, _) => Some((&self.tools, name)),
            Object::Prompt(name, _) => Some((&self.prompts, name)),
            Object::Resource(uri) => Some((&self.resources, uri)),
            Object::None => None,
        };
        match (named, action) {
            (Some((list, name)), _) if by_method || self.is_empty() || fits(list, name) => {
                Cover::Named
            }
            (Some(_), _) => Cover::No,
            (None, _) if by_method => Cover::Base,
            (None, Action::Allow) if self.is_empty() => Cover::Base,
            (None, Action::Allow) if self.methods.is_empty() && BASE.contains(&call.method) => {
                Cover::Base
            }
            (None, Action::Approve | Action::Deny) if self.is_empty() && !has_condition => {
                Cover::Base
            }
            (None, _) => Cover::No,
        }
    }
}

#[cfg(test)]
mod tests;
