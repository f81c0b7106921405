//! From a request to leave to dial: decide, resolve, pin.

use std::net::IpAddr;

use super::{entry::Entry, failure::Failure};
use crate::{
    app::Core,
    names::Host,
    policy::{Decision, Denial, Grant, Mode, Permit, Policy, Request},
    throttle::What,
};

/// Asks policy, resolves the host and pins its addresses, and notes it all in the record.
///
/// # Errors
/// Policy's refusal, or why the name does not resolve.
pub(crate) async fn authorize(
    core: &Core,
    policy: &Policy,
    entry: &mut Entry,
    request: &Request<'_>,
    host: &Host,
    port: u16,
) -> Result<Permit, Failure> {
    let grant = policy.decide(request).granted().map_err(Failure::Denied)?;
    entry.granted(&grant);
    let beyond = match request {
        // What comes through it is counted; a question is none of this.
        Request::Connect { .. } | Request::Dns { .. } => None,
        Request::Http { .. } | Request::Tls { .. } | Request::Tcp { .. } => {
            count(core, policy, entry, &grant)?
        }
    };
    let permit = route(core, policy, grant, host, port, None).await?;
    entry.permitted(&permit);
    if let Some(denial) = beyond {
        entry.observed(&denial);
    }
    Ok(permit)
}

/// From a grant to leave to dial: the host's addresses, or the proxy's. `known` is the host's
/// address, where that is fixed already.
async fn route(
    core: &Core,
    policy: &Policy,
    grant: Grant,
    host: &Host,
    port: u16,
    known: Option<IpAddr>,
) -> Result<Permit, Failure> {
    let resolver = &core.context.resolver;
    let upstream = policy.upstream();
    let permit = match &upstream.proxy {
        Some(proxy) if proxy.takes(host) => {
            let fixed = host.name().and_then(|name| upstream.resolve.get(name));
            let known = known.as_ref().map(std::slice::from_ref);
            let known = known.or(fixed.map(Vec::as_slice)).unwrap_or_default();
            let addresses = resolver.lookup(policy, &proxy.host).await?;
            grant.through(host, port, known, proxy, &addresses)
        }
        Some(_) | None => {
            let addresses = match known {
                Some(known) => vec![known],
                None => resolver.lookup(policy, host).await?,
            };
            grant.pin(host, port, &addresses)
        }
    };
    permit.map_err(Failure::Denied)
}

/// Holds a decision on what is here already to the address where it goes, where that is known,
/// counts it, and notes it all in the record.
///
/// # Errors
/// Policy's refusal.
pub(crate) async fn authorize_there(
    core: &Core,
    policy: &Policy,
    entry: &mut Entry,
    decision: Decision,
    host: &Host,
    port: u16,
    at: Option<IpAddr>,
) -> Result<Permit, Failure> {
    let grant = decision.granted().map_err(Failure::Denied)?;
    let beyond = count(core, policy, entry, &grant)?;
    let permit = route(core, policy, grant, host, port, at).await?;
    entry.permitted(&permit);
    if let Some(denial) = beyond {
        entry.observed(&denial);
    }
    Ok(permit)
}

/// Whether a decision on what is open already allows where it leads. Counts and notes nothing.
///
/// # Errors
/// Policy's refusal, or why its proxy cannot be found.
pub(crate) async fn still_leads(
    core: &Core,
    policy: &Policy,
    decision: Decision,
    host: &Host,
    port: u16,
    at: Option<IpAddr>,
) -> Result<(), Failure> {
    let grant = decision.granted().map_err(Failure::Denied)?;
    route(core, policy, grant, host, port, at).await.map(drop)
}

/// Counts one more request or connection against the rates of the rule and of the agent. Gives
/// what would be refused, where it is only observed.
///
/// # Errors
/// [`Failure::Throttled`] if that is too many, and policy insists.
fn count(
    core: &Core,
    policy: &Policy,
    entry: &Entry,
    grant: &Grant,
) -> Result<Option<Denial>, Failure> {
    let mut beyond = None;
    let agent = entry.agent();
    let agent = agent.as_ref().unwrap_or_else(|| policy.agent());
    let rule = grant.limit().map(|(rate, mode)| (grant.rule(), rate, mode));
    let all = policy.requests().map(|rate| (None, rate, Mode::Enforce));
    for (rule, rate, mode) in rule.into_iter().chain(all) {
        let what = rule.cloned().map_or(What::Requests, What::Rule);
        let Err(wait) = core.throttle.count(agent, what, rate) else {
            continue;
        };
        let denial = Denial::rate_limited(rule, rate);
        if (policy.mode(), mode) == (Mode::Enforce, Mode::Enforce) {
            return Err(Failure::Throttled { denial, wait });
        }
        beyond = Some(denial);
    }
    Ok(beyond)
}
