//! Tests on the real kernel need root and programs. Without them they skip, and say so; under CI
//! that is a failure.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::geteuid;

/// The interpreter that agents run under: not one in somebody's home.
pub const PYTHON: &str = "/usr/bin/python3";

/// Leaves the test without a failure where it cannot run as root.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::skip::is_root() {
            return Ok(());
        }
    };
}

/// The value of an `Option`; leaves the test without a failure where there is none.
#[macro_export]
macro_rules! needs {
    ($found:expr) => {
        match $found {
            Some(found) => found,
            None => return Ok(()),
        }
    };
}

/// Says why a test is not run.
///
/// # Panics
/// Under CI.
pub fn because(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("this test");
    let ci = env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!ci, "{test} cannot run: {reason}");
    eprintln!("{test} is NOT RUN: {reason}");
}

/// Whether this is root.
#[must_use]
pub fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        because("it attaches BPF programs and makes network namespaces, which needs root");
    }
    root
}

/// A program, as `cargo xtask test` sets it up; none with a word about it.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let found = search_path()
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        because(&format!(
            "there is no {name}; `cargo xtask setup` sees to it"
        ));
    }
    found
}

/// Python, if it has this module for every user; none with a word about it.
#[must_use]
pub fn python(module: &str) -> Option<&'static str> {
    let status = Command::new(PYTHON)
        .args(["-I", "-c", &format!("import {module}")])
        .stderr(Stdio::null())
        .status();
    if status.is_ok_and(|status| status.success()) {
        return Some(PYTHON);
    }
    because(&format!("{PYTHON} has no module {module}"));
    None
}

/// A Node whose `fetch` takes a proxy from the environment, where every user can run it; none
/// with a word about it.
#[must_use]
pub fn node() -> Option<PathBuf> {
    const MAJOR: u32 = 24;
    let node = program("node")?;
    let output = Command::new(&node).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout);
    let major = version.trim_start_matches('v').split('.').next();
    if major.and_then(|major| major.parse().ok()) >= Some(MAJOR) {
        return Some(node);
    }
    because(&format!(
        "{} is {version:?}, and {MAJOR} is needed; `cargo xtask setup` sees to it",
        node.display()
    ));
    None
}

/// The folder of a package that test agents run on Node; none with a word about it.
#[must_use]
pub fn node_package(name: &str) -> Option<PathBuf> {
    let packages = target()?.join("tools/node-packages/node_modules");
    let found = packages.join(name);
    if found.join("package.json").is_file() {
        return Some(found);
    }
    because(&format!(
        "there is no package {name} for Node; `cargo xtask setup` sees to it"
    ));
    None
}

/// `PATH`, the administrator's programs, and what setup unpacked beside the build.
fn search_path() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Some(target) = target() {
        folders.push(target.join("tools/node/bin"));
        folders.push(target.join("tools/nginx/usr/sbin"));
    }
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders
}

/// Cargo's target folder: tests lie in `target/debug/deps`.
fn target() -> Option<PathBuf> {
    let own = env::current_exe().ok()?;
    own.ancestors().nth(3).map(Path::to_owned)
}

/// The folder of what runs on Python and the distribution does not have, if it has this module;
/// none with a word about it.
#[must_use]
pub fn python_packages(module: &str) -> Option<PathBuf> {
    let packages = target()?.join("tools/python-packages");
    let found = packages.join(module).is_dir();
    if !found {
        because(&format!(
            "there is no {module} for Python; `cargo xtask setup` sees to it"
        ));
    }
    found.then_some(packages)
}
