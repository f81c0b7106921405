//! `cargo xtask bench`: what the boundary costs, measured here and now. Numbers of one run
//! compare with each other and with nothing else.

mod agents;
mod kernel;
mod memory;
pub(crate) mod probe;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use crate::{
    build,
    process::{self, Run as _},
    setup,
};

/// What is measured.
#[derive(Subcommand, Clone)]
pub(crate) enum Bench {
    /// Start, memory and cost of a connect, for the first agent of a node and for the last
    Kernel {
        /// Agents on the node at once
        #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
        agents: u32,
        /// Rounds; each measures every case once, in turn
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=101))]
        rounds: u32,
        /// Set in the call that runs as root
        #[arg(long, hide = true)]
        built: bool,
    },
}

/// Sets up, builds, and measures as root.
pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    let Bench::Kernel {
        agents,
        rounds,
        built,
    } = *bench;
    if built {
        kernel::run(agents, rounds)?;
        return Ok(ExitCode::SUCCESS);
    }
    setup::run(setup::Scope::Build)?;
    let sluice = build::sluice_released()?;
    eprintln!("xtask: measuring {}", sluice.display());
    process::as_root(std::env::current_exe()?)?
        .args(["bench", "kernel", "--built"])
        .args(["--agents", &agents.to_string()])
        .args(["--rounds", &rounds.to_string()])
        .hand_over()
}
