//! TLS that comes without CONNECT: decided on the name in its ClientHello, and relayed unopened
//! or opened, as policy needs it.

use std::net::IpAddr;

use tokio::time::Instant;

use super::{
    authorize,
    entry::Entry,
    failure::Failure,
    hello::{Hello, hello},
    inspect,
    standing::{Carries, Standing},
    tunnel,
    upstream::Upstream,
    wire::Wire,
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
    let (hello, host) = match ask(core, &mut agent, address).await {
        Ok(asked) => asked,
        Err(failure) => return refuse(entry, agent, &failure).await,
    };
    entry.target(&host, port);
    let opens = inspect::wanted(&policy, &hello, &host, port);
    let upstream = match open(core, &policy, &mut entry, &host, port, opens).await {
        Ok(_) if hello.hides && !opens => Err(Failure::HiddenHello),
        opened => opened,
    };
    match upstream {
        Ok(upstream) if opens => {
            let opening = inspect::Opening {
                core,
                peer,
                host: &host,
                port,
                deadline,
            };
            opening.serve(entry, agent, &hello, upstream).await;
        }
        Ok(upstream) => {
            let standing = Standing::new(&policy, Carries::Tls(&host), &upstream);
            tunnel::carry(core, entry, agent, upstream.wire, deadline, standing).await;
        }
        Err(failure) => refuse(entry, agent, &failure).await,
    }
}

/// Reads for whom it is.
async fn ask(
    core: &Core,
    agent: &mut Wire,
    address: Option<IpAddr>,
) -> Result<(Hello, Host), Failure> {
    let hello = hello(agent.input(), &core.context.limits)
        .await
        .map_err(Failure::Hello)?;
    let named = hello.host.clone().or(address.map(Host::Address));
    let host = named.ok_or(Failure::NoDestination)?;
    Ok((hello, host))
}

async fn open(
    core: &Core,
    policy: &Policy,
    entry: &mut Entry,
    host: &Host,
    port: u16,
    opens: bool,
) -> Result<Upstream, Failure> {
    // What is inside is decided again, request by request.
    let request = match opens {
        true => Request::Connect { host, port },
        false => Request::Tls { host, port },
    };
    let permit = authorize(core, policy, entry, &request, host, port).await?;
    Upstream::open(core, entry, &permit, host, port).await
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
