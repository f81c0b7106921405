//! `cargo xtask`: sets up, builds, runs and tests Sluice, each by one command on a clean clone.
//!
//! Owns what a developer or CI would otherwise do by hand. Must never be needed by an installed
//! `sluice`, nor hold any of its logic.

mod abi;
mod bench;
mod build;
mod ci;
mod confine;
mod demo;
mod fuzz;
mod interrupt;
mod isolated;
mod process;
mod setup;
mod test;
mod vm;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// Sets up, builds, runs and tests Sluice.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Look for all that building, demo and tests need, and install what is missing
    Setup,
    /// Show the demo, or confine CMD under a shipped policy
    Run {
        /// Profile of `policies/` that CMD gets
        #[arg(long, default_value = "coding-agent")]
        policy: String,
        /// The command to confine; without it, the demo is shown
        #[arg(last = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Set up, build, and run all tests
    Test {
        /// Handed on to the test runner, such as a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the tests on the real kernel on other kernels, in virtual machines
    Vm(vm::Arguments),
    /// Check sources, format, lints, documentation and layout, as CI does
    Ci,
    /// Feed the parsers what nobody thought of, and say what does not hold
    Fuzz(fuzz::Arguments),
    /// Measure what the boundary costs
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
    /// Compare the layout that crosses the kernel boundary with gateway-common/abi.txt
    Abi {
        /// Write the file instead
        #[arg(long)]
        bless: bool,
    },
    /// Run CMD with mounts of its own (how tests are run)
    #[command(hide = true)]
    Isolated {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Do what an agent does, and say how long it took (what is measured)
    #[command(hide = true)]
    BenchProbe,
    /// Be the first process of a virtual machine
    #[command(hide = true)]
    VmInit,
    /// Work through the plan of a virtual machine
    #[command(hide = true)]
    VmSuite,
    /// Show the demo as root, once everything is built
    #[command(hide = true)]
    Demo,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup => setup::run(setup::Scope::All).map(|()| ExitCode::SUCCESS),
        Task::Run { command, .. } if command.is_empty() => demo::prepare(),
        Task::Run { policy, command } => confine::run(&policy, &command),
        Task::Test { arguments } => test::run(&arguments),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::VmInit => vm::inside::init(),
        Task::VmSuite => vm::inside::suite(),
        Task::Ci => ci::run().map(|()| ExitCode::SUCCESS),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Bench { bench } => bench::run(&bench),
        Task::BenchProbe => bench::probe::run().map(|()| ExitCode::SUCCESS),
        Task::Abi { bless } => abi::run(bless).map(|()| ExitCode::SUCCESS),
        Task::Isolated { command } => isolated::run(&command),
        Task::Demo => demo::show(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
