//! Serves one raised boundary: the gateway, what the kernel half refuses, the two ledgers.
//!
//! `sluice run` and `sluice attach` come to the same point by different ways; from here on they
//! are the same.

use std::{io, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::{Bound, Context},
    audit::{Audit, Subject},
    config::Limits,
    dns::Resolver,
    identity::Assurance,
    kernel::{Boundary, Denials, KernelIdentity, Passages},
    ledger::Ledger,
    policy::Policy,
};

/// How often flows that never reached the gateway are forgotten.
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// What is served, and how.
pub struct Plan {
    /// What decides.
    pub policy: Policy,
    /// Where it is recorded.
    pub audit: Audit,
    /// How far the boundary holds.
    pub assurance: Assurance,
    /// Path of the agent's cgroup within the hierarchy, beginning with `/`.
    pub within: String,
    /// How long connections may go on once this is to end.
    pub drain: Duration,
}

/// A boundary that is served.
pub struct Serving {
    drain: CancellationToken,
    tasks: TaskTracker,
    gateway: JoinHandle<io::Result<()>>,
}

impl Serving {
    /// Marks the gateway's sockets, which opens the one way out, and serves. Needs a runtime.
    ///
    /// # Errors
    /// If the kernel half lacks something, or the system's resolvers cannot be read. The gateway's
    /// sockets are closed then, and nothing leaves.
    pub fn begin(boundary: &mut Boundary, bound: Bound, plan: Plan) -> anyhow::Result<Self> {
        let Plan {
            policy,
            audit,
            assurance,
            within,
            drain,
        } = plan;
        let subject = Subject {
            agent: policy.agent().clone(),
            assurance,
            policy: policy.digest(),
        };
        let denials = Denials::new(boundary, audit.clone(), subject.clone(), within.clone())?;
        boundary.serve_namespaces(bound.namespaces())?;
        let agent = policy.agent().clone();
        let ledger = Arc::new(Ledger::default());
        let passages = Passages::new(
            boundary,
            Arc::clone(&ledger),
            audit.clone(),
            subject,
            within.clone(),
        )?;
        let identify = Arc::new(KernelIdentity::new(boundary, agent, within, ledger)?);
        bound
            .stream_sockets()
            .chain(bound.datagram_sockets())
            .try_for_each(|socket| boundary.mark_listener(&socket))?;

        let limits = Limits {
            drain_timeout: drain,
            ..Limits::default()
        };
        let context = Context {
            identify: Arc::clone(&identify) as _,
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            audit,
            resolver: Resolver::system(limits.resolve_timeout)
                .context("reading the system's DNS configuration")?,
            limits,
            assurance,
            dial: None,
        };
        let drain = CancellationToken::new();
        let tasks = TaskTracker::new();
        let gateway = tasks.spawn(bound.serve(Arc::new(context), drain.clone()));
        tasks.spawn(denials.run(drain.clone()));
        tasks.spawn(passages.run(drain.clone()));
        tasks.spawn(purge(identify, drain.clone()));
        Ok(Self {
            drain,
            tasks,
            gateway,
        })
    }

    /// Takes no more connections, lets those that are open go on for a while, and ends.
    ///
    /// # Errors
    /// If the gateway could not serve at all.
    pub async fn end(self) -> io::Result<()> {
        self.drain.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.gateway.await.map_err(io::Error::other)?
    }
}

async fn purge(identify: Arc<KernelIdentity>, stop: CancellationToken) {
    let mut every = tokio::time::interval(PURGE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let forgotten = identify.purge_abandoned();
        if forgotten > 0 {
            tracing::debug!(forgotten, "flows that never reached the gateway");
        }
    }
}
