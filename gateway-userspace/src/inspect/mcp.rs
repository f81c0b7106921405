//! Messages of an MCP server: what it offers is cut down to what the agent may call, what it says
//! of its tools is compared with what it said at first, and what it asks of the agent is decided.

use serde_json::{Map, Value};

use super::{Inspector, Passed};
use crate::{
    audit::NoticedAction,
    definitions::Seen,
    mcp::{
        Call, McpError, Object,
        server::{self, List, OFFERS_MAX, Said},
    },
    policy::{Denial, Mode, Offer, Pin, Request, Scheme},
};

/// Where a server is, as definitions and records name it.
pub(crate) fn server(request: &Request<'_>) -> Option<String> {
    let Request::Http {
        host,
        port,
        path,
        facts,
        ..
    } = request
    else {
        return None;
    };
    let scheme = match facts.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let (mark, query) = match facts.query {
        "" => ("", ""),
        query => ("?", query),
    };
    Some(format!("{scheme}://{host}:{port}{path}{mark}{query}"))
}

/// What is left of a list.
struct Left {
    list: List,
    entries: Vec<Value>,
}

impl Inspector<'_> {
    /// Whether a tool is called of which the server says something else than at first.
    ///
    /// # Errors
    /// The refusal, where a rule keeps it to that.
    pub(crate) fn refuses_call(&mut self) -> Result<(), Denial> {
        let called = self.called;
        for tool in &called.tools {
            if !self.definitions.is_changed(self.agent, &self.server, tool) {
                continue;
            }
            let call = Call {
                method: "tools/call",
                object: Object::Tool(tool, None),
                task: None,
                id: None,
            };
            let action = match self.policy.offer(self.request, &call) {
                Offer::Hidden | Offer::Shown { pin: Pin::Off } => continue,
                Offer::Shown { pin: Pin::Alert } => NoticedAction::Alert,
                Offer::Shown { pin: Pin::Block } => NoticedAction::Block,
            };
            self.notice("definition_changed", Some(tool.clone()), action);
            if action == NoticedAction::Block {
                return Err(Denial::definition_changed(None));
            }
        }
        Ok(())
    }

    /// What the agent gets of this message.
    pub(super) fn message(&mut self, body: &Value) -> Passed {
        match self.look(body) {
            Ok(None) => Passed::AsItIs,
            Ok(Some(instead)) => Passed::Instead(instead),
            Err(Refused::By(denial)) => {
                self.notice("server_asks", None, NoticedAction::Block);
                // One of a batch: nobody waits for one alone.
                let id = body.get("method").and(body.get("id"));
                Passed::Refused(denial, id.cloned())
            }
            Err(Refused::Unclear(why)) => match self.unclear(&why) {
                Some(denial) => Passed::Refused(denial, None),
                None => Passed::AsItIs,
            },
        }
    }

    /// The refusal of an answer that has no one reading; none where policy only observes.
    pub(super) fn unclear(&mut self, why: &dyn std::fmt::Display) -> Option<Denial> {
        let observes = self.policy.mode() == Mode::Observe;
        let action = match observes {
            true => NoticedAction::Alert,
            false => NoticedAction::Block,
        };
        self.notice("answer_unclear", None, action);
        (!observes).then(|| Denial::unclear_answer(why))
    }

    /// The message as it is to be, where that is another one.
    fn look(&mut self, body: &Value) -> Result<Option<Value>, Refused> {
        let mut instead = None;
        for (at, said) in server::said(body)?.into_iter().enumerate() {
            match said {
                Said::Notes => {}
                Said::Asks(call) => self.asked(&call)?,
                Said::Answers(None) => {}
                Said::Answers(Some(result)) => {
                    for method in server::needs(result)? {
                        let call = Call {
                            method,
                            object: Object::None,
                            task: None,
                            id: None,
                        };
                        self.asked(&call)?;
                    }
                    for left in self.offers(result)? {
                        let whole = instead.get_or_insert_with(|| body.clone());
                        replace(whole, at, left);
                    }
                }
            }
        }
        Ok(instead)
    }

    /// Whether the server may ask the agent for this.
    fn asked(&mut self, call: &Call<'_>) -> Result<(), Refused> {
        // Of the protocol itself; it asks for nothing.
        if call.method == "ping" {
            return Ok(());
        }
        match self.policy.decide_asked(self.request, call).granted() {
            Ok(grant) => {
                if grant.observed().is_some() {
                    self.notice(
                        "server_asks",
                        Some(call.method.to_owned()),
                        NoticedAction::Alert,
                    );
                }
                Ok(())
            }
            Err(denial) => Err(Refused::By(denial.asked(call.method))),
        }
    }

    /// The lists of a result from which something is to be hidden.
    fn offers(&mut self, result: &Map<String, Value>) -> Result<Vec<Left>, Refused> {
        let mut changed = Vec::new();
        for list in List::ALL {
            let Some(Value::Array(entries)) = result.get(list.key()) else {
                continue;
            };
            if entries.len() > OFFERS_MAX {
                return Err(McpError::Batch.into());
            }
            let mut left = Vec::with_capacity(entries.len());
            let mut not_allowed = 0;
            for entry in entries {
                let call = list.invites(entry)?;
                match self.policy.offer(self.request, &call) {
                    Offer::Hidden => not_allowed += 1,
                    Offer::Shown { pin } => {
                        if list != List::Tools || self.is_known(&call, entry, pin) {
                            left.push(entry.clone());
                        }
                    }
                }
            }
            if not_allowed > 0 {
                let about = format!("{} of {}", not_allowed, list.key());
                self.notice("not_offered", Some(about), NoticedAction::Hide);
            }
            if left.len() < entries.len() {
                changed.push(Left {
                    list,
                    entries: left,
                });
            }
        }
        Ok(changed)
    }

    /// Whether the agent may see a tool for what the server says of it.
    fn is_known(&mut self, call: &Call<'_>, tool: &Value, pin: Pin) -> bool {
        let Some(name) = call.object.name() else {
            return true;
        };
        let other = self
            .definitions
            .other_server(self.agent, &self.server, name);
        let seen = self
            .definitions
            .see(self.agent, &self.server, name, server::definition(tool));
        if let (Seen::First, Some(other)) = (seen, other) {
            // Which of both is meant, the agent may not be able to tell.
            let about = format!("{name}, also of {other}");
            self.notice("tool_shadowed", Some(about), NoticedAction::Alert);
        }
        let what = match seen {
            Seen::First | Seen::Same => return true,
            Seen::Changed => "definition_changed",
            Seen::Full => "definitions_full",
        };
        let action = match pin {
            Pin::Off => return true,
            Pin::Alert => NoticedAction::Alert,
            Pin::Block => NoticedAction::Hide,
        };
        self.notice(what, Some(name.to_owned()), action);
        pin != Pin::Block
    }
}

/// Puts what is left of a list in the place of all of it.
fn replace(body: &mut Value, at: usize, left: Left) {
    let message = match body {
        Value::Array(batch) => batch.get_mut(at),
        one => Some(one),
    };
    let list = message
        .and_then(|message| message.get_mut("result")?.get_mut(left.list.key()))
        .and_then(Value::as_array_mut);
    if let Some(list) = list {
        *list = left.entries;
    }
}

/// Why nothing of a message passes.
enum Refused {
    By(Denial),
    Unclear(McpError),
}

impl From<McpError> for Refused {
    fn from(error: McpError) -> Self {
        Self::Unclear(error)
    }
}
