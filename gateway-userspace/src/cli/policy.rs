//! `sluice policy`: not in this build.

use std::process::ExitCode;

/// Check and explain policies.
#[derive(Debug, clap::Args)]
pub struct PolicyCommand {}

impl PolicyCommand {
    /// Refuses.
    ///
    /// # Errors
    /// Always: this build has no such command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("`sluice policy` is not part of this build")
    }
}
