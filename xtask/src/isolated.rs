//! Runs a command with mounts of its own, so that what it mounts goes away with it.
//!
//! This is the runner of each test binary: a bpffs that a test mounts and the names of its
//! network namespaces never show up outside, and no test run finds those of another.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";

/// Becomes `command`. Only root can.
pub(crate) fn run(command: &[OsString]) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command")?;
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace (are you root?)")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("making the mounts private")?;
    fs::create_dir_all(NAMESPACES).with_context(|| format!("making {NAMESPACES}"))?;
    mount(
        Some("tmpfs"),
        NAMESPACES,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting {NAMESPACES}"))?;
    let failed = Command::new(program).args(arguments).exec();
    Err::<Infallible, _>(failed)
        .with_context(|| format!("starting {}", program.display()))
        .map(|never| match never {})
}
