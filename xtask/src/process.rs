//! Running other programs: what was run and how it failed is always said.

use std::{
    ffi::{OsStr, OsString},
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, ExitCode, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{interrupt, workspace};

/// How long a child may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before looking at it again.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// A command that finds this repository's tools and runs in its root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", workspace::search_path())
        .current_dir(workspace::root());
    command
}

/// Cargo, with the toolchain that runs xtask.
pub(crate) fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// A command that runs in the repository's root as root: directly, or through `sudo`. It gets the
/// user's own search path and environment, which `sudo` by itself would not hand on.
///
/// # Errors
/// Neither root nor `sudo` is to be had.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        let mut command = command(program);
        command.env("PATH", workspace::user_path());
        return Ok(command);
    }
    if workspace::find_program("sudo").is_none() {
        bail!(
            "`{}` needs root, and there is no sudo: run it as root",
            program.as_ref().display()
        );
    }
    let mut path = OsString::from("PATH=");
    path.push(workspace::user_path());
    let mut sudo = command("sudo");
    sudo.args(["--preserve-env", "env"]).arg(path).arg(program);
    Ok(sudo)
}

/// Whether this process may attach programs, make namespaces and install packages.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Ways to run a command to its end. A signal's number counts as 128 and that.
pub(crate) trait Run {
    /// Says the command line, then runs it; anything but success is an error. What it prints
    /// goes to standard error: standard output belongs to what the user asked to run.
    fn run(&mut self) -> Result<()>;
    /// Runs what the user asked for, with standard input and output, and answers with its end.
    fn hand_over(&mut self) -> Result<ExitCode>;
    /// Runs it and answers with its standard output; anything but success is an error that
    /// shows its standard error.
    fn read(&mut self) -> Result<String>;
    /// As [`Run::read`], but its standard error is the user's to see.
    fn read_aloud(&mut self) -> Result<String>;
    /// Runs it in silence and answers with its status and output.
    fn capture(&mut self) -> Result<Output>;
}

impl Run for Command {
    fn run(&mut self) -> Result<()> {
        eprintln!("xtask: $ {}", line(self));
        let status = self
            .stdout(std::io::stderr())
            .status()
            .with_context(|| format!("starting `{}`", line(self)))?;
        if !status.success() {
            bail!("`{}` failed: {status}", line(self));
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<ExitCode> {
        let mut child = self
            .spawn()
            .with_context(|| format!("starting `{}`", line(self)))?;
        interrupt::forward_to(&child)?;
        let status = child.wait().context("waiting for a child")?;
        let code = status
            .code()
            .or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(ExitCode::from(
            code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        ))
    }

    fn read(&mut self) -> Result<String> {
        let output = self.capture()?;
        if !output.status.success() {
            bail!(
                "`{}` failed: {}\n{}",
                line(self),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn read_aloud(&mut self) -> Result<String> {
        eprintln!("xtask: $ {}", line(self));
        let output = self.stderr(Stdio::inherit()).capture()?;
        if !output.status.success() {
            bail!("`{}` failed: {}", line(self), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn capture(&mut self) -> Result<Output> {
        self.output()
            .with_context(|| format!("starting `{}`", line(self)))
    }
}

/// The command line as a person would type it; for reading, not for a shell.
fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .filter(|word| !word.starts_with("PATH="))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A child that does not outlive this value.
pub(crate) struct Guarded(Child);

impl Guarded {
    /// Starts it. The kernel ends it, too, should this process be killed outright.
    pub(crate) fn spawn(
        program: impl AsRef<OsStr>,
        fill: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let mut dies_with_us = command("setpriv");
        dies_with_us
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program);
        fill(&mut dies_with_us);
        let child = dies_with_us
            .spawn()
            .with_context(|| format!("starting `{}`", line(&dies_with_us)))?;
        Ok(Self(child))
    }

    /// The process, for its pipes and its end.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Guarded {
    /// Asks it to end, so that it tidies up, and insists when it takes too long.
    fn drop(&mut self) {
        interrupt::terminate(&self.0).ok();
        let asked = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if asked.elapsed() > PATIENCE {
                eprintln!("xtask: process {} does not end; killing it", self.0.id());
                self.0.kill().ok();
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}
