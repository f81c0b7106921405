//! The demo: a real agent under a shipped policy, and a real upstream that it may reach in part.
//!
//! All of it happens in network namespaces of its own, so that even a Sluice that failed would
//! let nothing onto the user's network. Whatever is claimed at the end was checked where it
//! would have arrived, and in the audit file; anything else than expected fails the demo.

mod attempts;
mod certificate;
mod network;
mod receivers;
mod upstream;

use std::{
    fs::{self, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{
    build, interrupt,
    process::{self, Guarded, Run as _},
    setup, workspace,
};
use attempts::Seen;
use upstream::Upstream;

/// Files that the agent's user must be able to read, whoever owns the repository.
const AGENT: &str = "agent.py";

/// Sets up, builds, and shows the demo as root.
pub(crate) fn prepare() -> Result<ExitCode> {
    setup::run(setup::Scope::Demo)?;
    build::sluice()?;
    if process::is_root() {
        return show();
    }
    let own = std::env::current_exe().context("finding xtask's own executable")?;
    interrupt::watch()?;
    process::as_root(own)?.arg("demo").hand_over()
}

/// Shows the demo. Needs root, and everything built.
pub(crate) fn show() -> Result<ExitCode> {
    interrupt::watch()?;
    let folder = tempfile::Builder::new()
        .prefix("sluice-demo-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir()
        .context("making a folder for the demo")?;
    certificate::make(folder.path())?;
    let agent = folder.path().join(AGENT);
    fs::copy(workspace::root().join("demo").join(AGENT), &agent).context("copying the agent")?;
    fs::set_permissions(&agent, Permissions::from_mode(0o644)).context("opening the agent")?;

    network::enter_own()?;
    let mut upstream = Upstream::start(folder.path())?;
    println!(
        "\nAn agent may use https://api.demo.internal/ and read http://docs.demo.internal/guide/.\n\
         It tries these, and more (policies/demo.toml, demo/agent.py):\n"
    );
    let seen = run_agent(&folder)?;
    interrupt::check()?;

    println!("\nWhat the audit file says (sluice audit tail):\n");
    let tail = process::command(workspace::sluice()?)
        .args(["audit", "tail", "--lines", "1000"])
        .arg(audit_file(folder.path()))
        .hand_over()?;
    if tail != ExitCode::SUCCESS {
        bail!("`sluice audit tail` failed");
    }
    let audit = fs::read_to_string(audit_file(folder.path())).context("reading the audit file")?;
    let arrived = upstream.arrived()?;
    println!();
    if attempts::judge(&seen, &audit, &arrived)? {
        Ok(ExitCode::SUCCESS)
    } else {
        bail!("the demo did not come out as it must");
    }
}

fn audit_file(folder: &Path) -> std::path::PathBuf {
    folder.join("audit.jsonl")
}

/// Runs the agent under Sluice, shows its lines as they come, and collects them.
fn run_agent(folder: &TempDir) -> Result<Vec<Seen>> {
    let folder = folder.path();
    let mut sluice = Guarded::spawn(workspace::sluice()?, |command| {
        command
            .current_dir(folder)
            .arg("run")
            .arg("--policy")
            .arg(workspace::root().join("policies/demo.toml"))
            .arg("--audit")
            .arg(audit_file(folder))
            .args(["--", setup::packages::PYTHON])
            .arg(folder.join(AGENT))
            .arg(folder.join(certificate::CA))
            .arg(network::UPSTREAM.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
    })?;
    interrupt::forward_to(sluice.child())?;
    let lines = sluice
        .child()
        .stdout
        .take()
        .context("the agent's output is not piped")?;
    let mut seen = Vec::new();
    for line in BufReader::new(lines).lines() {
        let line = line.context("reading the agent's output")?;
        println!("  {line}");
        seen.extend(Seen::parse(&line));
    }
    let status = sluice.child().wait().context("waiting for sluice")?;
    interrupt::check()?;
    if !status.success() {
        bail!("`sluice run` ended with {status}");
    }
    Ok(seen)
}
