//! Connections that are neither HTTP nor TLS: decided on the address that the agent asked for,
//! and on the names that stand for it.

use std::{net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use super::{
    authorize_there,
    entry::Entry,
    failure::Failure,
    standing::{Carries, Standing},
    tunnel,
    upstream::Upstream,
    wire::Wire,
};
use crate::{
    app::Core,
    audit::Kind,
    identity::Peer,
    names::{Host, HostName},
    policy::{Decision, Policy, Request},
};

/// What policy says to a raw connection there.
pub(crate) async fn judge(
    core: &Core,
    policy: &Policy,
    peer: &Peer,
    destination: SocketAddr,
) -> Decision {
    let mut names = core.names_given(&peer.agent, destination.ip());
    let decision = policy.decide(&Request::Tcp {
        destination,
        names: &names,
    });
    if decision.is_allowed() {
        return decision;
    }
    // The agent may know the address from elsewhere: see what the names in the rules lead to.
    let fresh = names_leading_to(core, policy, destination).await;
    if fresh.is_empty() {
        return decision;
    }
    names.extend(fresh);
    policy.decide(&Request::Tcp {
        destination,
        names: &names,
    })
}

/// Those of the names that raw TCP rules have for this port which resolve to the destination.
async fn names_leading_to(core: &Core, policy: &Policy, destination: SocketAddr) -> Vec<HostName> {
    let resolver = &core.context.resolver;
    let mut found = Vec::new();
    let resolving = async {
        for name in policy.tcp_names(destination.port()) {
            let addresses = resolver.lookup_name(policy, name).await.unwrap_or_default();
            if addresses
                .iter()
                .any(|ip| ip.to_canonical() == destination.ip())
            {
                found.push(name.clone());
            }
        }
    };
    // What was found by then counts; the rest does not match.
    let _either_way = tokio::time::timeout(core.context.limits.resolve_timeout, resolving).await;
    found
}

/// Relays or resets, as decided.
pub(crate) async fn serve(
    core: &Core,
    policy: &Arc<Policy>,
    peer: &Peer,
    agent: Wire,
    destination: SocketAddr,
    decision: Decision,
    deadline: Instant,
) {
    let mut entry = match Entry::open(core, policy, peer, Kind::Tcp).await {
        Ok(entry) => entry,
        Err(_) => return agent.reset_on_close(),
    };
    match open(core, policy, &mut entry, destination, decision).await {
        Ok(upstream) => {
            let carries = Carries::Redirected(peer, destination);
            let standing = Standing::new(policy, carries, &upstream);
            tunnel::carry(core, entry, agent, upstream.wire, deadline, standing).await;
        }
        Err(failure) => {
            agent.reset_on_close();
            entry.failed(&failure);
        }
    }
}

async fn open(
    core: &Core,
    policy: &Policy,
    entry: &mut Entry,
    destination: SocketAddr,
    decision: Decision,
) -> Result<Upstream, Failure> {
    let host = Host::Address(destination.ip());
    let port = destination.port();
    entry.target(&host, port);
    let permit = authorize_there(
        core,
        policy,
        entry,
        decision,
        &host,
        port,
        Some(destination.ip()),
    )
    .await?;
    Upstream::open(core, entry, &permit, &host, port).await
}
