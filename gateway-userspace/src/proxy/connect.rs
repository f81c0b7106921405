//! CONNECT: a tunnel to a named place. What comes through it is decided again, with that place
//! fixed: TLS must name the same host, HTTP must be for it, and anything else needs a `tcp` rule.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    authorize, authorize_there,
    entry::Entry,
    failure::Failure,
    hello::{Hello, hello},
    http2, inspect,
    reply::{self, Reply, Shape},
    session::{Scope, Session},
    sniff::{Opening, sniff},
    standing::{Carries, Standing},
    tls, tunnel,
    upstream::Upstream,
    wire::Wire,
};
use crate::{
    app::Core,
    audit::Kind,
    identity::Peer,
    names::Host,
    policy::{Decision, Policy, Request},
};

/// The tunnel is there.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";

/// Serves a CONNECT to `host:port`, and what comes through it.
pub(crate) async fn serve(
    core: &Core,
    peer: &Peer,
    mut agent: Wire,
    host: &Host,
    port: u16,
    deadline: Instant,
) {
    let policy = core.policy();
    let mut entry = match Entry::open(core, &policy, peer, Kind::Connect).await {
        Ok(entry) => entry,
        Err(failure) => return refuse(agent, &failure, Uuid::now_v7()).await,
    };
    entry.target(host, port);
    entry.asks("CONNECT", None);
    let upstream = match open(core, &policy, &mut entry, host, port).await {
        Ok(upstream) => upstream,
        Err(failure) => {
            let event = entry.event();
            entry.status(failure.report().status);
            entry.failed(&failure);
            return refuse(agent, &failure, event).await;
        }
    };
    entry.status(200);
    if agent.send(ESTABLISHED).await.is_err() {
        return entry.failed(&Failure::AgentGone);
    }
    let tunnel = Tunnel {
        core,
        peer,
        policy,
        host,
        port,
        deadline,
    };
    tunnel.serve(entry, agent, upstream).await;
}

async fn open(
    core: &Core,
    policy: &Policy,
    entry: &mut Entry,
    host: &Host,
    port: u16,
) -> Result<Upstream, Failure> {
    let request = Request::Connect { host, port };
    let permit = authorize(core, policy, entry, &request, host, port).await?;
    Upstream::open(core, entry, &permit, host, port).await
}

async fn refuse(mut agent: Wire, failure: &Failure, event: Uuid) {
    let shape = Shape {
        keep_alive: false,
        to_head: false,
    };
    if agent
        .send(&reply::render(
            failure,
            &Reply::new(failure, event, None),
            shape,
        ))
        .await
        .is_ok()
    {
        agent.close().await;
    }
}

/// An open tunnel, before anything came through it.
struct Tunnel<'a> {
    core: &'a Core,
    peer: &'a Peer,
    policy: Arc<Policy>,
    host: &'a Host,
    port: u16,
    deadline: Instant,
}

impl Tunnel<'_> {
    async fn serve(self, mut entry: Entry, mut agent: Wire, upstream: Upstream) {
        // Before a byte is read: with some protocols the server speaks first.
        let raw = self.judge_raw(upstream.place());
        if raw.is_allowed() || !self.policy.sniffs(self.port) {
            return self.relay_raw(raw, entry, agent, upstream).await;
        }
        match sniff(&mut agent, &self.core.context.limits).await {
            Opening::Http => {
                let scope = Scope::Tunnel(self.host.clone(), self.port);
                let session = Session::new(self.core, self.peer, scope, agent, self.deadline);
                // Each request has a record of its own. No CONNECT comes out of a tunnel.
                let _no_connect = session.with_upstream(upstream).run().await;
                entry.done();
            }
            Opening::Http2 => {
                let scope = Scope::Tunnel(self.host.clone(), self.port);
                let (core, peer) = (self.core, self.peer);
                let upstream = http2::Client::over(core, upstream).await;
                let agent = agent.into_pipe();
                http2::serve(core, peer, &scope, agent, upstream.ok(), self.deadline).await;
                entry.done();
            }
            Opening::Tls => match self.read_hello(&mut agent).await {
                Ok(hello) if inspect::wanted(&self.policy, &hello, self.host, self.port) => {
                    let opening = inspect::Opening {
                        core: self.core,
                        peer: self.peer,
                        host: self.host,
                        port: self.port,
                        deadline: self.deadline,
                    };
                    opening.serve(entry, agent, &hello, upstream).await;
                }
                Ok(hello) => match self.judge_tls(&mut entry, &hello, &upstream).await {
                    Ok(()) => {
                        let carries = Carries::Tls(self.host);
                        let standing = Standing::new(&self.policy, carries, &upstream);
                        let (core, wire) = (self.core, upstream.wire);
                        tunnel::carry(core, entry, agent, wire, self.deadline, standing).await;
                    }
                    Err(failure) => tls::refuse(entry, agent, &failure).await,
                },
                Err(failure) => tls::refuse(entry, agent, &failure).await,
            },
            Opening::Opaque | Opening::Silent => {
                self.relay_raw(raw, entry, agent, upstream).await;
            }
            // Nothing came through it.
            Opening::Closed => entry.done(),
        }
    }

    /// Holds what comes through the tunnel to the address that was dialled.
    async fn authorize(
        &self,
        entry: &mut Entry,
        decision: Decision,
        upstream: &Upstream,
    ) -> Result<(), Failure> {
        let (policy, host, at) = (&self.policy, self.host, upstream.known_address());
        let there = authorize_there(self.core, policy, entry, decision, host, self.port, at);
        there.await.map(drop)
    }

    fn judge_raw(&self, destination: SocketAddr) -> Decision {
        let names = self.host.name().map(std::slice::from_ref);
        self.policy.decide(&Request::Tcp {
            destination,
            names: names.unwrap_or_default(),
        })
    }

    async fn relay_raw(
        &self,
        decision: Decision,
        mut entry: Entry,
        agent: Wire,
        upstream: Upstream,
    ) {
        match self.authorize(&mut entry, decision, &upstream).await {
            Ok(()) => {
                let carries = Carries::Named(self.host);
                let standing = Standing::new(&self.policy, carries, &upstream);
                let (core, wire) = (self.core, upstream.wire);
                tunnel::carry(core, entry, agent, wire, self.deadline, standing).await;
            }
            Err(failure) => {
                agent.reset_on_close();
                entry.failed(&failure);
            }
        }
    }

    /// Reads for whom TLS inside is: it must be the same host.
    async fn read_hello(&self, agent: &mut Wire) -> Result<Hello, Failure> {
        let hello = hello(agent.input(), &self.core.context.limits)
            .await
            .map_err(Failure::Hello)?;
        let same = match &hello.host {
            Some(named) => named == self.host,
            // TLS to an address names none (RFC 6066, 3).
            None => self.host.address().is_some(),
        };
        same.then_some(hello).ok_or(Failure::SniMismatch)
    }

    /// Decides TLS that stays closed, at the address that was dialled.
    async fn judge_tls(
        &self,
        entry: &mut Entry,
        hello: &Hello,
        upstream: &Upstream,
    ) -> Result<(), Failure> {
        let request = Request::Tls {
            host: self.host,
            port: self.port,
        };
        let decision = self.policy.decide(&request);
        if hello.hides {
            // Policy's own refusal is the better one, where it refuses.
            self.authorize(entry, decision, upstream).await?;
            return Err(Failure::HiddenHello);
        }
        self.authorize(entry, decision, upstream).await
    }
}
