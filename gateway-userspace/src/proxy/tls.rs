//! TLS that comes without CONNECT: decided on the name in its ClientHello, relayed unopened.

use std::net::IpAddr;

use tokio::time::Instant;

use super::{
    authorize, entry::Entry, failure::Failure, sniff::hello, tunnel, upstream::Upstream, wire::Wire,
};
use crate::{
    app::Core,
    audit::Kind,
    identity::Peer,
    names::Host,
    policy::{Policy, Request},
};

/// TLS alert descriptions (RFC 8446, 6).
const ACCESS_DENIED: u8 = 49;
const INTERNAL_ERROR: u8 = 80;

/// Serves a connection that begins with a ClientHello. Without a name in it, it is for `address`.
pub(crate) async fn serve(
    core: &Core,
    peer: &Peer,
    mut agent: Wire,
    port: u16,
    address: Option<IpAddr>,
    deadline: Instant,
) {
    let policy = core.policy();
    let mut entry = match Entry::open(core, &policy, peer, Kind::Tls).await {
        Ok(entry) => entry,
        Err(failure) => return alert(agent, &failure).await,
    };
    match open(core, &policy, &mut entry, &mut agent, port, address).await {
        Ok(upstream) => tunnel::carry(core, entry, agent, upstream.wire, deadline).await,
        Err(failure) => refuse(entry, agent, &failure).await,
    }
}

async fn open(
    core: &Core,
    policy: &Policy,
    entry: &mut Entry,
    agent: &mut Wire,
    port: u16,
    address: Option<IpAddr>,
) -> Result<Upstream, Failure> {
    let named = hello(agent.input(), &core.context.limits)
        .await
        .map_err(Failure::Hello)?;
    let host = named
        .or(address.map(Host::Address))
        .ok_or(Failure::NoDestination)?;
    entry.target(&host, port);
    let request = Request::Tls { host: &host, port };
    let permit = authorize(core, policy, entry, &request, &host, port).await?;
    Upstream::open(core, entry, &permit, &host, port).await
}

/// Refuses TLS in its own terms, and records why.
pub(crate) async fn refuse(entry: Entry, agent: Wire, failure: &Failure) {
    entry.failed(failure);
    alert(agent, failure).await;
}

async fn alert(mut agent: Wire, failure: &Failure) {
    let description = if failure.report().refuses {
        ACCESS_DENIED
    } else {
        INTERNAL_ERROR
    };
    // Alert record, TLS 1.2 on the wire, two octets: fatal, and why.
    let record = [21, 3, 3, 0, 2, 2, description];
    if agent.send(&record).await.is_ok() {
        agent.close().await;
    }
}
