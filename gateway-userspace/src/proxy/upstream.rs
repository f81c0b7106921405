//! A connection to an upstream, with what it was opened for.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    dial::dial, entry::Entry, exchange::INTERIM_MAX, failure::Failure,
    http1::response::ResponseHead, wire::Wire,
};
use crate::{
    app::Core,
    names::Host,
    policy::Permit,
    tls::{Protocol, distrust},
};

/// An open connection to one place.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// The connection.
    pub(crate) wire: Wire,
    /// The address that was dialled.
    pub(crate) address: SocketAddr,
    pub(super) host: Host,
    pub(super) port: u16,
    /// Whether that is a proxy's, which was asked for the place.
    proxied: bool,
}

impl Upstream {
    /// Dials what is permitted.
    ///
    /// # Errors
    /// Why none of the addresses can be reached.
    pub(crate) async fn open(
        core: &Core,
        entry: &mut Entry,
        permit: &Permit,
        host: &Host,
        port: u16,
    ) -> Result<Self, Failure> {
        let patience = core.context.limits.connect_timeout;
        let (stream, address) = dial(
            core.context.dial.as_ref(),
            permit,
            &core.listening,
            patience,
        )
        .await?;
        entry.dialled(address);
        let mut upstream = Self {
            wire: Wire::new(stream),
            address,
            host: host.clone(),
            port,
            proxied: permit.beyond().is_some(),
        };
        if let Some((host, port)) = permit.beyond() {
            let place = format!("{host}:{port}");
            let asking = upstream.ask_proxy(core, &place);
            tokio::time::timeout(patience, asking)
                .await
                .unwrap_or(Err(Failure::ProxyStalled))?;
        }
        Ok(upstream)
    }

    /// Has the proxy open a tunnel to this place.
    async fn ask_proxy(&mut self, core: &Core, place: &str) -> Result<(), Failure> {
        let limits = &core.context.limits;
        let question = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n");
        let sent = self.wire.send(question.as_bytes()).await;
        sent.map_err(|_| Failure::ProxyGone)?;
        for _interim in 0..=INTERIM_MAX {
            let block = self.wire.input().head(limits).await;
            let block = block.map_err(|_| Failure::ProxyGone)?;
            // As with HEAD, nothing follows the head that belongs to it.
            let head = ResponseHead::parse(&block, limits.head_fields, true, false);
            match head.map_err(Failure::Response)?.status {
                100..200 => {}
                200..300 => return Ok(()),
                status => return Err(Failure::ProxyRefused(status)),
            }
        }
        Err(Failure::InterimLimit)
    }

    /// Where it leads: the address that was dialled, or none in particular behind a proxy.
    pub(crate) fn place(&self) -> SocketAddr {
        let known = self.known_address();
        SocketAddr::new(known.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), self.port)
    }

    /// The address where it leads, where that is known here.
    pub(crate) fn known_address(&self) -> Option<IpAddr> {
        match self.proxied {
            true => self.host.address(),
            false => Some(self.address.ip()),
        }
    }

    /// The same connection in TLS, and the protocol inside.
    ///
    /// # Errors
    /// Why there can be none, the upstream's certificate above all.
    pub(crate) async fn secure(
        self,
        core: &Core,
        protocols: &[Protocol],
    ) -> Result<(Self, Protocol), Failure> {
        let stream = self.wire.into_prefixed();
        let stream = stream.map_err(|error| Failure::UpstreamTls(error.to_string()))?;
        let policy = core.policy();
        let client = policy.upstream().client_for(&self.host).map(Arc::as_ref);
        let connecting = core
            .context
            .connector
            .connect(&self.host, protocols, client, stream);
        let secured = tokio::time::timeout(core.context.limits.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let stream = secured.map_err(|error| match distrust(&error) {
            Some(why) => Failure::UpstreamCertificate(why),
            None => Failure::UpstreamTls(error.to_string()),
        })?;
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        let secured = Self {
            wire: Wire::secured(stream.into()),
            ..self
        };
        Ok((secured, protocol))
    }

    /// Whether a request to this place, with this permit, may go over it.
    pub(crate) fn serves(&mut self, permit: &Permit, host: &Host, port: u16) -> bool {
        self.port == port
            && self.host == *host
            && permit.addresses().contains(&self.address)
            && self.wire.is_quiet()
    }
}
