//! `sluice doctor`: not in this build.

use std::process::ExitCode;

/// Probe what this kernel can enforce.
#[derive(Debug, clap::Args)]
pub struct DoctorCommand {}

impl DoctorCommand {
    /// Refuses.
    ///
    /// # Errors
    /// Always: this build has no such command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("`sluice doctor` is not part of this build")
    }
}
