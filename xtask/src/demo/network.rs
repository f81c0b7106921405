//! Two network namespaces, joined by a cable: the agent's side and the upstream's.
//!
//! They have no names and hold no file: they end with the processes inside, however those end.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

use crate::process::{self, Run as _};

/// The agent's side, out of the documentation's range (RFC 5737), which nobody routes.
const AGENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The upstream's side.
pub(super) const UPSTREAM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Moves this thread, and what it starts, into a new namespace.
pub(super) fn enter_own() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace (are you root?)")?;
    ip(&["link", "set", "lo", "up"])
}

/// The namespace that this thread is in, for others to name.
pub(super) fn own() -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/task/{}/ns/net",
        std::process::id(),
        gettid()
    ))
}

/// Lays the cable from this thread's namespace to `other`, and brings this end up.
pub(super) fn join(other: &Path) -> Result<()> {
    let other = other.to_str().context("a namespace's path is ASCII")?;
    ip(&[
        "link", "add", "agent", "type", "veth", "peer", "name", "upstream", "netns", other,
    ])?;
    bring_up("agent", AGENT)
}

/// Brings the upstream's end up, from within its namespace.
pub(super) fn bring_up_upstream() -> Result<()> {
    bring_up("upstream", UPSTREAM)
}

fn bring_up(device: &str, address: Ipv4Addr) -> Result<()> {
    ip(&["addr", "add", &format!("{address}/30"), "dev", device])?;
    ip(&["link", "set", device, "up"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::command("ip").args(arguments).read().map(drop)
}
