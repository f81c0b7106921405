//! `sluice gateway`: not in this build.

use std::process::ExitCode;

/// Run the gateway alone, without the kernel half.
#[derive(Debug, clap::Args)]
pub struct GatewayCommand {}

impl GatewayCommand {
    /// Refuses.
    ///
    /// # Errors
    /// Always: this build has no such command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("`sluice gateway` is not part of this build")
    }
}
