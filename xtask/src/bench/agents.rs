//! Probes, confined or not, that wait for jobs.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::probe::Job;
use crate::workspace;

/// A probe that is ready.
pub(super) struct Agent {
    child: Child,
    jobs: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// From the start of the first process to the probe's word that it is ready.
    pub(super) start: Duration,
}

impl Agent {
    /// Starts a probe on its own.
    pub(super) fn free() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-probe");
        Self::spawn(command)
    }

    /// Starts a probe in a boundary.
    pub(super) fn confined(policy: &Path, audit: &Path) -> Result<Self> {
        let mut command = Command::new(workspace::target()?.join("release/sluice"));
        command.arg("run").arg("--policy").arg(policy);
        command.arg("--audit").arg(audit).arg("--");
        command.arg(std::env::current_exe()?).arg("bench-probe");
        // What it says of each run is no part of the table; a failure shows as no answer.
        command.stderr(Stdio::null());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let begun = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a probe")?;
        let jobs = child.stdin.take();
        let answers = child.stdout.take().context("the probe has no output")?;
        let mut agent = Self {
            child,
            jobs,
            answers: BufReader::new(answers),
            start: Duration::ZERO,
        };
        ensure!(agent.line()? == "ready", "the probe did not come up");
        agent.start = begun.elapsed();
        Ok(agent)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .context("reading from a probe")?;
        Ok(line.trim().to_owned())
    }

    /// Nanoseconds that a job took, the median of many.
    pub(super) fn measure(&mut self, job: Job) -> Result<u64> {
        let jobs = self.jobs.as_mut().context("the probe has no input")?;
        serde_json::to_writer(&mut *jobs, &job)?;
        jobs.write_all(b"\n").context("writing to a probe")?;
        self.line()?.parse().context("what the probe answered")
    }

    /// The first process: for a confined probe that of `sluice run`.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Agent {
    /// A probe without input ends, and with it its boundary.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Err(error) = self.child.wait() {
            eprintln!("xtask: waiting for process {}: {error}", self.child.id());
        }
    }
}
