//! `sluice run`: a command inside its boundary, with the gateway as its only way out.
//!
//! Owns the order of things: everything is bound, loaded, attached and tried before the command
//! starts, and nothing is taken down before the last of its processes is gone.

mod chronicle;
mod recap;
mod session;
mod site;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use super::say;
use crate::{
    audit::{Audit, AuditConfig, default_path},
    kernel::KernelHeld,
    launch::{assurance::assess, channel::Shut, user::AgentUser},
    names::AgentId,
    reload::Source,
};

/// Run a command confined, with the gateway as its only way out.
///
/// Needs root. The exit status is the command's, 128 and the signal if one ended it, 127 if there
/// is no such command, 126 if it cannot be executed, or 125 when Sluice itself failed: before the
/// command started, in which case nothing was run, or because its gateway died too often, upon
/// which the command was ended. The command keeps standard input, output and error; what Sluice has to say goes to standard error, each
/// line beginning with `sluice:`. When the policy file changes, the new one is put in force; a
/// broken one changes nothing.
#[derive(Debug, clap::Args)]
pub struct RunCommand {
    /// Policy file that decides [default: one that allows nothing].
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Policy file of the node: what it does not allow, the other cannot.
    #[arg(long, value_name = "FILE")]
    node_policy: Option<PathBuf>,
    /// Audit file, or `-` for standard output [default: /var/log/sluice/audit.jsonl].
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Name of the agent in records, instead of the policy's.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// User to run the command as, by name or number [default: whoever called sudo, else an
    /// unprivileged id without an account].
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Record what policy refuses, and let it pass.
    #[arg(long)]
    observe: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl RunCommand {
    /// Runs the command and answers with its exit status.
    ///
    /// # Errors
    /// When Sluice fails before the command starts.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let source = self.source()?;
        let policy = source.load()?;
        anyhow::ensure!(
            rustix::process::geteuid().is_root(),
            "`sluice run` needs root, to load BPF programs and to make cgroups; try it with sudo"
        );
        let user = AgentUser::choose(self.user.as_deref(), policy.agent().as_str())?;
        // At best; what is reached is seen once the agent's first process is there.
        let assessment = assess(&policy, &user, KernelHeld::BEST, &Shut::default());
        assessment.meets_floor(&policy)?;
        let audit_path = match &self.audit {
            Some(path) => path.clone(),
            None => default_path(true, std::env::var_os)?,
        };
        let recap = recap::Recap::begin(&audit_path);
        let agent = policy.agent().clone();
        let hide = ["/var/log/sluice", "/var/lib/sluice"].map(PathBuf::from);
        let hide = hide.into_iter().chain([std::path::absolute(&audit_path)?]);
        let hide = hide.filter(|path| !path.ends_with("-")).collect();
        let audit = Audit::open(AuditConfig::path(audit_path)).context("opening the audit log")?;
        let plan = session::Plan {
            source,
            policy,
            user,
            assessment,
            audit: audit.clone(),
            command: self.command,
            hide,
        };
        let status = session::run(plan);
        let summary = audit.close();
        if summary.lost > 0 {
            say::line(format_args!("{} audit records were lost", summary.lost));
        }
        let status = status?;
        if let Some(recap) = recap {
            recap.tell(agent.as_str());
        }
        Ok(ExitCode::from(status))
    }

    fn source(&self) -> anyhow::Result<Source> {
        if self.policy.is_none() {
            say::line("no --policy: nothing is allowed");
        }
        let agent = self.agent.as_deref().map(AgentId::parse);
        Ok(Source {
            policy: self.policy.clone(),
            node: self.node_policy.clone(),
            agent: agent.transpose().context("--agent")?,
            observe: self.observe,
        })
    }
}
