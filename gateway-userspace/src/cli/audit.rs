//! `sluice audit`: reads the audit stream.

mod follow;
pub(super) mod line;
pub(super) mod lines;
mod tail;

use std::process::ExitCode;

/// Read the audit stream.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct AuditCommand {
    #[command(subcommand)]
    command: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    Tail(tail::TailCommand),
}

impl AuditCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the audit file cannot be read, or the output not be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Subcommand::Tail(command) => command.run(),
        }
    }
}
