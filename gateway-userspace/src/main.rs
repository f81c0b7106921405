//! The `sluice` binary: parses the command line, runs one command, returns its exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway_userspace::cli::run()
}
