//! `cargo xtask run -- CMD`: confines CMD under a shipped policy and shows what was recorded.

use std::{ffi::OsString, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, interrupt,
    process::{self, Run as _},
    setup, workspace,
};

/// What cargo put into xtask's environment and CMD must not meet: it may be a cargo itself.
const SET_BY_CARGO: &[&str] = &[
    "CARGO",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
];

/// Runs `command` under `policies/{policy}.toml`; answers with its exit status.
///
/// CMD's standard output stays its own: everything of ours goes to standard error.
pub(crate) fn run(policy: &str, command: &[OsString]) -> Result<ExitCode> {
    setup::run(setup::Scope::Build)?;
    let sluice = build::sluice()?;
    let policy = workspace::root().join(format!("policies/{policy}.toml"));
    if !policy.is_file() {
        bail!("there is no {}", policy.display());
    }
    let folder = workspace::target()?.join("audit");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let (_, audit) = tempfile::Builder::new()
        .prefix("run-")
        .suffix(".jsonl")
        .tempfile_in(&folder)
        .and_then(|file| file.keep().map_err(Into::into))
        .with_context(|| format!("making an audit file in {}", folder.display()))?;

    // CMD may well go on after a Ctrl-C, and its records are to be shown in any case.
    interrupt::watch()?;
    let here = std::env::current_dir().context("finding the current folder")?;
    let mut sluice_run = process::as_root(&sluice)?;
    for name in SET_BY_CARGO {
        sluice_run.env_remove(name);
    }
    let ended = sluice_run
        .current_dir(here)
        .arg("run")
        .arg("--policy")
        .arg(policy)
        .arg("--audit")
        .arg(&audit)
        .arg("--")
        .args(command)
        .hand_over()?;
    show_audit(&sluice, &audit)?;
    Ok(ended)
}

/// Prints an audit file to standard error, a compact line for each record.
fn show_audit(sluice: &Path, audit: &Path) -> Result<()> {
    eprintln!("xtask: audit records in {}:", audit.display());
    process::as_root(sluice)?
        .args(["audit", "tail", "--lines", "1000"])
        .arg(audit)
        .run()
}
