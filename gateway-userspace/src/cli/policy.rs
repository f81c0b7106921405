//! `sluice policy`: looks at policy files. Needs no privilege and talks to no daemon.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Subcommand;

use crate::policy::PolicyErrors;

mod check;
mod diff;
mod explain;
mod recorded;
mod replay;
mod schema;
mod suggest;
mod test;

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
    Explain(Box<explain::Explain>),
    /// Run the tests that a policy file brings along.
    ///
    /// Exits with 1 if a test fails or the policy is broken. Nothing is looked up and nothing is
    /// sent: a test says what is asked, and policy what it would do.
    Test(test::Test),
    /// Decide recorded requests again, and tell what would change.
    ///
    /// Exits with 0 if nothing would, with 1 if something would, and with 2 on an error. Memory is
    /// bounded, whatever the size of the files. What the records do not hold (queries, headers,
    /// bodies, what was inside a tunnel) is not guessed at: requests that depend on it are counted
    /// as not decided.
    Diff(diff::Diff),
    /// Write a policy that covers what was recorded, to be read and narrowed.
    ///
    /// One rule for each host and kind of traffic, with the ports, methods and paths that were
    /// seen; parts of paths that look like ids become `*`. What is broader than what was seen is
    /// marked `# broad:`. Requests that were refused are not covered.
    Suggest(suggest::Suggest),
    /// Write the JSON Schema of policy files (2020-12), with which editors complete and check.
    ///
    /// Made from the keys that this version knows. It does not know all that `check` knows: what
    /// it finds is wrong, and what it does not find may be.
    Schema(schema::Schema),
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
            Action::Test(test) => test.run(),
            Action::Diff(diff) => Ok(diff.run()),
            Action::Suggest(suggest) => suggest.run(),
            Action::Schema(schema) => schema.run(),
        }
    }
}

/// Writes all of it to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// JSON that is safe to show: what an agent chose may stand in it.
fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    Ok(text
        .lines()
        .map(|line| super::audit::line::escaped(line) + "\n")
        .collect())
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
