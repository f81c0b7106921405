//! From a request to leave to dial: decide, resolve, pin.

use super::{entry::Entry, failure::Failure};
use crate::{
    app::Core,
    names::Host,
    policy::{Decision, Permit, Policy, Request},
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
    let grant = match policy.decide(request) {
        Decision::Allow(grant) => grant,
        Decision::Deny(denial) => return Err(Failure::Denied(denial)),
    };
    entry.granted(&grant);
    let addresses = core.context.resolver.lookup(policy, host).await?;
    let permit = grant.pin(host, port, &addresses).map_err(Failure::Denied)?;
    entry.permitted(&permit);
    Ok(permit)
}
