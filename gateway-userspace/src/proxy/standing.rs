//! What a tunnel was allowed for, decided again whenever the policy is another.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{authorize::still_leads, failure::Failure, raw, upstream::Upstream};
use crate::{
    app::Core,
    identity::Peer,
    names::Host,
    policy::{Policy, Request},
};

/// How often a tunnel looks whether the policy is another.
const EVERY: Duration = Duration::from_millis(500);

/// Waits until a policy refuses this request, which is under way; says why.
pub(crate) async fn refused(core: &Core, request: &Request<'_>) -> String {
    let mut decided: Option<Arc<Policy>> = None;
    loop {
        tokio::time::sleep(EVERY).await;
        let now = core.policy();
        if decided
            .as_ref()
            .is_some_and(|decided| Arc::ptr_eq(&now, decided))
        {
            continue;
        }
        if let Err(denial) = now.decide(request).granted() {
            return denial.hint;
        }
        decided = Some(now);
    }
}

/// A tunnel that is open, and what it was opened for.
pub(crate) struct Standing<'a> {
    policy: &'a Arc<Policy>,
    carries: Carries<'a>,
    port: u16,
    /// The address at its other end, where that is known.
    address: Option<IpAddr>,
    place: SocketAddr,
}

/// What goes through a tunnel.
#[derive(Clone, Copy)]
pub(crate) enum Carries<'a> {
    /// TLS to this host that is not opened.
    Tls(&'a Host),
    /// Bytes, to a host that CONNECT named.
    Named(&'a Host),
    /// Bytes of this peer's, to an address that it asked the kernel for.
    Redirected(&'a Peer, SocketAddr),
}

impl<'a> Standing<'a> {
    /// A tunnel to here that this policy allowed.
    pub(crate) fn new(policy: &'a Arc<Policy>, carries: Carries<'a>, upstream: &Upstream) -> Self {
        let place = upstream.place();
        Self {
            policy,
            carries,
            port: place.port(),
            address: upstream.known_address(),
            place,
        }
    }

    /// Waits until a policy refuses what is open; says why.
    pub(crate) async fn revoked(&self, core: &Core) -> String {
        let mut decided = Arc::clone(self.policy);
        loop {
            tokio::time::sleep(EVERY).await;
            let now = core.policy();
            if Arc::ptr_eq(&now, &decided) {
                continue;
            }
            // What cannot be decided is no better than what is refused.
            if let Err(failure) = self.decide(core, &now).await {
                return failure.to_string();
            }
            decided = now;
        }
    }

    async fn decide(&self, core: &Core, policy: &Policy) -> Result<(), Failure> {
        let port = self.port;
        let (host, decision) = match self.carries {
            // One that is to be opened cannot be in the middle.
            Carries::Tls(host) if policy.inspects(host, port) => return Err(Failure::NowOpened),
            Carries::Tls(host) => (host.clone(), policy.decide(&Request::Tls { host, port })),
            Carries::Named(host) => {
                let names = host.name().map(std::slice::from_ref).unwrap_or_default();
                let destination = self.place;
                let request = Request::Tcp { destination, names };
                (host.clone(), policy.decide(&request))
            }
            Carries::Redirected(peer, destination) => {
                let decision = raw::judge(core, policy, peer, destination).await;
                (Host::Address(destination.ip()), decision)
            }
        };
        still_leads(core, policy, decision, &host, port, self.address).await
    }
}
