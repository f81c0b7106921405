//! HTTP/2 from an agent, relayed as HTTP/2: each stream is a request, decided on its own.
//!
//! The protocol itself is the `h2` crate's, which also bounds header lists, resets and pings;
//! what goes upstream is made anew from what was decided on.

mod body;
mod client;
mod head;
mod stream;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use h2::server::Connection;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

pub(crate) use client::Client;

use super::{entry::Entry, failure::Failure, pipe::Pipe, session::Scope};
use crate::{app::Core, audit::Kind, config::Limits, identity::Peer};

/// Streams that an agent may have open at once on one connection.
const STREAMS: u32 = 128;
/// Octets that may be under way on one stream, each way.
const STREAM_WINDOW: u32 = 256 << 10;
/// Octets that may be under way on one connection, each way.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Octets that wait to be sent on one stream.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that were reset and not forgotten yet.
const RESETS: usize = 32;

/// What the streams of one connection share.
struct Shared<'a> {
    core: &'a Core,
    peer: &'a Peer,
    scope: &'a Scope,
    upstream: Mutex<Option<Client>>,
}

/// Serves the requests of one connection, to its end.
pub(crate) async fn serve(
    core: &Core,
    peer: &Peer,
    scope: &Scope,
    agent: Pipe,
    upstream: Option<Client>,
    deadline: Instant,
) {
    let limits = &core.context.limits;
    let handshake = settings(limits).handshake(agent);
    let agent = match timeout(limits.head_timeout, handshake).await {
        Ok(Ok(agent)) => agent,
        Ok(Err(error)) => return broken(core, peer, &Failure::AgentHttp2(error)).await,
        Err(_) => return broken(core, peer, &Failure::RequestSlow).await,
    };
    let shared = Shared {
        core,
        peer,
        scope,
        upstream: Mutex::new(upstream),
    };
    if let Err(error) = Box::pin(streams(&shared, agent, deadline)).await
        && !error.is_io()
        && !error.is_remote()
    {
        broken(core, peer, &Failure::AgentHttp2(error)).await;
    }
}

fn settings(limits: &Limits) -> h2::server::Builder {
    let mut settings = h2::server::Builder::new();
    settings
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS);
    settings
}

/// Records that the connection as a whole is at fault.
async fn broken(core: &Core, peer: &Peer, failure: &Failure) {
    if let Ok(entry) = Entry::open(core, &core.policy(), peer, Kind::Http).await {
        entry.failed(failure);
    }
}

async fn streams(
    shared: &Shared<'_>,
    mut agent: Connection<Pipe, Bytes>,
    deadline: Instant,
) -> Result<(), h2::Error> {
    let limits = &shared.core.context.limits;
    let mut open = FuturesUnordered::new();
    let mut left = limits.requests_per_connection;
    let mut leaving = false;
    let idle = tokio::time::sleep(limits.idle_timeout);
    tokio::pin!(idle);
    loop {
        tokio::select! {
            accepted = agent.accept() => match accepted {
                Some(accepted) => {
                    let (request, mut respond) = accepted?;
                    if left == 0 {
                        // It goes on though it was told not to.
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    open.push(stream::serve(shared, request, respond));
                    left -= 1;
                    if left == 0 {
                        agent.graceful_shutdown();
                        leaving = true;
                    }
                }
                None => break,
            },
            Some(()) = open.next(), if !open.is_empty() => {
                idle.as_mut().reset(Instant::now() + limits.idle_timeout);
            }
            () = shared.core.drain.cancelled(), if !leaving => {
                agent.graceful_shutdown();
                leaving = true;
            }
            () = &mut idle, if open.is_empty() => {
                if leaving {
                    break;
                }
                agent.graceful_shutdown();
                leaving = true;
                idle.as_mut().reset(Instant::now() + limits.head_timeout);
            }
            () = tokio::time::sleep_until(deadline) => {
                agent.abrupt_shutdown(h2::Reason::NO_ERROR);
                break;
            }
        }
    }
    // What is still open is cut, and its records say so.
    drop(open);
    let flush = std::future::poll_fn(|context| agent.poll_closed(context));
    timeout(limits.head_timeout, flush).await.unwrap_or(Ok(()))
}
