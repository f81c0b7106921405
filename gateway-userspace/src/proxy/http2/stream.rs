//! One stream: a request, decided, carried out and answered.

use std::{
    future::poll_fn,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderValue, Request, Response, header, request};
use tokio::sync::SemaphorePermit;
use uuid::Uuid;

use super::{
    Shared,
    body::{Broken, BrokenOr, pump, pump_read, push, read_ahead},
    client::Client,
    head::{self, Asked},
};
use crate::{
    app::Core,
    audit::Kind,
    inspect::{Form, Head, Inspector, Unread},
    policy::{self, Called, Facts, Permit, Policy},
    proxy::{
        activity::{Activity, End},
        authorize,
        entry::Entry,
        exchange::INTERIM_MAX,
        failure::Failure,
        look::Seen,
        reply::Reply,
        session::Scope,
        standing,
        upstream::Upstream,
    },
    tls::Protocol,
};

/// Serves a request to its end.
pub(super) async fn serve(
    shared: &Shared<'_>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let policy = shared.core.policy();
    let (head, body) = request.into_parts();
    let mut entry = match Entry::open(shared.core, &policy, shared.peer, Kind::Http).await {
        Ok(entry) => entry,
        Err(failure) => {
            let reply = Reply::new(&failure, Uuid::now_v7(), None);
            return refuse(&mut respond, &head, &failure, reply);
        }
    };
    entry.inspected();
    let progress = Progress::default();
    let carried = carry_out(
        shared,
        &policy,
        &mut entry,
        &head,
        body,
        &mut respond,
        &progress,
    );
    match Box::pin(carried).await {
        Ok(()) => entry.done(),
        Err(failure) if progress.told.load(Ordering::Relaxed) => entry.failed(&failure),
        Err(failure) if progress.begun.load(Ordering::Relaxed) => {
            entry.failed(&failure);
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
        Err(failure) => {
            let reply = Reply::new(&failure, entry.event(), progress.called.get());
            entry.status(reply.status);
            entry.failed(&failure);
            refuse(&mut respond, &head, &failure, reply);
        }
    }
}

/// How far a request came, for what is said when it fails.
#[derive(Default)]
struct Progress {
    /// Whether the agent has the head of the response.
    begun: AtomicBool,
    /// Whether it was told why the rest does not come.
    told: AtomicBool,
    /// What it calls on an MCP server.
    called: OnceLock<Called>,
}

/// How an answer is read.
fn form(
    inspector: &mut Inspector<'_>,
    parts: &http::response::Parts,
) -> Result<Option<Form>, Failure> {
    let encodings = parts.headers.get_all(header::CONTENT_ENCODING);
    let encodings: Vec<_> = encodings.iter().map(HeaderValue::as_bytes).collect();
    let content_types = parts.headers.get_all(header::CONTENT_TYPE);
    let content_types: Vec<_> = content_types.iter().map(HeaderValue::as_bytes).collect();
    inspector.form(&Head {
        status: parts.status.as_u16(),
        content_types: &content_types,
        encodings: &encodings,
    })
}

async fn carry_out(
    shared: &Shared<'_>,
    policy: &Policy,
    entry: &mut Entry,
    head: &request::Parts,
    mut body: RecvStream,
    respond: &mut SendResponse<Bytes>,
    progress: &Progress,
) -> Result<(), Failure> {
    let method = head.method.as_str();
    entry.asks(method, None);
    let limits = &shared.core.context.limits;
    let asked = head::read(head, shared.scope, limits.head_fields).map_err(Failure::Request)?;
    entry.target(&asked.host, asked.port);
    entry.asks(method, Some(asked.path.path()));
    let (seen, ahead, room) = look(shared.core, policy, head, &asked, &mut body).await?;
    let headers = head::fields(&head.headers);
    let facts = Facts {
        scheme: shared.scope.scheme(),
        query: asked.path.query(),
        headers: &headers,
        websocket: false,
        content: seen.content(),
    };
    let question = policy::Request::Http {
        host: &asked.host,
        port: asked.port,
        method,
        path: asked.path.path(),
        facts: &facts,
    };
    let (host, port) = (&asked.host, asked.port);
    if let Some(called) = policy.called(&question) {
        entry.calls(called.what.clone());
        let _first = progress.called.set(called);
    }
    let permit = authorize(shared.core, policy, entry, &question, host, port).await?;
    let mut inspector = progress.called.get().map(|called| {
        let from = (policy, &shared.core.definitions);
        let asked = (&shared.peer.agent, &question);
        Inspector::new(from, asked, called, limits.answer_bytes, entry.event())
    });
    if let Some(inspector) = &mut inspector {
        let refused = inspector.refuses_call();
        entry.noticed(inspector.take_noticed());
        refused.map_err(Failure::Denied)?;
    }
    let out = head::request(head, &asked, shared.scope).map_err(Failure::Request)?;
    let sender = sender(shared, entry, &permit, &asked).await?;
    let refused = standing::refused(shared.core, &question);
    let body = Upload {
        ahead,
        room,
        rest: body,
    };
    let agent = Agent {
        respond,
        inspector: inspector.as_mut(),
        progress,
    };
    let exchange = exchange(shared, entry, sender, out, body, agent);
    let ended = tokio::select! {
        ended = exchange => ended,
        why = refused => Err(Failure::PolicyChanged(why)),
    };
    if let Some(inspector) = &mut inspector {
        entry.noticed(inspector.take_noticed());
    }
    ended
}

/// The agent's end of a stream.
struct Agent<'a, 'i> {
    respond: &'a mut SendResponse<Bytes>,
    /// Who reads the answer, if anybody.
    inspector: Option<&'a mut Inspector<'i>>,
    progress: &'a Progress,
}

/// The body of a request, of which some may have been read.
struct Upload<'a> {
    ahead: Bytes,
    /// Held for as long as that is in memory.
    room: Option<SemaphorePermit<'a>>,
    rest: RecvStream,
}

/// Reads the body ahead where a condition is about it.
async fn look<'a>(
    core: &'a Core,
    policy: &Policy,
    head: &request::Parts,
    asked: &Asked,
    body: &mut RecvStream,
) -> Result<(Seen, Bytes, Option<SemaphorePermit<'a>>), Failure> {
    if body.is_end_stream() {
        return Ok((Seen::Empty, Bytes::new(), None));
    }
    if !policy.wants_body(&asked.host, asked.port) {
        return Ok((Seen::Unread, Bytes::new(), None));
    }
    let limits = &core.context.limits;
    let room = core.room_ahead().await?;
    let activity = Activity::begin();
    let read = read_ahead(body, limits.body_ahead, &activity);
    let (ahead, whole) = tokio::time::timeout(limits.idle_timeout, read)
        .await
        .map_err(|_| Failure::AgentStalled)?
        .map_err(|_| Failure::AgentGone)?;
    let encodings = head.headers.get_all(header::CONTENT_ENCODING);
    let encodings: Vec<_> = encodings.iter().map(HeaderValue::as_bytes).collect();
    let seen = match whole {
        true => Seen::of(&ahead, &encodings),
        false => Seen::Unread,
    };
    Ok((seen, ahead, Some(room)))
}

/// A place for the request on the connection to the upstream, or on a new one.
async fn sender(
    shared: &Shared<'_>,
    entry: &mut Entry,
    permit: &Permit,
    asked: &Asked,
) -> Result<SendRequest<Bytes>, Failure> {
    let mut kept = shared.upstream.lock().await;
    if let Some(client) = kept
        .clone()
        .filter(|client| client.serves(permit, &asked.host, asked.port))
    {
        let address = client.address;
        let patience = shared.core.context.limits.idle_timeout;
        let ready = tokio::time::timeout(patience, client.ready()).await;
        match ready.map_err(|_| Failure::UpstreamStalled)? {
            Ok(sender) => {
                entry.dialled(address);
                return Ok(sender);
            }
            Err(error) => tracing::debug!(%error, "the upstream takes no more on a connection"),
        }
    }
    let plain = Upstream::open(shared.core, entry, permit, &asked.host, asked.port).await?;
    let upstream = match shared.scope {
        Scope::Opened(..) => match plain.secure(shared.core, &[Protocol::Http2]).await? {
            (upstream, Protocol::Http2) => upstream,
            (_, Protocol::Http1) => {
                return Err(Failure::UpstreamTls("it does not speak HTTP/2".to_owned()));
            }
        },
        Scope::Explicit | Scope::Redirected(_) | Scope::Tunnel(..) => plain,
    };
    let client = Client::over(shared.core, upstream).await?;
    *kept = Some(client.clone());
    client.ready().await.map_err(Failure::UpstreamHttp2)
}

/// Sends the request and relays the response, both at the same time.
async fn exchange(
    shared: &Shared<'_>,
    entry: &mut Entry,
    mut sender: SendRequest<Bytes>,
    out: Request<()>,
    mut body: Upload<'_>,
    agent: Agent<'_, '_>,
) -> Result<(), Failure> {
    let Agent {
        respond,
        inspector,
        progress: Progress { begun, told, .. },
    } = agent;
    let limits = &shared.core.context.limits;
    let activity = Activity::begin();
    let no_body = body.ahead.is_empty() && body.rest.is_end_stream();
    let (response, mut upload) = sender
        .send_request(out, no_body)
        .map_err(Failure::UpstreamHttp2)?;
    // The connection may go once the last of its streams has.
    drop(sender);
    let traffic = &entry.traffic;
    let status = std::sync::atomic::AtomicU16::new(0);
    let send = async {
        if no_body {
            return Ok(());
        }
        let sent = async {
            let ahead = std::mem::take(&mut body.ahead);
            push((&mut upload, End::Upstream), ahead, &activity, &traffic.out).await?;
            drop(body.room.take());
            pump(
                &mut body.rest,
                (&mut upload, End::Upstream),
                &activity,
                &traffic.out,
            )
            .await
        };
        match sent.await {
            Err(Broken::Source) => {
                upload.send_reset(Reason::CANCEL);
                Err(Failure::AgentGone)
            }
            // Where the upstream takes no more, its answer may be on its way.
            Ok(()) | Err(Broken::Sink) => Ok(()),
        }
    };
    let receive = async {
        let response = response_head(response, respond, &activity).await?;
        let (parts, mut download) = response.into_parts();
        let ends = download.is_end_stream();
        let form = match inspector {
            Some(inspector) if !ends => {
                let form = form(inspector, &parts)?;
                form.map(|form| (inspector, form))
            }
            Some(_) | None => None,
        };
        let out = match form {
            None => head::response(&parts),
            Some((inspector, Form::Events(mut events))) => {
                status.store(parts.status.as_u16(), Ordering::Relaxed);
                begun.store(true, Ordering::Relaxed);
                let mut sink = respond
                    .send_response(head::response_read(&parts, None), false)
                    .map_err(Failure::AgentHttp2)?;
                let reading = (inspector, &mut *events);
                let count = &traffic.back;
                let pumped = pump_read(&mut download, &mut sink, reading, &activity, count).await;
                return pumped.map_err(|broken| match broken {
                    BrokenOr::Refused(failure) => {
                        told.store(true, Ordering::Relaxed);
                        failure
                    }
                    BrokenOr::Broken(Broken::Sink) => Failure::AgentGone,
                    BrokenOr::Broken(Broken::Source) => {
                        sink.send_reset(Reason::INTERNAL_ERROR);
                        Failure::UpstreamGone
                    }
                });
            }
            Some((inspector, Form::Whole(whole))) => {
                let _room = shared.core.room_for_answer().await?;
                let read = read_ahead(&mut download, limits.answer_bytes, &activity).await;
                let (body, true) = read.map_err(|_| Failure::UpstreamGone)? else {
                    return Err(Failure::AnswerUnread(Unread::TooLarge));
                };
                let body = inspector.whole(whole, &body)?;
                status.store(parts.status.as_u16(), Ordering::Relaxed);
                begun.store(true, Ordering::Relaxed);
                let mut sink = respond
                    .send_response(head::response_read(&parts, Some(body.len())), false)
                    .map_err(Failure::AgentHttp2)?;
                push((&mut sink, End::Agent), body, &activity, &traffic.back)
                    .await
                    .map_err(|_| Failure::AgentGone)?;
                return sink
                    .send_data(Bytes::new(), true)
                    .map_err(Failure::AgentHttp2);
            }
        };
        status.store(parts.status.as_u16(), Ordering::Relaxed);
        begun.store(true, Ordering::Relaxed);
        let mut sink = respond
            .send_response(out, ends)
            .map_err(Failure::AgentHttp2)?;
        if ends {
            return Ok(());
        }
        match pump(
            &mut download,
            (&mut sink, End::Agent),
            &activity,
            &traffic.back,
        )
        .await
        {
            Ok(()) => Ok(()),
            Err(Broken::Source) => {
                sink.send_reset(Reason::INTERNAL_ERROR);
                Err(Failure::UpstreamGone)
            }
            Err(Broken::Sink) => Err(Failure::AgentGone),
        }
    };
    let ended = {
        tokio::pin!(send);
        tokio::pin!(receive);
        let idle = activity.idle(limits.idle_timeout);
        tokio::pin!(idle);
        let mut sending = true;
        loop {
            tokio::select! {
                biased;
                sent = &mut send, if sending => {
                    sending = false;
                    if let Err(failure) = sent {
                        break Err(failure);
                    }
                }
                received = &mut receive => break received,
                () = &mut idle => break Err(activity.stalled(sending).into()),
            }
        }
    };
    if let status @ 1.. = status.into_inner() {
        entry.status(status);
    }
    ended
}

/// The final response's head; interim ones are passed on.
async fn response_head(
    mut response: ResponseFuture,
    respond: &mut SendResponse<Bytes>,
    activity: &Activity,
) -> Result<Response<RecvStream>, Failure> {
    let mut interim = 0;
    loop {
        tokio::select! {
            biased;
            informed = poll_fn(|context| response.poll_informational(context)) => match informed {
                Some(Ok(head)) => {
                    activity.touch();
                    interim += 1;
                    if interim > INTERIM_MAX {
                        return Err(Failure::InterimLimit);
                    }
                    let (parts, ()) = head.into_parts();
                    respond
                        .send_informational(head::response(&parts))
                        .map_err(Failure::AgentHttp2)?;
                }
                Some(Err(error)) => return Err(upstream(error)),
                None => return (&mut response).await.map_err(upstream),
            },
            gone = poll_fn(|context| respond.poll_reset(context)) => {
                tracing::debug!(?gone, "the agent took its request back");
                return Err(Failure::AgentGone);
            }
        }
    }
}

fn upstream(error: h2::Error) -> Failure {
    if error.is_io() {
        Failure::UpstreamClosed
    } else {
        Failure::UpstreamHttp2(error)
    }
}

/// Answers for the gateway itself: as JSON, or in gRPC's terms to who speaks gRPC.
fn refuse(
    respond: &mut SendResponse<Bytes>,
    head: &request::Parts,
    failure: &Failure,
    Reply { status, body }: Reply,
) {
    let answered = if is_grpc(head) {
        respond.send_response(grpc(failure, &body), true).map(drop)
    } else {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().unwrap_or(http::StatusCode::BAD_GATEWAY);
        let fields = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        fields.insert(header::CONTENT_TYPE, json);
        fields.insert(header::CONTENT_LENGTH, body.len().into());
        if let Some(seconds) = failure.retry_after() {
            fields.insert(header::RETRY_AFTER, seconds.into());
        }
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let without_body = head.method == http::Method::HEAD;
        respond
            .send_response(response, without_body)
            .and_then(|mut sink| {
                if without_body {
                    return Ok(());
                }
                sink.send_data(body.into(), true)
            })
    };
    if let Err(error) = answered {
        tracing::debug!(%error, "the agent does not take its answer");
    }
}

fn is_grpc(head: &request::Parts) -> bool {
    head.headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        let rest = kind.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest, [] | [b'+' | b';' | b' ', ..]))
    })
}

/// A response without a body, whose fields say what went wrong (gRPC's "Trailers-Only").
fn grpc(failure: &Failure, body: &str) -> Response<()> {
    let code: u16 = match failure.report().status {
        403 => 7,
        429 => 8,
        501 => 12,
        502 | 503 => 14,
        504 => 4,
        _of_the_request => 3,
    };
    let mut response = Response::new(());
    let fields = response.headers_mut();
    let kind = HeaderValue::from_static("application/grpc");
    fields.insert(header::CONTENT_TYPE, kind);
    fields.insert("grpc-status", code.into());
    if let Ok(message) = HeaderValue::try_from(percent_encode(body.trim_end())) {
        fields.insert("grpc-message", message);
    }
    response
}

/// As gRPC encodes messages: what is not printable ASCII, and the percent sign itself.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _other => {
                let _infallible = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_grpc_are_printable() {
        assert_eq!(percent_encode("a b%\n\u{e4}"), "a b%25%0A%C3%A4");
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let request = Request::builder().header("content-type", kind);
            let (head, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(is_grpc(&head), expected, "{kind}");
        }
    }
}
