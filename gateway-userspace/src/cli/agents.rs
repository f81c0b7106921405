//! `sluice agents`: who is confined on this node, and how far.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    sanitize::sanitize,
    sessions::{self, Health, Session},
};

/// List the agents of this node, with how far each is confined.
///
/// Needs root: what others run is nobody else's business.
#[derive(Debug, clap::Args)]
pub struct AgentsCommand {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One agent for scripts.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    session: &'a Session,
    health: Health,
}

impl AgentsCommand {
    /// Prints a line, or an object, for each.
    ///
    /// # Errors
    /// When the sessions cannot be read.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::ensure!(
            rustix::process::geteuid().is_root(),
            "`sluice agents` needs root; try it with sudo"
        );
        let all = sessions::all().context("reading the sessions of this node")?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let lines: Vec<_> = all
                .iter()
                .map(|found| Line {
                    session: &found.session,
                    health: found.health,
                })
                .collect();
            serde_json::to_writer_pretty(&mut out, &lines)?;
            writeln!(out)?;
            return Ok(ExitCode::SUCCESS);
        }
        for found in &all {
            let session = &found.session;
            writeln!(
                out,
                "{} {} {} {} pid {} {}",
                session.run,
                sanitize(&session.agent),
                session.assurance,
                found.health.label(),
                session.pid,
                sanitize(&session.cgroup.display().to_string()),
            )?;
            for open in &session.open {
                writeln!(out, "    open: {}", sanitize(open))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
