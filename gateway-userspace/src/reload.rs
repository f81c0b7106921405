//! Another policy while the agent runs: when the file changes or somebody asks, whole or not at
//! all. The last good one stays until there is a better.
//!
//! What the kernel half, the launcher or TLS was told when the agent started cannot change: a
//! policy that says otherwise is not taken, not even in part.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    audit::{Audit, Blame, Kind, Outcome, Record, Subject},
    cli::say,
    names::AgentId,
    policy::{DnsMode, Policy},
};

/// How often files are looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Where an agent's policy comes from, to be read again.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The policy file; none is the policy that allows nothing.
    pub policy: Option<PathBuf>,
    /// The node's.
    pub node: Option<PathBuf>,
    /// Another name for the agent.
    pub agent: Option<AgentId>,
    /// Whether refusals are only recorded, whatever the file says.
    pub observe: bool,
}

impl Source {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn load(&self) -> anyhow::Result<Policy> {
        let mut policy = match &self.policy {
            Some(path) => Policy::load(path)?,
            None => Policy::locked_down(),
        };
        if let Some(agent) = &self.agent {
            policy = policy.with_agent(agent.clone());
        }
        if self.observe {
            policy = policy.with_observe();
        }
        if let Some(path) = &self.node {
            policy = policy.under(Policy::load(path)?);
        }
        Ok(policy)
    }

    fn looks(&self) -> Vec<Option<Look>> {
        let files = [&self.policy, &self.node].into_iter().flatten();
        files.map(|path| Look::at(path)).collect()
    }
}

/// A file as it looks from outside, links followed: a renamed, replaced or written one is another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    /// None of one that is not there.
    fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Why the policy is read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    /// A file looks otherwise.
    Changed,
    /// SIGHUP.
    Asked,
}

/// Sees when the policy is to be read again.
#[derive(Debug)]
struct Watch {
    source: Source,
    /// As the files looked when they were read.
    taken: Vec<Option<Look>>,
    /// As they looked last, if that is otherwise.
    pending: Option<Vec<Option<Look>>>,
}

impl Watch {
    /// One look. Whoever writes may not be done: a change counts once it looks the same twice.
    fn look(&mut self) -> Option<Cause> {
        let now = self.source.looks();
        if now == self.taken {
            self.pending = None;
            return None;
        }
        if self.pending.as_ref() != Some(&now) {
            self.pending = Some(now);
            return None;
        }
        self.taken = now;
        self.pending = None;
        Some(Cause::Changed)
    }

    async fn next(&mut self, hangup: &mut Option<Signal>) -> Cause {
        loop {
            let asked = async {
                match hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = asked => {
                    self.taken = self.source.looks();
                    self.pending = None;
                    return Cause::Asked;
                }
                () = tokio::time::sleep(EVERY) => {
                    if let Some(cause) = self.look() {
                        return cause;
                    }
                }
            }
        }
    }
}

/// What was told to others when the agent started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bounds {
    /// The gateway alone is there.
    Gateway,
    /// A kernel half, and a launcher or whoever attached.
    Kernel,
}

impl Bounds {
    /// What of the policy cannot become what the other says.
    fn fixed(self, old: &Policy, new: &Policy) -> Vec<&'static str> {
        let off = |policy: &Policy| policy.dns().mode == DnsMode::Off;
        let kernel = self == Self::Kernel;
        let differs = [
            ("agent", old.agent() != new.agent()),
            (
                "trust in [upstream]",
                old.upstream().trust != new.upstream().trust,
            ),
            ("mode", kernel && old.mode() != new.mode()),
            ("assurance", kernel && old.assurance() != new.assurance()),
            ("[network]", kernel && old.network() != new.network()),
            ("[process]", kernel && old.process() != new.process()),
            ("mode = \"off\" in [dns]", kernel && off(old) != off(new)),
        ];
        let differs = differs.into_iter().filter(|(_, differs)| *differs);
        differs.map(|(name, _)| name).collect()
    }
}

/// Takes another policy whenever there is one.
#[derive(Debug)]
pub struct Reload {
    watch: Watch,
    hangup: Option<Signal>,
    bounds: Bounds,
    current: Arc<Policy>,
    audit: Audit,
    subject: Subject,
}

impl Reload {
    /// Begins to look; what changed since `current` was read counts. With `hangup`, SIGHUP asks
    /// for it.
    ///
    /// # Errors
    /// If the signal cannot be listened for.
    pub fn new(
        source: Source,
        hangup: bool,
        bounds: Bounds,
        current: Policy,
        audit: Audit,
        subject: Subject,
    ) -> io::Result<Self> {
        Ok(Self {
            watch: Watch {
                source,
                // As nothing looks: the files are read again at once.
                taken: Vec::new(),
                pending: None,
            },
            hangup: hangup.then(|| signal(SignalKind::hangup())).transpose()?,
            bounds,
            current: Arc::new(current),
            audit,
            subject,
        })
    }

    /// Reads, judges and hands to `apply`, time and again.
    pub async fn run(mut self, apply: impl AsyncFn(&Policy) -> anyhow::Result<()>) -> Infallible {
        loop {
            let cause = self.watch.next(&mut self.hangup).await;
            let taken = self.take(cause, &apply).await;
            if let Err(error) = taken {
                let told = self.keep(&error);
                say::failure(&error.context("the policy stays as it was"));
                if !told {
                    tracing::error!("a record of the policy found no room in the audit log");
                }
            }
        }
    }

    async fn take(
        &mut self,
        cause: Cause,
        apply: &impl AsyncFn(&Policy) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let new = self.watch.source.load()?;
        let same = (new.digest(), new.node_digest())
            == (self.current.digest(), self.current.node_digest());
        if same && cause == Cause::Changed {
            return Ok(());
        }
        let fixed = self.bounds.fixed(&self.current, &new);
        anyhow::ensure!(
            fixed.is_empty(),
            "{} cannot change while the agent runs: restart it",
            fixed.join(", ")
        );
        // What could not be recorded is not done.
        let slot = self.audit.reserve().await.context("recording it")?;
        apply(&new).await?;
        let old = std::mem::replace(&mut self.current, Arc::new(new));
        self.subject.policy = self.current.digest();
        let mut hint = format!("in the place of {}", old.digest());
        if let Some(node) = self.current.node_digest() {
            hint += &format!(", under the node's {node}");
        }
        slot.write(self.record(Outcome::Allow, "policy_reloaded", hint));
        say::line(format_args!("policy {} is in force", self.current.digest()));
        Ok(())
    }

    /// Whether there was room to record it.
    fn keep(&self, error: &anyhow::Error) -> bool {
        let record = self.record(Outcome::Deny, "policy_kept", format!("{error:#}"));
        self.audit.offer(record.blame(Blame::Policy))
    }

    fn record(&self, outcome: Outcome, reason: &'static str, hint: String) -> Record {
        let now = Timestamp::now();
        let mut record = Record::new(&self.subject, now, Kind::Policy, outcome, reason);
        record.hint = Some(hint);
        record
    }
}

#[cfg(test)]
mod tests;
