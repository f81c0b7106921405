//! One HTTP/2 connection to an upstream, for the requests of one connection from an agent.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;

use super::{CONNECTION_WINDOW, RESETS, SEND_BUFFER, STREAM_WINDOW};
use crate::{
    app::Core,
    names::Host,
    policy::Permit,
    proxy::{failure::Failure, upstream::Upstream},
};

/// A connection on which requests can be sent. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    send: SendRequest<Bytes>,
    /// The place that it was opened for.
    host: Host,
    port: u16,
    /// The address that was dialled: the proxy's, where one is between.
    pub(super) address: SocketAddr,
}

impl Client {
    /// Begins HTTP/2 on this connection.
    ///
    /// # Errors
    /// If the upstream does not.
    pub(crate) async fn over(core: &Core, upstream: Upstream) -> Result<Self, Failure> {
        let (host, port) = (upstream.host.clone(), upstream.port);
        let limits = &core.context.limits;
        let mut settings = h2::client::Builder::new();
        settings
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS)
            .max_pending_accept_reset_streams(RESETS);
        let handshake = settings.handshake(upstream.wire.into_pipe());
        let patience: Duration = limits.connect_timeout;
        let (send, connection) = tokio::time::timeout(patience, handshake)
            .await
            .map_err(|_| Failure::UpstreamStalled)?
            .map_err(Failure::UpstreamHttp2)?;
        // Ends with the last stream, once nobody can begin another.
        core.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 with an upstream");
            }
        });
        Ok(Self {
            send,
            host,
            port,
            address: upstream.address,
        })
    }

    /// Whether a request to this place, with this permit, may go over it.
    pub(super) fn serves(&self, permit: &Permit, host: &Host, port: u16) -> bool {
        self.port == port && self.host == *host && permit.addresses().contains(&self.address)
    }

    /// Waits until the upstream takes another request.
    ///
    /// # Errors
    /// If it takes none any more.
    pub(super) async fn ready(self) -> Result<SendRequest<Bytes>, h2::Error> {
        self.send.ready().await
    }
}
