//! TLS that is opened, since policy has to see what is inside: the gateway ends it towards the
//! agent in the host's name, and begins another towards the upstream, which it verifies.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    entry::Entry,
    failure::Failure,
    hello::Hello,
    http2,
    session::{Scope, Session},
    upstream::Upstream,
    wire::Wire,
};
use crate::{
    app::Core,
    identity::Peer,
    names::Host,
    policy::Policy,
    tls::{Protocol, is_distrusted},
};

/// Whether TLS to this place is to be opened.
pub(crate) fn wanted(policy: &Policy, hello: &Hello, host: &Host, port: u16) -> bool {
    policy.inspects(host, port) || hello.hides && policy.may_inspect(host, port)
}

/// What is opened, and for whom.
pub(crate) struct Opening<'a> {
    pub(crate) core: &'a Core,
    pub(crate) peer: &'a Peer,
    pub(crate) host: &'a Host,
    pub(crate) port: u16,
    pub(crate) deadline: Instant,
}

/// The upstream's end, as far as it came.
enum Far {
    /// HTTP/1.1, or nothing agreed on.
    Http1(Upstream),
    Http2(http2::Client),
    /// Its handshake failed. The agent gets to know with its first request.
    None,
}

impl Opening<'_> {
    /// Serves what comes through it. Each request has a record of its own; `entry` is the
    /// connection's.
    pub(crate) async fn serve(
        self,
        mut entry: Entry,
        agent: Wire,
        hello: &Hello,
        upstream: Upstream,
    ) {
        entry.inspected();
        let far = self.reach(hello, upstream).await;
        // The same protocol on both sides, so that neither is translated.
        let offer: &[Protocol] = match &far {
            Far::Http1(_) => &[Protocol::Http1],
            Far::Http2(_) => &[Protocol::Http2],
            Far::None => &Protocol::ALL,
        };
        let (agent, protocol) = match self.accept(agent, offer).await {
            Ok(accepted) => accepted,
            Err(failure) => return entry.failed(&failure),
        };
        let (core, peer, deadline) = (self.core, self.peer, self.deadline);
        let (host, port) = (self.host.clone(), self.port);
        match protocol {
            Protocol::Http1 => {
                let session = Session::new(core, peer, Scope::Opened(host, port), agent, deadline);
                let session = match far {
                    Far::Http1(upstream) => session.with_upstream(upstream),
                    Far::Http2(_) | Far::None => session,
                };
                // No CONNECT comes out of TLS.
                let _no_connect = session.run().await;
            }
            Protocol::Http2 => {
                let scope = Scope::Opened(host, port);
                let client = match far {
                    Far::Http2(client) => Some(client),
                    Far::Http1(_) | Far::None => None,
                };
                http2::serve(core, peer, &scope, agent.into_pipe(), client, deadline).await;
            }
        }
        entry.done();
    }

    /// Opens TLS to the upstream with what the agent offers.
    async fn reach(&self, hello: &Hello, upstream: Upstream) -> Far {
        let offer: &[Protocol] = match &hello.protocols[..] {
            [] => &[Protocol::Http1],
            offered => offered,
        };
        let reached = match upstream.secure(self.core, offer).await {
            Ok((upstream, Protocol::Http1)) => Ok(Far::Http1(upstream)),
            Ok((upstream, Protocol::Http2)) => http2::Client::over(self.core, upstream)
                .await
                .map(Far::Http2),
            Err(failure) => Err(failure),
        };
        reached.unwrap_or_else(|failure| {
            tracing::debug!(%failure, host = %self.host, "opening TLS to the upstream");
            Far::None
        })
    }

    async fn accept(&self, agent: Wire, offer: &[Protocol]) -> Result<(Wire, Protocol), Failure> {
        let context = &self.core.context;
        let failed = |error: std::io::Error| match is_distrusted(&error) {
            true => Failure::Distrusted(self.host.clone()),
            false => Failure::AgentTls(error.to_string()),
        };
        let acceptor = context
            .terminator
            .acceptor(self.host, offer)
            .map_err(failed)?;
        let stream = agent.into_prefixed().map_err(failed)?;
        let patience: Duration = context.limits.head_timeout;
        let stream = tokio::time::timeout(patience, acceptor.accept(stream))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        Ok((Wire::secured(stream.into()), protocol))
    }
}
