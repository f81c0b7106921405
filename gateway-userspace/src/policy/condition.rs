//! `when`: a condition in CEL, checked when it is loaded and bounded when it is evaluated.

use std::{
    cell::{Cell, OnceCell},
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, Program, Value,
    objects::{Key, Map},
};

use super::{Content, Facts};
use crate::{
    mcp::{Call, Object},
    names::Host,
};

mod guard;
mod json;

pub use guard::BadCondition;

/// Entries of the longest list, or object, that a condition looks into.
const ENTRIES_MAX: usize = 1000;
/// Steps that one evaluation may take at worst: nodes of the expression, squared, times the
/// longest list if it goes through one, times kilobytes of the longest text.
const STEPS_MAX: u64 = 4_000_000;
/// Steps of all evaluations for one decision.
const STEPS_TOGETHER: u64 = 16_000_000;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(guard::env()));

/// A condition that was found fit.
#[derive(Debug)]
pub struct Condition {
    program: Program,
    text: Box<str>,
    reads: Reads,
    nodes: u64,
    loops: bool,
}

/// What a condition looks at.
#[derive(Clone, Copy, Default, Debug)]
struct Reads {
    headers: bool,
    json: bool,
    body: bool,
    mcp: bool,
    args: bool,
}

/// Why a condition has no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the body was not read")]
    Unread,
    #[error("the request is too large for it")]
    Large,
    #[error("something that it names is not there")]
    Absent,
    #[error("values are not of the types it needs")]
    Types,
    #[error("it is neither true nor false")]
    NotBoolean,
    #[error("it could not be evaluated")]
    Failed,
}

/// A request as conditions see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) agent: &'a str,
    pub(super) host: &'a Host,
    pub(super) port: u16,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) facts: &'a Facts<'a>,
    /// What is called on an MCP server.
    pub(super) call: Option<&'a Call<'a>>,
    pub(super) shared: &'a Shared,
}

/// What the conditions of one decision share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    json: OnceCell<Result<Sized, Trouble>>,
    args: OnceCell<Result<Sized, Trouble>>,
    headers: OnceCell<Sized>,
    spent: Cell<u64>,
}

/// A value with its longest list and text.
#[derive(Clone, Debug)]
struct Sized {
    value: Value,
    entries: usize,
    text: usize,
}

impl Condition {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`BadCondition`], and where in the text.
    pub fn parse(text: &str) -> Result<Self, (BadCondition, std::ops::Range<usize>)> {
        guard::compile(text, false)
    }

    /// Compiles an expression of an `[[mcp]]` rule, which sees `mcp` besides.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_mcp(text: &str) -> Result<Self, (BadCondition, std::ops::Range<usize>)> {
        guard::compile(text, true)
    }

    /// The expression.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it can only be evaluated with the body.
    #[must_use]
    pub const fn needs_body(&self) -> bool {
        self.reads.body
    }

    /// Whether it holds.
    pub(super) fn holds(&self, view: View<'_>) -> Result<bool, Trouble> {
        let http = self.http(view)?;
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.add_variable_from_value("http", http);
        context.add_variable_from_value("agent", view.agent.to_owned());
        if self.reads.mcp {
            context.add_variable_from_value("mcp", self.mcp(view)?);
        }
        let evaluate = || self.program.execute(&context);
        match catch_unwind(AssertUnwindSafe(evaluate)) {
            Ok(Ok(Value::Bool(holds))) => Ok(holds),
            Ok(Ok(_)) => Err(Trouble::NotBoolean),
            Ok(Err(error)) => Err(trouble(&error)),
            Err(_panic) => Err(Trouble::Failed),
        }
    }

    /// The variable `http`, if the expression can be evaluated on it in bounded time.
    fn http(&self, view: View<'_>) -> Result<Value, Trouble> {
        let facts = view.facts;
        let mut fields: HashMap<Key, Value> = HashMap::with_capacity(16);
        let mut set = |name: &str, value: Value| {
            fields.insert(name.into(), value);
        };
        let host = view.host.to_string();
        let mut text = host.len().max(view.path.len()).max(facts.query.len());
        let mut entries = 0;
        set("host", host.into());
        set("port", Value::Int(view.port.into()));
        set("method", view.method.into());
        set("path", view.path.into());
        set("query", facts.query.into());
        set("scheme", facts.scheme.as_str().into());
        set("websocket", facts.websocket.into());
        if self.reads.headers {
            let headers = view.shared.headers.get_or_init(|| headers(facts));
            (text, entries) = (text.max(headers.text), entries.max(headers.entries));
            set("headers", headers.value.clone());
        }
        if self.reads.body {
            match facts.content {
                Content::Unread => return Err(Trouble::Unread),
                Content::Empty => set("body_size", Value::Int(0)),
                Content::Read { size, json } => {
                    let size = i64::try_from(size).map_err(|_| Trouble::Large)?;
                    set("body_size", Value::Int(size));
                    if let Some(json) = json.filter(|_| self.reads.json) {
                        let json = view.shared.json.get_or_init(|| json::convert(json));
                        let json = json.as_ref().map_err(|trouble| *trouble)?;
                        (text, entries) = (text.max(json.text), entries.max(json.entries));
                        set("json", json.value.clone());
                    }
                }
            }
        }
        self.spend(view.shared, entries, text)?;
        Ok(Value::Map(Map {
            map: Arc::new(fields),
        }))
    }

    /// The variable `mcp`.
    fn mcp(&self, view: View<'_>) -> Result<Value, Trouble> {
        let call = view.call.ok_or(Trouble::Absent)?;
        let mut fields: HashMap<Key, Value> = HashMap::with_capacity(5);
        let name = |wanted: bool| call.object.name().filter(|_| wanted).unwrap_or_default();
        let tool = name(matches!(call.object, Object::Tool(..)));
        let prompt = name(matches!(call.object, Object::Prompt(..)));
        let resource = name(matches!(call.object, Object::Resource(_)));
        let texts = [
            ("method", call.method),
            ("tool", tool),
            ("prompt", prompt),
            ("resource", resource),
        ];
        let mut text = 0;
        for (field, value) in texts {
            text = value.len().max(text);
            fields.insert(field.into(), value.into());
        }
        let mut entries = 0;
        if self.reads.args {
            let arguments = view
                .shared
                .args
                .get_or_init(|| match call.object.arguments() {
                    Some(arguments) => json::convert_object(arguments),
                    None => json::convert_object(&serde_json::Map::new()),
                });
            let arguments = arguments.as_ref().map_err(|trouble| *trouble)?;
            (text, entries) = (text.max(arguments.text), arguments.entries);
            fields.insert("args".into(), arguments.value.clone());
        }
        self.spend(view.shared, entries, text)?;
        Ok(Value::Map(Map {
            map: Arc::new(fields),
        }))
    }

    fn spend(&self, shared: &Shared, entries: usize, text: usize) -> Result<(), Trouble> {
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let rounds = match self.loops {
            true => self.nodes.max(wide(entries)),
            false => 1,
        };
        let steps = self
            .nodes
            .saturating_mul(self.nodes)
            .saturating_mul(rounds)
            .saturating_mul(1 + wide(text) / 1024);
        let together = shared.spent.get().saturating_add(steps);
        if steps > STEPS_MAX || together > STEPS_TOGETHER {
            return Err(Trouble::Large);
        }
        shared.spent.set(together);
        Ok(())
    }
}

/// The fields by their lower-case names, those of one name joined.
fn headers(facts: &Facts<'_>) -> Sized {
    let mut joined: HashMap<String, String> = HashMap::with_capacity(facts.headers.len());
    for (name, value) in facts.headers {
        let value = String::from_utf8_lossy(value);
        joined
            .entry(name.to_ascii_lowercase())
            .and_modify(|values| {
                values.push_str(", ");
                values.push_str(&value);
            })
            .or_insert_with(|| value.to_string());
    }
    let text = joined.values().map(String::len).max().unwrap_or_default();
    Sized {
        entries: joined.len(),
        text,
        value: joined.into(),
    }
}

/// The kind of an error, without what the agent said.
fn trouble(error: &ExecutionError) -> Trouble {
    match error {
        ExecutionError::NoSuchKey(_) | ExecutionError::IndexOutOfBounds(_) => Trouble::Absent,
        ExecutionError::NoSuchOverload(_)
        | ExecutionError::UnexpectedType { .. }
        | ExecutionError::ValuesNotComparable(..)
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::UnsupportedTargetType { .. }
        | ExecutionError::NotSupportedAsMethod { .. }
        | ExecutionError::UnsupportedKeyType(_)
        | ExecutionError::UnsupportedIndex(..) => Trouble::Types,
        // A list that grows with the crate.
        _other => Trouble::Failed,
    }
}

#[cfg(test)]
mod tests;
