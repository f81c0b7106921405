//! `sluice policy`: looks at policy files. Needs no privilege and talks to no daemon.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

use crate::policy::PolicyErrors;

mod check;
mod explain;

/// Columns of a report.
const WIDTH: usize = 100;

/// Look at policy files.
#[derive(Debug, clap::Args)]
pub struct PolicyCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Find everything that is wrong with policy files.
    ///
    /// Exits with 1 if any file has an error; warnings are no errors.
    Check(check::Check),
    /// Tell how a request would be decided, and what each rule has to say to it.
    ///
    /// Exits with 0 whatever the verdict, and with 1 if the policy is broken. Looks no name up:
    /// whether addresses are fit is told for addresses that are given or fixed in the policy.
    Explain(explain::Explain),
}

impl PolicyCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// When the arguments make no request, or the output cannot be written.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Check(check) => check.run(),
            Action::Explain(explain) => explain.run(),
        }
    }
}

/// Writes all of it to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// What is wrong, as the place it is written to can show it.
fn rendered(errors: &PolicyErrors, terminal: bool) -> String {
    let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    errors.render(color, WIDTH)
}

/// Whether standard output is a terminal.
fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}
