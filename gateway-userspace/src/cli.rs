//! The command line: flags in, one command run, an exit status out.
//!
//! Owns the frame: global flags, logging, how an error reaches the user and as which status.
//! Each command lives in a file of its own and ends in `fn run(self) -> anyhow::Result<ExitCode>`.
//!
//! Must never: print text that an agent influences unsanitised, or end `sluice run` with a
//! status that could be mistaken for the command's when Sluice itself failed.

pub mod agents;
pub mod attach;
pub mod audit;
mod ca;
mod chronicle;
pub mod detach;
pub mod doctor;
pub mod gateway;
pub mod logging;
pub mod policy;
pub mod run;
pub mod say;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{
    launch::{canary::CanaryCommand, enter::EnterCommand},
    worker::inside::WorkerCommand,
};

/// The one way out for AI agents.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    logging: logging::LogFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunCommand),
    Attach(attach::AttachCommand),
    Detach(detach::DetachCommand),
    Agents(agents::AgentsCommand),
    Gateway(gateway::GatewayCommand),
    Ca(ca::CaCommand),
    Doctor(doctor::DoctorCommand),
    Policy(policy::PolicyCommand),
    Audit(audit::AuditCommand),
    /// What `run` starts to become the agent.
    #[command(hide = true)]
    Enter(EnterCommand),
    /// What `run` and `doctor` send into a boundary.
    #[command(hide = true)]
    Canary(CanaryCommand),
    /// What `run` and `attach` start to serve the agent.
    #[command(hide = true)]
    Worker(WorkerCommand),
}

/// Sluice failed, or refused.
const FAILED: u8 = 1;
/// `sluice run` failed before it ran anything: a status that is hardly the command's own.
const RUN_FAILED: u8 = 125;

impl Command {
    const fn failure(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Enter(_) => RUN_FAILED,
            Self::Attach(_)
            | Self::Detach(_)
            | Self::Agents(_)
            | Self::Gateway(_)
            | Self::Ca(_)
            | Self::Doctor(_)
            | Self::Policy(_)
            | Self::Audit(_)
            | Self::Canary(_)
            | Self::Worker(_) => FAILED,
        }
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(command) => command.run(),
            Self::Attach(command) => command.run(),
            Self::Detach(command) => command.run(),
            Self::Agents(command) => command.run(),
            Self::Gateway(command) => command.run(),
            Self::Ca(command) => command.run(),
            Self::Doctor(command) => command.run(),
            Self::Policy(command) => command.run(),
            Self::Audit(command) => command.run(),
            Self::Enter(command) => Ok(command.run()),
            Self::Canary(command) => command.run(),
            Self::Worker(command) => command.run(),
        }
    }
}

/// Parses the arguments, runs the command, and answers with the exit status: what the command
/// says; 1 when it failed; 2 for wrong usage; 125 for either of these in `sluice run`.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let failure = cli.command.failure();
    let result = cli.logging.init().and_then(|()| cli.command.run());
    result.unwrap_or_else(|error| {
        say::failure(&error);
        ExitCode::from(failure)
    })
}

/// Help, version, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> ExitCode {
    // If not even this can be printed, the status has to say it.
    let printed = error.print();
    if !error.use_stderr() && printed.is_ok() {
        return ExitCode::SUCCESS;
    }
    let meant_run = Cli::command()
        .ignore_errors(true)
        .try_get_matches()
        .is_ok_and(|matches| matches.subcommand_name() == Some("run"));
    let status = if meant_run { RUN_FAILED } else { 2 };
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
