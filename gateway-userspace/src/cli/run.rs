//! `sluice run`: not in this build.

use std::process::ExitCode;

/// Run a command confined, with the gateway as its only way out.
#[derive(Debug, clap::Args)]
pub struct RunCommand {
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<std::ffi::OsString>,
}

impl RunCommand {
    /// Refuses.
    ///
    /// # Errors
    /// Always: this build has no such command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!(
            "`sluice run -- {}` is not part of this build",
            self.command.join(" ".as_ref()).display()
        )
    }
}
