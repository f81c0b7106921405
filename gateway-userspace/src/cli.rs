//! The command line: flags in, one command run, an exit status out.

use std::process::ExitCode;

pub mod policy;

/// Parses the arguments, runs the command, and answers with the exit status.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
