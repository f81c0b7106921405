//! The HTTP requests of one connection, one after the other, each decided on its own.

use std::{future::Future, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use tokio::{sync::SemaphorePermit, time::Instant};
use uuid::Uuid;

use super::{
    authorize,
    body::{RelayError, read_ahead},
    entry::Entry,
    exchange::{Done, Going, Halt, exchange},
    failure::Failure,
    http1::{
        HeadError,
        framing::Body,
        request::RequestHead,
        target::{Authority, PathAndQuery, Target, TargetError},
    },
    look::Seen,
    reply::{self, Reply, Shape},
    standing,
    upstream::Upstream,
    websocket,
    wire::{NoHead, Wire},
};
use crate::{
    app::Core,
    audit::{Blame, Kind},
    identity::Peer,
    inspect::Inspector,
    names::Host,
    policy::{Called, Facts, Permit, Policy, Request, Scheme},
    tls::Protocol,
};

/// Port of HTTP.
const HTTP_PORT: u16 = 80;
/// Port of HTTP in TLS.
const HTTPS_PORT: u16 = 443;

/// What a connection is already bound to, before a request says more.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Nothing: a connection to the gateway's own port.
    Explicit,
    /// The destination that the agent asked the kernel for.
    Redirected(SocketAddr),
    /// What CONNECT named.
    Tunnel(Host, u16),
    /// The host of TLS that the gateway opened.
    Opened(Host, u16),
}

/// The requests of one connection.
pub(crate) struct Session<'a> {
    core: &'a Core,
    peer: &'a Peer,
    scope: Scope,
    agent: Wire,
    upstream: Option<Upstream>,
    /// What the request under way calls on an MCP server.
    called: Option<Called>,
    deadline: Instant,
}

/// What becomes of a connection after a request.
pub(crate) enum Turn {
    /// It waits for the next.
    Next,
    /// It is closed, so that the last answer arrives.
    Close,
    /// It is reset, so that the last answer is not taken for whole.
    Reset,
    /// It becomes a tunnel to here.
    Connect(Host, u16),
}

impl Scope {
    /// The one place that a request is for, and the path there.
    fn place(&self, head: &RequestHead) -> Result<(Host, u16, PathAndQuery), HeadError> {
        let (named, path) = match &head.target {
            Target::Authority(..) => return Err(HeadError::Target(TargetError::Form)),
            Target::Absolute(authority, path) => {
                let port = authority.port.unwrap_or(HTTP_PORT);
                let host_agrees = head.host.as_ref().is_none_or(|named| {
                    named.host == authority.host && named.port.unwrap_or(HTTP_PORT) == port
                });
                if !host_agrees {
                    return Err(HeadError::HostMismatch);
                }
                let place = Authority {
                    host: authority.host.clone(),
                    port: Some(port),
                };
                (Some(place), path)
            }
            Target::Origin(path) => (head.host.clone(), path),
        };
        let (host, port) = match (self, named) {
            (_, Some(named)) => self.agrees(named)?,
            (Self::Explicit, None) => return Err(HeadError::HostMissing),
            (Self::Redirected(to), None) => (Host::Address(to.ip()), to.port()),
            (Self::Tunnel(host, port) | Self::Opened(host, port), None) => (host.clone(), *port),
        };
        Ok((host, port, path.clone()))
    }

    /// The place that a request names, where it agrees with the connection's.
    pub(crate) fn agrees(&self, named: Authority) -> Result<(Host, u16), HeadError> {
        match self {
            Self::Explicit => Ok((named.host, named.port.unwrap_or(HTTP_PORT))),
            Self::Redirected(to) if named.port.is_none_or(|port| port == to.port()) => {
                Ok((named.host, to.port()))
            }
            Self::Tunnel(host, port) | Self::Opened(host, port) if named.is(host, *port) => {
                Ok((named.host, *port))
            }
            Self::Redirected(_) | Self::Tunnel(..) | Self::Opened(..) => {
                Err(HeadError::HostMismatch)
            }
        }
    }

    /// How the upstream is spoken to.
    pub(crate) const fn scheme(&self) -> Scheme {
        match self {
            Self::Explicit | Self::Redirected(_) | Self::Tunnel(..) => Scheme::Http,
            Self::Opened(..) => Scheme::Https,
        }
    }

    /// The port that goes without saying.
    pub(crate) const fn usual_port(&self) -> u16 {
        match self {
            Self::Explicit | Self::Redirected(_) | Self::Tunnel(..) => HTTP_PORT,
            Self::Opened(..) => HTTPS_PORT,
        }
    }
}

impl<'a> Session<'a> {
    /// Takes over a connection on which HTTP was seen.
    pub(crate) const fn new(
        core: &'a Core,
        peer: &'a Peer,
        scope: Scope,
        agent: Wire,
        deadline: Instant,
    ) -> Self {
        Self {
            core,
            peer,
            scope,
            agent,
            upstream: None,
            called: None,
            deadline,
        }
    }

    /// With a connection that is open already, for requests that it serves.
    pub(crate) fn with_upstream(mut self, upstream: Upstream) -> Self {
        self.upstream = Some(upstream);
        self
    }

    /// Serves request after request. Comes back with the connection where one was a CONNECT to
    /// the gateway's own port.
    pub(crate) async fn run(mut self) -> Option<(Host, u16, Wire)> {
        let limits = &self.core.context.limits;
        for count in 1..=limits.requests_per_connection {
            let wait = if count == 1 {
                limits.head_timeout
            } else {
                limits.idle_timeout
            };
            let mut input = self.agent.input();
            let begun = tokio::select! {
                biased;
                begun = input.begins(wait) => begun,
                () = self.core.drain.cancelled() => false,
                () = tokio::time::sleep_until(self.deadline) => false,
            };
            if !begun {
                break;
            }
            let last = count == limits.requests_per_connection;
            match self.turn(last).await {
                Turn::Next => {}
                Turn::Close => break,
                Turn::Reset => {
                    self.agent.reset_on_close();
                    return None;
                }
                Turn::Connect(host, port) => return Some((host, port, self.agent)),
            }
        }
        self.agent.close().await;
        None
    }

    async fn turn(&mut self, last: bool) -> Turn {
        let limits = &self.core.context.limits;
        let block = match self.agent.input().head_in_time(limits).await {
            Ok(block) => block,
            Err(NoHead::Closed) => return Turn::Close,
            Err(NoHead::Truncated) => return self.refuse(&Failure::AgentGone).await,
            Err(NoHead::Slow) => return self.refuse(&Failure::RequestSlow).await,
            Err(NoHead::Malformed(error)) => return self.refuse(&Failure::Request(error)).await,
        };
        let head = match RequestHead::parse(&block, limits.head_fields) {
            Ok(head) => head,
            Err(error) => return self.refuse(&Failure::Request(error)).await,
        };
        match (&self.scope, &head.target) {
            (Scope::Explicit, Target::Authority(host, port)) => Turn::Connect(host.clone(), *port),
            (Scope::Explicit | Scope::Redirected(_) | Scope::Tunnel(..) | Scope::Opened(..), _) => {
                self.request(&head, last).await
            }
        }
    }

    async fn refuse(&mut self, failure: &Failure) -> Turn {
        record_and_answer(self.core, self.peer, Kind::Http, &mut self.agent, failure).await
    }

    async fn request(&mut self, head: &RequestHead, last: bool) -> Turn {
        let policy = self.core.policy();
        let shape = Shape {
            keep_alive: head.keep_alive && !last && head.body == Body::Empty,
            to_head: head.method == "HEAD",
        };
        let mut entry = match Entry::open(self.core, &policy, self.peer, Kind::Http).await {
            Ok(entry) => entry,
            Err(failure) => {
                return answer(&mut self.agent, &failure, Uuid::now_v7(), shape).await;
            }
        };
        let deadline = self.deadline;
        self.called = None;
        let carried = self.carry_out(&policy, &mut entry, head, last);
        match in_time(deadline, carried).await {
            Ok(turn) => {
                entry.done();
                turn
            }
            Err(Halt {
                failure,
                told: true,
                ..
            }) => {
                entry.failed(&failure);
                Turn::Close
            }
            Err(Halt {
                failure,
                begun: true,
                ..
            }) => {
                entry.failed(&failure);
                Turn::Reset
            }
            Err(Halt {
                failure,
                begun: false,
                ..
            }) => {
                let (event, report) = (entry.event(), failure.report());
                let reply = Reply::new(&failure, event, self.called.as_ref());
                entry.status(reply.status);
                entry.failed(&failure);
                let shape = Shape {
                    // What follows a request that is wrong in itself is not to be trusted.
                    keep_alive: shape.keep_alive && report.blame != Blame::Agent,
                    ..shape
                };
                send(&mut self.agent, &failure, &reply, shape).await
            }
        }
    }

    async fn carry_out(
        &mut self,
        policy: &Policy,
        entry: &mut Entry,
        head: &RequestHead,
        last: bool,
    ) -> Result<Turn, Halt> {
        entry.inspected();
        entry.asks(&head.method, None);
        let (host, port, path) = self.scope.place(head).map_err(Failure::Request)?;
        entry.target(&host, port);
        entry.asks(&head.method, Some(path.path()));
        let asked = match head.opens_websocket() {
            true => Some(websocket::Asked::read(head)?),
            false => None,
        };
        // Held for as long as what was read ahead may be in memory.
        let (seen, _room) = self.look(policy, head, &host, port).await?;
        let headers: Vec<_> = head.fields().collect();
        let facts = Facts {
            scheme: self.scope.scheme(),
            query: path.query(),
            headers: &headers,
            websocket: asked.is_some(),
            content: seen.content(),
        };
        let request = Request::Http {
            host: &host,
            port,
            method: &head.method,
            path: path.path(),
            facts: &facts,
        };
        self.called = policy.called(&request);
        if let Some(called) = &self.called {
            entry.calls(called.what.clone());
        }
        let agent = &self.peer.agent;
        let permit = authorize(self.core, policy, entry, &request, &host, port).await?;
        let mut inspector = self.called.as_ref().map(|called| {
            let from = (policy, &self.core.definitions);
            let most = self.core.context.limits.answer_bytes;
            Inspector::new(from, (agent, &request), called, most, entry.event())
        });
        if let Some(inspector) = &mut inspector {
            let refused = inspector.refuses_call();
            entry.noticed(inspector.take_noticed());
            refused.map_err(Failure::Denied)?;
        }
        let mut kept = self.upstream.take();
        kept.take_if(|kept| !kept.serves(&permit, &host, port));
        loop {
            let (mut upstream, reused) = match kept.take() {
                Some(kept) => (kept, true),
                None => (self.open(entry, &permit, &host, port).await?, false),
            };
            entry.dialled(upstream.address);
            let mut out = BytesMut::with_capacity(1024);
            let authority = authority(&host, port, self.scope.usual_port());
            let more = asked.as_ref().map(websocket::Asked::fields);
            head.write(&mut out, &path, &authority, &more.unwrap_or_default());
            let (agent, wire) = (&mut self.agent, &mut upstream.wire);
            let refused = standing::refused(self.core, &request);
            let going = Going {
                head,
                out,
                may_stay: !last,
                inspector: inspector.as_mut(),
            };
            let exchanged = exchange(self.core, entry, agent, wire, going, refused).await;
            if let Some(inspector) = &mut inspector {
                entry.noticed(inspector.take_noticed());
            }
            match exchanged {
                Ok(Done {
                    switched: Some(answer),
                    ..
                }) => {
                    let Some(asked) = &asked else {
                        return Err(Failure::Response(HeadError::Status).into());
                    };
                    let (agent, deadline) = (&mut self.agent, self.deadline);
                    let wire = &mut upstream.wire;
                    let refused = standing::refused(self.core, &request);
                    let served =
                        asked.serve(self.core, entry, (agent, wire), &answer, deadline, refused);
                    let served = Box::pin(served).await;
                    return match served {
                        Ok(()) => Ok(Turn::Close),
                        Err((failure, begun)) => Err(Halt {
                            failure,
                            begun,
                            told: begun,
                        }),
                    };
                }
                Ok(done) => {
                    self.upstream = done.upstream_stays.then_some(upstream);
                    return Ok(if done.agent_stays {
                        Turn::Next
                    } else {
                        Turn::Close
                    });
                }
                // The upstream closed a kept connection just when it was used again.
                Err(Halt {
                    failure: Failure::UpstreamClosed,
                    begun: false,
                    ..
                }) if reused && head.may_be_repeated() => {}
                Err(halt) => return Err(halt),
            }
        }
    }
}

impl<'a> Session<'a> {
    /// Reads the body ahead where a condition is about it.
    async fn look(
        &mut self,
        policy: &Policy,
        head: &RequestHead,
        host: &Host,
        port: u16,
    ) -> Result<(Seen, Option<SemaphorePermit<'a>>), Failure> {
        let limits = &self.core.context.limits;
        match head.body {
            Body::Empty => return Ok((Seen::Empty, None)),
            Body::Exactly(length) if length > limits.body_ahead as u64 => {
                return Ok((Seen::Unread, None));
            }
            _ if !policy.wants_body(host, port) => return Ok((Seen::Unread, None)),
            Body::Exactly(_) | Body::Chunked | Body::UntilClose => {}
        }
        let room = self.core.room_ahead().await?;
        if head.expects_continue() {
            let sent = self.agent.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            sent.map_err(|_| Failure::AgentGone)?;
        }
        let mut input = self.agent.input();
        let reading = read_ahead(&mut input, head.body, limits);
        let whole = tokio::time::timeout(limits.idle_timeout, reading)
            .await
            .map_err(|_| Failure::AgentStalled)?
            .map_err(|error| match error {
                RelayError::Malformed(error) => Failure::RequestBody(error),
                RelayError::Source | RelayError::Sink => Failure::AgentGone,
                RelayError::Refused(failure) => *failure,
            })?;
        // Those that the upstream will undo.
        let encodings = head.fields();
        let encodings = encodings.filter(|(name, _)| name.eq_ignore_ascii_case("content-encoding"));
        let encodings: Vec<_> = encodings.map(|(_, value)| value).collect();
        let seen = whole.map_or(Seen::Unread, |body| Seen::of(&body, &encodings));
        Ok((seen, Some(room)))
    }

    /// A new connection to the upstream.
    async fn open(
        &self,
        entry: &mut Entry,
        permit: &Permit,
        host: &Host,
        port: u16,
    ) -> Result<Upstream, Failure> {
        let plain = Upstream::open(self.core, entry, permit, host, port).await?;
        match self.scope {
            Scope::Explicit | Scope::Redirected(_) | Scope::Tunnel(..) => Ok(plain),
            Scope::Opened(..) => {
                let (secured, _) = plain.secure(self.core, &[Protocol::Http1]).await?;
                Ok(secured)
            }
        }
    }
}

/// A place as it stands in a Host field.
pub(crate) fn authority(host: &Host, port: u16, usual: u16) -> String {
    if port == usual {
        host.to_string()
    } else {
        format!("{host}:{port}")
    }
}

async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Halt>>,
) -> Result<T, Halt> {
    tokio::time::timeout_at(deadline, work)
        .await
        .unwrap_or(Err(Halt {
            failure: Failure::AgeLimit,
            begun: true,
            told: false,
        }))
}

/// Refuses something before it is a request, records that, answers, and closes.
pub(crate) async fn refuse(
    core: &Core,
    peer: &Peer,
    kind: Kind,
    mut agent: Wire,
    failure: &Failure,
) {
    record_and_answer(core, peer, kind, &mut agent, failure).await;
    agent.close().await;
}

async fn record_and_answer(
    core: &Core,
    peer: &Peer,
    kind: Kind,
    agent: &mut Wire,
    failure: &Failure,
) -> Turn {
    let shape = Shape {
        keep_alive: false,
        to_head: false,
    };
    match Entry::open(core, &core.policy(), peer, kind).await {
        Ok(mut entry) => {
            let event = entry.event();
            entry.status(failure.report().status);
            entry.failed(failure);
            answer(agent, failure, event, shape).await
        }
        Err(unavailable) => answer(agent, &unavailable, Uuid::now_v7(), shape).await,
    }
}

/// Sends the gateway's own answer.
pub(crate) async fn answer(agent: &mut Wire, failure: &Failure, event: Uuid, shape: Shape) -> Turn {
    send(agent, failure, &Reply::new(failure, event, None), shape).await
}

async fn send(agent: &mut Wire, failure: &Failure, reply: &Reply, shape: Shape) -> Turn {
    let answer: Bytes = reply::render(failure, reply, shape).into();
    match agent.send(&answer).await {
        Ok(()) if shape.keep_alive => Turn::Next,
        Ok(()) | Err(_) => Turn::Close,
    }
}
