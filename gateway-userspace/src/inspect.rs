//! Answers on their way back to the agent, read where policy is about what they say.
//!
//! Takes octets and gives what the agent gets instead. What cannot be read is not passed on.

pub(crate) mod mcp;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    audit::{Noticed, NoticedAction},
    content::{
        DecodeError, Decoder, Limits,
        json::{self, JsonError},
        sse::{self, Event, SseError},
    },
    definitions::Definitions,
    names::AgentId,
    policy::{Called, Denial, Policy, Request},
    proxy::{failure::Failure, reply::Reply},
};

/// Entries that are kept of what is noticed in one answer.
const NOTICED_MAX: usize = crate::audit::NOTICED_MAX;

/// Why an answer that policy is about cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// It is larger than what is read whole.
    #[error("it is larger than the limit")]
    TooLarge,
    /// It says twice what it is.
    #[error("it has more than one Content-Type")]
    ContentType,
    /// Its content coding cannot be undone.
    #[error("{0}")]
    Coding(DecodeError),
    /// It is no stream of events.
    #[error("{0}")]
    Events(SseError),
}

impl Unread {
    /// The stable label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "answer_too_large",
            Self::ContentType => "content_type_repeated",
            Self::Coding(error) => error.label(),
            Self::Events(error) => error.label(),
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::AnswerUnread(Unread::Coding(error))
    }
}

impl From<SseError> for Failure {
    fn from(error: SseError) -> Self {
        Self::AnswerUnread(Unread::Events(error))
    }
}

/// What an answer's head says of its body.
pub(crate) struct Head<'a> {
    pub(crate) status: u16,
    /// Values of all `Content-Type` fields.
    pub(crate) content_types: &'a [&'a [u8]],
    /// Values of all `Content-Encoding` fields.
    pub(crate) encodings: &'a [&'a [u8]],
}

/// How a body is read.
pub(crate) enum Form {
    /// Before the agent gets any of it.
    Whole(Whole),
    /// Event by event.
    Events(Box<Events>),
}

/// A body that is read whole.
pub(crate) struct Whole {
    status: u16,
    decoder: Decoder,
}

/// A body that is a stream of events.
pub(crate) struct Events {
    decoder: Decoder,
    plain: BytesMut,
    reader: sse::Reader,
}

/// Reads the answer to one request.
pub(crate) struct Inspector<'a> {
    policy: &'a Policy,
    request: &'a Request<'a>,
    definitions: &'a Definitions,
    agent: &'a AgentId,
    called: &'a Called,
    /// Where the server is, as in records.
    server: String,
    /// Octets of a body that is read whole, decoded.
    most: usize,
    event: Uuid,
    noticed: Vec<Noticed>,
}

/// What becomes of a message.
enum Passed {
    AsItIs,
    Instead(Value),
    /// Nothing of it. Where it asks the agent for something, the id under which it waits.
    Refused(Denial, Option<Value>),
}

/// The method of a question that a client gets in place of one that is refused. No client knows it:
/// the server is told so, and does not wait.
const REFUSED: &str = "sluice/refused";

impl<'a> Inspector<'a> {
    /// For the answer to what is called on an MCP server.
    pub(crate) fn new(
        (policy, definitions): (&'a Policy, &'a Definitions),
        (agent, request): (&'a AgentId, &'a Request<'a>),
        called: &'a Called,
        most: usize,
        event: Uuid,
    ) -> Self {
        Self {
            policy,
            request,
            definitions,
            agent,
            called,
            server: mcp::server(request).unwrap_or_default(),
            most,
            event,
            noticed: Vec::new(),
        }
    }

    /// What was noticed since this was asked last.
    pub(crate) fn take_noticed(&mut self) -> Vec<Noticed> {
        std::mem::take(&mut self.noticed)
    }

    /// How a body behind this head is read; none where it cannot be, and policy only observes.
    ///
    /// # Errors
    /// [`Failure::AnswerUnread`].
    pub(crate) fn form(&mut self, head: &Head<'_>) -> Result<Option<Form>, Failure> {
        match self.readable(head) {
            Ok(form) => Ok(Some(form)),
            Err(unread) if self.unclear(&unread).is_none() => Ok(None),
            Err(unread) => Err(Failure::AnswerUnread(unread)),
        }
    }

    fn readable(&self, head: &Head<'_>) -> Result<Form, Unread> {
        let is_events = match head.content_types {
            [] => false,
            [one] => is_event_stream(one),
            [_, _, ..] => return Err(Unread::ContentType),
        };
        let output = match is_events {
            // A stream goes on for as long as the connection does.
            true => u64::MAX,
            false => self.most as u64,
        };
        let limits = Limits {
            output,
            ..Limits::default()
        };
        let decoder = Decoder::for_encodings(head.encodings, limits).map_err(Unread::Coding)?;
        Ok(match is_events {
            true => Form::Events(Box::new(Events {
                decoder,
                plain: BytesMut::new(),
                reader: sse::Reader::new(sse::Limits { event: self.most }),
            })),
            false => Form::Whole(Whole {
                status: head.status,
                decoder,
            }),
        })
    }

    /// What the agent gets instead of this body, without a content coding.
    pub(crate) fn whole(&mut self, whole: Whole, body: &[u8]) -> Result<Bytes, Failure> {
        let Whole {
            status,
            mut decoder,
        } = whole;
        let mut plain = BytesMut::new();
        decoder.feed(body, &mut plain)?;
        decoder.finish()?;
        if plain.is_empty() {
            return Ok(Bytes::new());
        }
        match self.parsed(&plain) {
            Ok(message) => match self.message(&message) {
                Passed::AsItIs => Ok(plain.freeze()),
                Passed::Instead(message) => Ok(message.to_string().into()),
                Passed::Refused(denial, _) => Err(Failure::Denied(denial)),
            },
            // An error page: no client takes it for a message.
            Err(_) if status >= 400 && !json::is_meant(&plain) => Ok(plain.freeze()),
            Err(error) => match self.unclear(&error) {
                Some(denial) => Err(Failure::Denied(denial)),
                None => Ok(plain.freeze()),
            },
        }
    }

    /// Adds to `out` what the agent gets instead of these octets of a stream.
    ///
    /// # Errors
    /// The stream ends here. Where somebody waits for an answer, `out` ends with one that says so.
    pub(crate) fn events(
        &mut self,
        events: &mut Events,
        octets: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), Failure> {
        let Events {
            decoder,
            plain,
            reader,
        } = events;
        decoder.feed(octets, plain)?;
        while let Some(event) = reader.feed(plain)? {
            let (denial, waits) = match self.passed(&event) {
                Passed::AsItIs => {
                    out.extend_from_slice(&event.wire);
                    continue;
                }
                Passed::Instead(message) => {
                    out.extend_from_slice(&event.with_data(&message.to_string()));
                    continue;
                }
                Passed::Refused(denial, waits) => (denial, waits),
            };
            // Of a stream that answers nobody, the rest may be for somebody.
            if self.called.ids.is_empty() {
                if let Some(id) = waits {
                    let params = json!({ "reason": denial.reason.label(), "hint": denial.hint });
                    let instead =
                        json!({ "jsonrpc": "2.0", "id": id, "method": REFUSED, "params": params });
                    out.extend_from_slice(&event.with_data(&instead.to_string()));
                }
                continue;
            }
            let failure = Failure::Denied(denial);
            let reply = Reply::new(&failure, self.event, Some(self.called));
            out.extend_from_slice(b"event: message\ndata: ");
            out.extend_from_slice(reply.body.trim_end().as_bytes());
            out.extend_from_slice(b"\n\n");
            return Err(failure);
        }
        Ok(())
    }

    /// What becomes of an event.
    fn passed(&mut self, event: &Event) -> Passed {
        if event.odd
            && let Some(denial) = self.unclear(&"an event has a line of no known field")
        {
            return Passed::Refused(denial, None);
        }
        // A comment, or a place to go on from.
        let Some(data @ [_, ..]) = event.data.as_deref().map(str::as_bytes) else {
            return Passed::AsItIs;
        };
        match self.parsed(data) {
            Ok(message) => self.message(&message),
            Err(error) => match self.unclear(&error) {
                Some(denial) => Passed::Refused(denial, None),
                None => Passed::AsItIs,
            },
        }
    }

    fn parsed(&self, text: &[u8]) -> Result<Value, JsonError> {
        let limits = json::Limits {
            size: self.most,
            ..json::Limits::default()
        };
        json::parse_within(text, limits)
    }

    fn notice(&mut self, what: &'static str, about: Option<String>, action: NoticedAction) {
        if self.noticed.len() < NOTICED_MAX {
            self.noticed.push(Noticed {
                what: what.into(),
                about,
                rule: None,
                action,
            });
        }
    }
}

fn is_event_stream(content_type: &[u8]) -> bool {
    let kind = content_type
        .split(|&b| b == b';')
        .next()
        .unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
