//! The data path of one connection: identify → sniff → decide → dial → relay → record.
//!
//! One port serves everything; what an agent says first tells which protocol it is. Nothing
//! reaches an upstream but through [`dial`], which asks for a permit, and nothing is forwarded
//! before there is room for its audit record.

mod activity;
pub(crate) mod admission;
mod authorize;
mod body;
mod connect;
mod dial;
pub(crate) mod entry;
mod exchange;
pub(crate) mod failure;
pub(crate) mod hello;
pub(crate) mod http1;
mod http2;
mod inspect;
mod look;
mod pipe;
mod raw;
pub(crate) mod reply;
mod session;
mod sniff;
mod standing;
mod tls;
mod tunnel;
mod upstream;
mod websocket;
pub(crate) mod wire;

use std::net::SocketAddr;

use tokio::{net::TcpStream, time::Instant};

pub use admission::Counters;
pub(crate) use authorize::{authorize, authorize_there};
pub(crate) use dial::dial_address;

use self::{
    session::{Scope, Session},
    sniff::{Opening, sniff},
    wire::Wire,
};
use crate::{app::Core, audit::Kind, dns, identity::Peer};

/// Port of TLS that comes without a destination, to the gateway's own port.
const TLS_PORT: u16 = 443;
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// Serves one connection of this peer, to its end.
pub(crate) async fn serve(core: &Core, stream: TcpStream, peer: &Peer) {
    let agent = Wire::new(stream);
    let deadline = Instant::now() + core.context.limits.total_timeout;
    match peer.original {
        None => explicit(core, peer, agent, deadline).await,
        Some(original) if original.0.port() == DNS_PORT => {
            dns::server::serve_stream(core, peer, agent, deadline).await;
        }
        Some(original) => {
            let ip = original.0.ip().to_canonical();
            let destination = SocketAddr::new(ip, original.0.port());
            redirected(core, peer, agent, destination, deadline).await;
        }
    }
}

/// A connection to the gateway's own port.
async fn explicit(core: &Core, peer: &Peer, mut agent: Wire, deadline: Instant) {
    match sniff(&mut agent, &core.context.limits).await {
        // HTTP/2 without TLS is told that a proxy is asked in HTTP/1.1.
        Opening::Http | Opening::Http2 => {
            let session = Session::new(core, peer, Scope::Explicit, agent, deadline);
            if let Some((host, port, agent)) = session.run().await {
                connect::serve(core, peer, agent, &host, port, deadline).await;
            }
        }
        Opening::Tls => tls::serve(core, peer, agent, TLS_PORT, None, deadline).await,
        Opening::Opaque => {
            let failure = failure::Failure::NoDestination;
            session::refuse(core, peer, Kind::Tcp, agent, &failure).await;
        }
        Opening::Silent | Opening::Closed => {}
    }
}

/// A connection that the kernel half sent here instead of to `destination`.
async fn redirected(
    core: &Core,
    peer: &Peer,
    mut agent: Wire,
    destination: SocketAddr,
    deadline: Instant,
) {
    let policy = core.policy();
    // Before a byte is read: with some protocols the server speaks first.
    let decision = raw::judge(core, &policy, peer, destination).await;
    if decision.is_allowed() || !policy.sniffs(destination.port()) {
        return raw::serve(core, &policy, peer, agent, destination, decision, deadline).await;
    }
    match sniff(&mut agent, &core.context.limits).await {
        Opening::Http => {
            let scope = Scope::Redirected(destination);
            // CONNECT belongs to the gateway's own port; this scope never asks for it.
            let _no_connect = Session::new(core, peer, scope, agent, deadline).run().await;
        }
        Opening::Http2 => {
            let scope = Scope::Redirected(destination);
            http2::serve(core, peer, &scope, agent.into_pipe(), None, deadline).await;
        }
        Opening::Tls => {
            let (port, address) = (destination.port(), Some(destination.ip()));
            tls::serve(core, peer, agent, port, address, deadline).await;
        }
        Opening::Opaque | Opening::Silent => {
            raw::serve(core, &policy, peer, agent, destination, decision, deadline).await;
        }
        Opening::Closed => {}
    }
}
