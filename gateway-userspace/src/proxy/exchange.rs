//! One request on its way out and its response on the way back, at the same time.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;

use super::{
    activity::{Activity, End},
    body::{Relay, RelayError, read_whole},
    entry::Entry,
    failure::Failure,
    http1::{
        Version,
        framing::Body,
        request::RequestHead,
        response::{Coding, ResponseHead},
    },
    wire::{Input, NoHead, Output, Wire},
};
use crate::{
    app::Core,
    inspect::{Form, Head, Inspector, Unread},
};

/// Interim responses to one request. More are a loop.
pub(crate) const INTERIM_MAX: u32 = 16;

/// A request was carried out.
#[derive(Debug)]
pub(crate) struct Done {
    /// The agent may send another.
    pub(crate) agent_stays: bool,
    /// The upstream takes another.
    pub(crate) upstream_stays: bool,
    /// The answer that switches protocols, of which the agent knows nothing yet.
    pub(crate) switched: Option<ResponseHead>,
}

/// A request failed.
#[derive(Debug)]
pub(crate) struct Halt {
    /// Why.
    pub(crate) failure: Failure,
    /// Whether the agent has seen the beginning of the response.
    pub(crate) begun: bool,
    /// Whether it was told why the rest does not come.
    pub(crate) told: bool,
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            begun: false,
            told: false,
        }
    }
}

/// A request that is to be carried out.
pub(crate) struct Going<'a, 'i> {
    /// As the agent sent it.
    pub(crate) head: &'a RequestHead,
    /// As the upstream gets it.
    pub(crate) out: BytesMut,
    /// Whether the agent may send another.
    pub(crate) may_stay: bool,
    /// Who reads the answer, if anybody.
    pub(crate) inspector: Option<&'a mut Inspector<'i>>,
}

/// Sends a request and its body, and relays the response, until `refused` says why no more.
/// A response may come, and end, before the request does.
///
/// # Errors
/// Why it failed, and whether the response had begun.
pub(crate) async fn exchange(
    core: &Core,
    entry: &mut Entry,
    agent: &mut Wire,
    upstream: &mut Wire,
    going: Going<'_, '_>,
    refused: impl Future<Output = String>,
) -> Result<Done, Halt> {
    let Going {
        head,
        out,
        may_stay,
        inspector,
    } = going;
    let limits = &core.context.limits;
    let activity = Activity::begin();
    let (sent_whole, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    let told = AtomicBool::new(false);
    let (agent_in, mut agent_out) = agent.split();
    let (upstream_in, mut upstream_out) = upstream.split();

    let traffic = &entry.traffic;
    let request = Relay {
        input: agent_in,
        output: &mut upstream_out,
        to: End::Upstream,
        body: head.body,
        coding: match head.body {
            Body::Chunked => Coding::Chunked,
            Body::Empty | Body::Exactly(_) | Body::UntilClose => Coding::Plain,
        },
        activity: &activity,
        count: &traffic.out,
        reading: None,
    };
    let send = async {
        let sent = request.run(out, limits).await;
        sent_whole.store(sent.is_ok(), Ordering::Relaxed);
        sent
    };
    let receive = async {
        let mut upstream_in = upstream_in;
        let response =
            response_head(core, &mut upstream_in, &mut agent_out, head, &activity).await?;
        if response.status == 101 {
            return Ok((101, false, false, Some(response)));
        }
        let version = head.version;
        let may_stay = || {
            may_stay
                && head.keep_alive
                && sent_whole.load(Ordering::Relaxed)
                && !core.drain.is_cancelled()
        };
        let mut out = BytesMut::with_capacity(1024);
        let form = match inspector {
            Some(inspector) if response.body != Body::Empty => {
                let form = form(inspector, &response)?;
                form.map(|form| (inspector, form))
            }
            Some(_) | None => None,
        };
        let (coding, agent_stays, reading) = match form {
            None => {
                let stays = may_stay() && response.is_delimited_for(version);
                response.write(&mut out, version, stays);
                (response.coding_for(version), stays, None)
            }
            Some((inspector, Form::Events(events))) => {
                let stays = may_stay() && version == Version::Http11;
                response.write_read(&mut out, None, version, stays);
                let coding = match version {
                    Version::Http11 => Coding::Chunked,
                    Version::Http10 => Coding::Plain,
                };
                (coding, stays, Some((inspector, events)))
            }
            Some((inspector, Form::Whole(whole))) => {
                let _room = core.room_for_answer().await?;
                let most = limits.answer_bytes;
                let body = read_whole(&mut upstream_in, response.body, most, limits, &activity);
                let body = body.await.map_err(unreadable)?;
                let body = body.ok_or(Failure::AnswerUnread(Unread::TooLarge))?;
                let body = inspector.whole(whole, &body)?;
                let stays = may_stay();
                begun.store(true, Ordering::Relaxed);
                response.write_read(&mut out, Some(body.len()), version, stays);
                out.extend_from_slice(&body);
                let sent = activity.filling(End::Agent, agent_out.send(&out));
                sent.await.map_err(|_| Failure::AgentGone)?;
                traffic.back.fetch_add(out.len() as u64, Ordering::Relaxed);
                return Ok((response.status, stays, response.keep_alive, None));
            }
        };
        begun.store(true, Ordering::Relaxed);
        let body = Relay {
            input: upstream_in,
            output: &mut agent_out,
            to: End::Agent,
            body: response.body,
            coding,
            activity: &activity,
            count: &traffic.back,
            reading,
        };
        body.run(out, limits).await.map_err(|error| {
            told.store(matches!(error, RelayError::Refused(_)), Ordering::Relaxed);
            unreadable(error)
        })?;
        Ok((response.status, agent_stays, response.keep_alive, None))
    };

    let ended = {
        tokio::pin!(send);
        tokio::pin!(receive);
        let idle = activity.idle(limits.idle_timeout);
        tokio::pin!(idle);
        tokio::pin!(refused);
        let mut sending = true;
        loop {
            tokio::select! {
                biased;
                sent = &mut send, if sending => {
                    sending = false;
                    match sent {
                        // Where the upstream takes no more, its answer may be on its way.
                        Ok(()) | Err(RelayError::Sink) => {}
                        Err(RelayError::Source) => break Err(Failure::AgentGone),
                        Err(RelayError::Malformed(error)) => {
                            break Err(Failure::RequestBody(error));
                        }
                        Err(RelayError::Refused(failure)) => break Err(*failure),
                    }
                }
                received = &mut receive => break received,
                why = &mut refused => break Err(Failure::PolicyChanged(why)),
                () = &mut idle => break Err(activity.stalled(sending).into()),
            }
        }
    };
    let sent_whole = sent_whole.into_inner();
    match ended {
        Ok((status, agent_stays, upstream_stays, switched)) => {
            entry.status(status);
            Ok(Done {
                agent_stays,
                upstream_stays: upstream_stays && sent_whole,
                switched,
            })
        }
        Err(failure) => Err(Halt {
            failure,
            begun: begun.into_inner(),
            told: told.into_inner(),
        }),
    }
}

/// How an answer is read.
fn form(inspector: &mut Inspector<'_>, response: &ResponseHead) -> Result<Option<Form>, Failure> {
    let encodings: Vec<_> = response.all("content-encoding").collect();
    let content_types: Vec<_> = response.all("content-type").collect();
    inspector.form(&Head {
        status: response.status,
        content_types: &content_types,
        encodings: &encodings,
    })
}

fn unreadable(error: RelayError) -> Failure {
    match error {
        RelayError::Source => Failure::UpstreamGone,
        RelayError::Sink => Failure::AgentGone,
        RelayError::Malformed(error) => Failure::ResponseBody(error),
        RelayError::Refused(failure) => *failure,
    }
}

/// The final response head; interim ones are passed on.
async fn response_head(
    core: &Core,
    upstream: &mut Input<'_>,
    agent: &mut Output<'_>,
    request: &RequestHead,
    activity: &Activity,
) -> Result<ResponseHead, Failure> {
    let limits = &core.context.limits;
    let to_head = request.method == "HEAD";
    for interim in 0..=INTERIM_MAX {
        let block = upstream.head(limits).await.map_err(|error| match error {
            NoHead::Closed if interim == 0 => Failure::UpstreamClosed,
            NoHead::Closed | NoHead::Truncated => Failure::UpstreamGone,
            NoHead::Slow => Failure::UpstreamStalled,
            NoHead::Malformed(error) => Failure::Response(error),
        })?;
        activity.touch();
        let head = ResponseHead::parse(
            &block,
            limits.head_fields,
            to_head,
            request.opens_websocket(),
        )
        .map_err(Failure::Response)?;
        if !head.is_interim() {
            return Ok(head);
        }
        // HTTP/1.0 knows no interim responses.
        if request.version == Version::Http11 {
            let mut out = BytesMut::new();
            head.write(&mut out, request.version, true);
            agent.send(&out).await.map_err(|_| Failure::AgentGone)?;
        }
    }
    Err(Failure::InterimLimit)
}
