//! `sluice detach`: frees an agent that `sluice attach` confined.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{attach::Predecessor, say};
use crate::sessions::{self, Origin};

/// Free an agent that `sluice attach` confined.
///
/// Ends the process that serves it, and takes the programs away: from then on everything that the
/// agent's processes may reach by themselves is open to them again. Needs root.
#[derive(Debug, clap::Args)]
pub struct DetachCommand {
    /// Name of the session, or of the agent where only one has it (see `sluice agents`).
    #[arg(value_name = "NAME")]
    name: String,
}

impl DetachCommand {
    /// Frees it.
    ///
    /// # Errors
    /// When there is no such agent, or more than one, or it was started by `sluice run`.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(
            rustix::process::geteuid().is_root(),
            "`sluice detach` needs root; try it with sudo"
        );
        let all = sessions::all().context("reading the sessions of this node")?;
        let mut meant = all
            .into_iter()
            .filter(|found| found.session.run == self.name || found.session.agent == self.name);
        let found = meant.next().with_context(|| {
            format!(
                "there is no agent `{}`; `sluice agents` lists them",
                self.name
            )
        })?;
        let cgroup = found.session.cgroup_id;
        if let Some(other) = meant.find(|other| other.session.cgroup_id != cgroup) {
            anyhow::bail!(
                "both {} and {} are agent `{}`; name one of them",
                found.session.run,
                other.session.run,
                self.name
            );
        }
        anyhow::ensure!(
            found.session.origin == Origin::Attach,
            "{} was started by `sluice run`, which frees nobody: end its command instead",
            found.session.run
        );
        let (run, agent) = (found.session.run.clone(), found.session.agent.clone());
        // A take-over that ended half-way left two, each with some of the links.
        Predecessor::all_of(cgroup)?
            .into_iter()
            .try_for_each(Predecessor::end)?;
        say::line(format_args!(
            "{agent} ({run}) is free: nothing confines it any more"
        ));
        Ok(ExitCode::SUCCESS)
    }
}
