//! WebSocket: the handshake is a request like any other; behind it every message is read whole,
//! checked, and passed on octet by octet as it came.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::{sync::SemaphorePermit, time::Instant};

use super::{
    activity::{Activity, End},
    entry::Entry,
    failure::Failure,
    http1::{request::RequestHead, response::ResponseHead},
    tunnel::announce,
    wire::{Input, Output, Wire},
};
use crate::{
    app::Core,
    websocket::{
        Content, Limits, Reader, Role, close_frame,
        handshake::{AnswerError, Key, Negotiated, Offer},
    },
};

/// Close codes of the gateway's own (RFC 6455, 7.4.1).
const GOING_AWAY: u16 = 1001;
const POLICY_VIOLATION: u16 = 1008;
const INTERNAL_ERROR: u16 = 1011;

/// Octets written at a time, so that a slow reader is seen to read.
const PIECE: usize = 32 << 10;

/// What an agent asks for, and the gateway passes on.
#[derive(Debug)]
pub(super) struct Asked {
    key: Key,
    offer: Offer,
}

impl Asked {
    /// Reads the handshake's fields.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn read(head: &RequestHead) -> Result<Self, Failure> {
        let (key, offer) = Offer::http1(head.lines()).map_err(Failure::WebSocketOffer)?;
        Ok(Self { key, offer })
    }

    /// The fields that the upstream gets.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        self.offer.http1_fields(&self.key)
    }

    fn agreed(&self, answer: &ResponseHead) -> Result<Negotiated, AnswerError> {
        self.offer
            .http1_answer(&self.key, answer.status, answer.lines())
    }

    /// Answers the agent, and relays to the end, or until `refused` says why no more. The connection is of no other use after that.
    ///
    /// # Errors
    /// Why it came to another end than its close, and whether the agent knows of the beginning.
    pub(super) async fn serve(
        &self,
        core: &Core,
        entry: &Entry,
        (agent, upstream): (&mut Wire, &mut Wire),
        answer: &ResponseHead,
        deadline: Instant,
        refused: impl Future<Output = String>,
    ) -> Result<(), (Failure, bool)> {
        let negotiated = self
            .agreed(answer)
            .map_err(|error| (Failure::WebSocketAnswer(error), false))?;
        let mut out = BytesMut::with_capacity(512);
        answer.write_switch(&mut out, &negotiated.http1_fields(&self.key));
        let sent = agent.send(&out).await;
        sent.map_err(|_| (Failure::AgentGone, true))?;
        let activity = Activity::begin();
        let relaying = relay(core, entry, agent, upstream, &negotiated, &activity);
        let failure = tokio::select! {
            relayed = tokio::time::timeout_at(deadline, relaying) => match relayed {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::AgeLimit,
            },
            why = refused => Failure::PolicyChanged(why),
        };
        say_why(agent, upstream, &failure, &activity).await;
        Err((failure, true))
    }
}

/// Tells both ends that it is over, as far as they still listen. To one that got a message only in
/// part, what is said would be more of it: its connection is reset.
async fn say_why(agent: &mut Wire, upstream: &mut Wire, failure: &Failure, activity: &Activity) {
    let (report, at) = (failure.report(), fault(failure));
    let reason = format!("{}: {failure}", report.reason);
    let to_agent = at.to_agent.unwrap_or(GOING_AWAY);
    let to_upstream = at.to_upstream.unwrap_or(GOING_AWAY);
    // Nobody learns from the mask of a close what he does not see in the clear.
    let frame = close_frame(Role::Server, to_agent, &reason, [0; 4]);
    let told = match activity.is_filling(End::Agent) {
        true => {
            agent.reset_on_close();
            Ok(())
        }
        false => agent.send(&frame).await,
    };
    let key = uuid::Uuid::new_v4().as_u128().to_be_bytes();
    let [a, b, c, d, ..] = key;
    let frame = close_frame(Role::Client, to_upstream, "", [a, b, c, d]);
    let heard = match activity.is_filling(End::Upstream) {
        true => {
            upstream.reset_on_close();
            Ok(())
        }
        false => upstream.send(&frame).await,
    };
    tracing::debug!(?told, ?heard, %failure, "a WebSocket was ended");
}

/// What each end is told: the reason to who is at fault, and that it is over to the other.
struct Codes {
    to_agent: Option<u16>,
    to_upstream: Option<u16>,
}

const fn fault(failure: &Failure) -> Codes {
    let (to_agent, to_upstream) = match failure {
        Failure::AgentWebSocket(error) => (Some(error.close_code()), None),
        Failure::UpstreamWebSocket(error) => (None, Some(error.close_code())),
        Failure::Denied(_) | Failure::PolicyChanged(_) => (Some(POLICY_VIOLATION), None),
        Failure::AuditUnavailable => (Some(INTERNAL_ERROR), None),
        _otherwise => (None, None),
    };
    Codes {
        to_agent,
        to_upstream,
    }
}

async fn relay(
    core: &Core,
    entry: &Entry,
    agent: &mut Wire,
    upstream: &mut Wire,
    negotiated: &Negotiated,
    activity: &Activity,
) -> Result<(), Failure> {
    let (agent_in, mut agent_out) = agent.split();
    let (upstream_in, mut upstream_out) = upstream.split();
    let out = Direction {
        core,
        input: agent_in,
        output: (End::Upstream, &mut upstream_out),
        reader: Reader::new(Role::Client, negotiated, Limits::default()),
        activity,
        count: &entry.traffic.out,
        room: None,
    };
    let back = Direction {
        core,
        input: upstream_in,
        output: (End::Agent, &mut agent_out),
        reader: Reader::new(Role::Server, negotiated, Limits::default()),
        activity,
        count: &entry.traffic.back,
        room: None,
    };
    let out = async {
        out.run().await.map_err(|broken| match broken {
            Broken::Source => Failure::AgentGone,
            Broken::Sink => Failure::UpstreamGone,
            Broken::NoRoom => Failure::NoRoomAhead,
            Broken::Malformed(error) => Failure::AgentWebSocket(error),
        })
    };
    let back = async {
        back.run().await.map_err(|broken| match broken {
            Broken::Source => Failure::UpstreamGone,
            Broken::Sink => Failure::AgentGone,
            Broken::NoRoom => Failure::NoRoomAhead,
            Broken::Malformed(error) => Failure::UpstreamWebSocket(error),
        })
    };
    tokio::select! {
        ended = async { tokio::try_join!(out, back) } => ended.map(|((), ())| ()),
        () = activity.idle(core.context.limits.idle_timeout) => {
            let full = [End::Agent, End::Upstream].into_iter().find(|end| activity.is_filling(*end));
            Err(full.map_or(Failure::Idle, Failure::from))
        }
        failure = announce(core, entry) => Err(failure),
        () = core.drain.cancelled() => Err(Failure::Draining),
    }
}

/// Why a direction ended before its close.
enum Broken {
    Source,
    Sink,
    NoRoom,
    Malformed(crate::websocket::WsError),
}

/// One direction of the relay.
struct Direction<'a, 'w> {
    core: &'a Core,
    input: Input<'w>,
    output: (End, &'a mut Output<'w>),
    reader: Reader,
    activity: &'a Activity,
    count: &'a AtomicU64,
    /// For what is held of messages that are not passed on yet.
    room: Option<SemaphorePermit<'a>>,
}

impl Direction<'_, '_> {
    /// Passes on message after message, to the close.
    async fn run(mut self) -> Result<(), Broken> {
        loop {
            while let Some(event) = self
                .reader
                .feed(self.input.buffer)
                .map_err(Broken::Malformed)?
            {
                self.pass_on(&event.wire).await?;
                if matches!(event.content, Content::Close { .. }) {
                    return Ok(());
                }
            }
            if self.held() < PIECE {
                self.room = None;
            }
            let read = self.input.fill().await.map_err(|_| Broken::Source)?;
            self.activity.touch();
            if read == 0 {
                return Err(Broken::Source);
            }
            let room = self.core.room_for(self.held(), &mut self.room);
            room.await.map_err(|_| Broken::NoRoom)?;
        }
    }

    /// Octets that its messages take, or will once they are whole: what came in is held as sent,
    /// as unmasked and as inflated.
    fn held(&self) -> usize {
        3 * (self.input.buffer.len() + self.reader.held())
    }

    async fn pass_on(&mut self, wire: &[u8]) -> Result<(), Broken> {
        let (end, output) = &mut self.output;
        let (activity, count) = (self.activity, self.count);
        let passing = async {
            for piece in wire.chunks(PIECE) {
                output.send(piece).await.map_err(|_| Broken::Sink)?;
                activity.touch();
                count.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        activity.filling(*end, passing).await
    }
}
