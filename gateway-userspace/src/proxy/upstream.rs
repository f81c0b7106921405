//! A connection to an upstream, with what it was opened for.

use std::net::SocketAddr;

use super::{dial::dial, entry::Entry, failure::Failure, wire::Wire};
use crate::{app::Core, names::Host, policy::Permit};

/// An open connection to one place.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// The connection.
    pub(crate) wire: Wire,
    /// The address that was dialled.
    pub(crate) address: SocketAddr,
    host: Host,
    port: u16,
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
        Ok(Self {
            wire: Wire::new(stream),
            address,
            host: host.clone(),
            port,
        })
    }

    /// Whether a request to this place, with this permit, may go over it.
    pub(crate) fn serves(&self, permit: &Permit, host: &Host, port: u16) -> bool {
        self.port == port
            && self.host == *host
            && permit.addresses().contains(&self.address)
            && self.wire.is_quiet()
    }
}
