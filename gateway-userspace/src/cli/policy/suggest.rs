//! `sluice policy suggest`: writes a policy that covers what was seen.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use super::{
    print,
    recorded::{self, Reading},
};
use crate::{cli::say, names::AgentId, policy::Policy};

mod paths;
mod seen;
mod write;

use seen::Seen;

/// Arguments of `sluice policy suggest`.
#[derive(Debug, clap::Args)]
pub(super) struct Suggest {
    /// Audit files with what was seen, best of a run with `--observe`.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit: Vec<PathBuf>,
    /// The agent, where the files have several.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

impl Suggest {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let agent = self.agent.as_deref().map(AgentId::parse);
        let mut seen = Seen::new(agent.transpose().context("--agent")?);
        let mut others = 0_u64;
        recorded::each(&self.audit, |reading| match reading {
            Reading::Request(recorded) => seen.take(&recorded),
            Reading::Skipped(why, requests) => seen.skip(why, requests),
            Reading::Other => {}
            Reading::Foreign => others += 1,
        })?;
        let text = seen.policy()?;
        // A suggestion that does not load would be worse than none.
        Policy::parse("the suggestion", &text)?;
        if others > 0 {
            say::line(format_args!("lines that are no audit records: {others}"));
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests;
