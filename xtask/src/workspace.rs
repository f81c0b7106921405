//! Where things are: the repository, its target folder, and the tools that setup put there.

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::process::{self, Run as _};

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in a folder of the repository")
}

/// Cargo's target folder, wherever the user moved it.
pub(crate) fn target() -> Result<PathBuf> {
    let own = env::current_exe().context("finding xtask's own executable")?;
    let target = own.parent().and_then(Path::parent);
    Ok(target
        .context("xtask runs outside a target folder")?
        .to_owned())
}

/// The `sluice` binary as [`crate::build::sluice`] leaves it.
pub(crate) fn sluice() -> Result<PathBuf> {
    Ok(target()?.join("debug/sluice"))
}

/// What setup installs for this repository alone.
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(target()?.join("tools"))
}

/// Finds a program as a shell would, along [`search_path`].
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The user's `PATH`, with this repository's tools and cargo's in front.
pub(crate) fn search_path() -> OsString {
    let mut folders = Vec::new();
    if let Ok(tools) = tools() {
        folders.push(tools.join("node/bin"));
        folders.push(tools.join("nginx/usr/sbin"));
    }
    folders.extend(cargo_binaries());
    folders.extend(env::split_paths(&user_path()));
    join(folders)
}

/// The user's `PATH`, with the administrator's programs at the end: Debian's users lack them,
/// and its package manager does not start without.
pub(crate) fn user_path() -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = env::split_paths(&inherited).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    join(folders)
}

/// A search path of these folders, each once.
fn join(mut folders: Vec<PathBuf>) -> OsString {
    let mut seen = HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    env::join_paths(folders).expect("each folder came from a search path or has no colon")
}

/// Where `cargo install` puts binaries.
fn cargo_binaries() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    home.map(|home| home.join("bin"))
}

/// The triple of this machine.
pub(crate) fn host() -> Result<String> {
    let version = process::command("rustc").arg("-vV").read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}
