//! Serves one raised boundary: the gateway, what the kernel half refuses, the two ledgers.
//!
//! `sluice run` and `sluice attach` come to the same point by different ways; from here on they
//! are the same.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::Bound,
    audit::{Audit, Subject},
    dns::resolver::SystemNames,
    identity::Assurance,
    kernel::{Boundary, Denials, KernelIdentity, Passages},
    ledger::Ledger,
    policy::Policy,
    tls::IssuerText,
    worker::{
        identity::Identities,
        keeper::{Keep, Keeper},
        policies::Policies,
    },
};

/// How often flows that never reached the gateway are forgotten.
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// How long open connections may go on once another gateway has taken over.
pub const HANDED_OVER: Duration = Duration::from_secs(30);

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
    /// Makes the certificates with which TLS is opened.
    pub issuer: IssuerText,
    /// How long connections may go on once this is to end.
    pub drain: Duration,
}

/// A boundary that is served.
pub struct Serving {
    drain: CancellationToken,
    tasks: TaskTracker,
    keeper: Keeper,
    patience: Duration,
}

impl Serving {
    /// Starts the worker, marks the gateway's sockets, which opens the one way out, and keeps the
    /// ledgers. Needs a runtime of several threads.
    ///
    /// # Errors
    /// If the kernel half lacks something, the system's resolvers cannot be read, or the worker
    /// cannot lock itself in. The gateway's sockets are closed then, and nothing leaves.
    pub async fn begin(boundary: &mut Boundary, bound: Bound, plan: Plan) -> anyhow::Result<Self> {
        let Plan {
            policy,
            audit,
            assurance,
            within,
            issuer,
            drain: patience,
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
            subject.clone(),
            within.clone(),
        )?;
        let identify = Arc::new(KernelIdentity::new(boundary, agent, within, ledger)?);
        bound
            .stream_sockets()
            .chain(bound.datagram_sockets())
            .try_for_each(|socket| boundary.mark_listener(&socket))?;
        let servers = SystemNames::read()
            .context("reading the system's DNS configuration")?
            .servers();
        let keep = Keep {
            policies: Policies::new(policy),
            audit,
            subject,
            drain: patience,
            identities: Arc::new(Identities::new(Arc::clone(&identify))),
            servers,
            issuer,
        };
        let keeper = Keeper::begin(keep, bound)
            .await
            .context("starting the gateway's worker")?;
        let drain = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(denials.run(drain.clone()));
        tasks.spawn(passages.run(drain.clone()));
        tasks.spawn(purge(identify, drain.clone()));
        Ok(Self {
            drain,
            tasks,
            keeper,
            patience,
        })
    }

    /// Whether the gateway's worker answers its supervisor.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.keeper.answers()
    }

    /// Waits until the gateway's workers have died once too often. Nothing leaves the agent then.
    pub async fn lost(&self) {
        self.keeper.lost().await;
    }

    /// Puts another policy in force, in the gateway; what the kernel half was told stays.
    ///
    /// # Errors
    /// Why the one before stays in force.
    pub async fn reload(&self, policy: &Policy) -> anyhow::Result<()> {
        Ok(self.keeper.reload(policy).await?)
    }

    /// Accepts no more, since another gateway has the same sockets now. What is open goes on; the
    /// worker ends with the last of it, or after [`HANDED_OVER`].
    pub async fn hand_over(&self) {
        self.keeper.hand_over().await;
        // From here on the other keeps the ledger.
        self.drain.cancel();
    }

    /// Takes no more connections, lets those that are open go on for a while, and ends.
    pub async fn end(self) {
        // The kernel's side of the ledger is compared once the gateway's is complete.
        self.keeper.end(self.patience).await;
        self.drain.cancel();
        self.tasks.close();
        self.tasks.wait().await;
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
