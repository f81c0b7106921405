//! Relays bytes both ways without reading them, with half-close, until both sides are done.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::{
    activity::Activity,
    entry::Entry,
    failure::Failure,
    standing::Standing,
    wire::{Input, Output, Wire},
};
use crate::app::Core;

/// Relays to the end, or for as long as policy allows it, and writes the record.
pub(crate) async fn carry(
    core: &Core,
    entry: Entry,
    mut agent: Wire,
    mut upstream: Wire,
    deadline: Instant,
    standing: Standing<'_>,
) {
    let relaying = relay(core, &entry, &mut agent, &mut upstream);
    let ended = tokio::select! {
        ended = tokio::time::timeout_at(deadline, relaying) => {
            ended.unwrap_or(Err(Failure::AgeLimit))
        }
        why = standing.revoked(core) => Err(Failure::PolicyChanged(why)),
    };
    match ended {
        Ok(()) => entry.done(),
        Err(failure) => {
            entry.failed(&failure);
            // Neither side may take what it got for all there was.
            agent.reset_on_close();
            upstream.reset_on_close();
        }
    }
}

async fn relay(
    core: &Core,
    entry: &Entry,
    agent: &mut Wire,
    upstream: &mut Wire,
) -> Result<(), Failure> {
    let activity = Activity::begin();
    let (agent_in, mut agent_out) = agent.split();
    let (upstream_in, mut upstream_out) = upstream.split();
    let out = async {
        pump(agent_in, &mut upstream_out, &activity, &entry.traffic.out)
            .await
            .map_err(|broken| match broken {
                Broken::Source => Failure::AgentGone,
                Broken::Sink => Failure::UpstreamGone,
            })
    };
    let back = async {
        pump(upstream_in, &mut agent_out, &activity, &entry.traffic.back)
            .await
            .map_err(|broken| match broken {
                Broken::Source => Failure::UpstreamGone,
                Broken::Sink => Failure::AgentGone,
            })
    };
    tokio::select! {
        ended = async { tokio::try_join!(out, back) } => ended.map(|((), ())| ()),
        () = activity.idle(core.context.limits.idle_timeout) => Err(Failure::Idle),
        failure = announce(core, entry) => Err(failure),
    }
}

/// Records that the tunnel is open once it has been for a while; ends only if that fails.
pub(super) async fn announce(core: &Core, entry: &Entry) -> Failure {
    tokio::time::sleep(core.context.limits.open_record_after).await;
    match core.context.audit.reserve().await {
        Ok(slot) => {
            entry.opened(slot);
            std::future::pending().await
        }
        Err(_) => {
            core.counters.audit_unavailable();
            Failure::AuditUnavailable
        }
    }
}

/// Which side of a direction broke.
enum Broken {
    Source,
    Sink,
}

/// Passes one direction on until its end, and the end too.
async fn pump(
    mut input: Input<'_>,
    output: &mut Output<'_>,
    activity: &Activity,
    count: &AtomicU64,
) -> Result<(), Broken> {
    loop {
        if !input.buffer.is_empty() {
            let sent = output.send(input.buffer).await;
            sent.map_err(|_| Broken::Sink)?;
            count.fetch_add(input.buffer.len() as u64, Ordering::Relaxed);
            input.buffer.clear();
        }
        let read = input.fill().await.map_err(|_| Broken::Source)?;
        activity.touch();
        if read == 0 {
            // Where it fails the other direction notices.
            let _best_effort = output.shutdown().await;
            return Ok(());
        }
    }
}
