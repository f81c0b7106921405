//! A Rust that can build for the BPF target: its sources must be there, as `core` is built too.
//!
//! Either a rustup nightly with `rust-src`, or Debian's `rustc-web` set, linked into rustup under
//! a name of ours. gateway-userspace/build.rs takes the linked one where there is one.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{Look, Scope, Step, packages};
use crate::process::{self, Run as _};

/// The name under which the system's Rust is linked; build.rs knows it too.
const LINKED: &str = "sluice-ebpf";
/// Where Debian's Rust lives, as rustup links it.
const SYSTEM: &str = "/usr";
/// Debian's set: compiler, cargo, and sources of the same version.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];

/// What builds the kernel half.
pub(super) const BPF_TOOLCHAIN: Step = Step {
    name: "Rust for BPF",
    scope: Scope::Build,
    look: || {
        let (name, found) = chosen()?;
        Ok(match found {
            Ok(version) => Look::Present(format!("toolchain `{name}`, {version}")),
            Err(why) => Look::Missing(why),
        })
    },
    install: || {
        if packages::apt_offers(DEBIAN[0]).unwrap_or(false) {
            packages::apt_install(DEBIAN)?;
            return link();
        }
        if name()? == LINKED {
            // build.rs would take it, unfit as it is.
            process::command("rustup")
                .args(["toolchain", "uninstall", LINKED])
                .run()?;
        }
        process::command("rustup")
            .args(["toolchain", "install", "nightly", "--profile=minimal"])
            .args(["--component=rust-src", "--component=clippy"])
            .run()
    },
    by_hand: || {
        format!(
            "rustup toolchain install nightly --component rust-src\n  \
             or, on Debian: sudo apt-get install --no-install-recommends {} \
             && rustup toolchain link {LINKED} {SYSTEM}",
            DEBIAN.join(" ")
        )
    },
};

/// Format and lints, for all but the kernel half.
pub(super) const LINTS: Step = Step {
    name: "rustfmt and clippy",
    scope: Scope::Check,
    look: || {
        let installed = |tool: &str| -> Result<bool> {
            let output = process::cargo().args([tool, "--version"]).capture()?;
            Ok(output.status.success())
        };
        Ok(if installed("fmt")? && installed("clippy")? {
            Look::Present("both are there".to_owned())
        } else {
            Look::Missing("not both are there".to_owned())
        })
    },
    install: || {
        process::command("rustup")
            .args(["component", "add", "rustfmt", "clippy"])
            .run()
    },
    by_hand: || "rustup component add rustfmt clippy".to_owned(),
};

/// Lints for the kernel half, of the toolchain that builds it.
pub(super) const BPF_LINTS: Step = Step {
    name: "clippy for BPF",
    scope: Scope::Check,
    look: || {
        let name = name()?;
        let output = rustup_run(name, "cargo")
            .args(["clippy", "--version"])
            .capture()?;
        Ok(if output.status.success() {
            Look::Present(format!("of toolchain `{name}`"))
        } else {
            Look::Missing(format!("toolchain `{name}` has none"))
        })
    },
    install: || {
        if name()? == LINKED {
            return packages::apt_install(&["rust-web-clippy"]);
        }
        process::command("rustup")
            .args(["component", "add", "clippy", "--toolchain=nightly"])
            .run()
    },
    by_hand: || {
        "rustup component add clippy --toolchain nightly\n  \
         or, on Debian: sudo apt-get install --no-install-recommends rust-web-clippy"
            .to_owned()
    },
};

/// The toolchain that build.rs will take.
pub(crate) fn name() -> Result<&'static str> {
    Ok(chosen()?.0)
}

/// Whether `name` is the linked one, whose compiler calls itself stable.
pub(crate) fn is_linked(name: &str) -> bool {
    name == LINKED
}

/// The LLVM that the chosen toolchain writes bitcode of.
pub(super) fn llvm_major() -> Result<u32> {
    let version = rustup_run(name()?, "rustc").arg("-vV").read()?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|version| version.split('.').next())
        .and_then(|major| major.parse().ok())
        .with_context(|| format!("no LLVM version in:\n{version}"))
}

/// The toolchain that build.rs takes, and its version, or why it is not fit.
fn chosen() -> Result<(&'static str, Result<String, String>)> {
    let listed = process::command("rustup")
        .args(["toolchain", "list"])
        .read()
        .context("asking rustup (https://rustup.rs) for its toolchains")?;
    let mut names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let linked = names.clone().any(|name| name == LINKED);
    let name = if linked { LINKED } else { "nightly" };
    let known = linked || names.any(|listed| listed.starts_with("nightly-") && !is_dated(listed));
    if !known {
        return Ok((
            name,
            Err("no nightly toolchain, and none linked".to_owned()),
        ));
    }
    Ok((name, fitness(name)?))
}

/// `nightly-2026-05-19-x86_64-…` is another toolchain than `nightly`.
fn is_dated(listed: &str) -> bool {
    listed
        .trim_start_matches("nightly-")
        .starts_with(|first: char| first.is_ascii_digit())
}

/// The version of a toolchain, or why it cannot build the kernel half.
fn fitness(name: &str) -> Result<Result<String, String>> {
    let version = rustup_run(name, "rustc").arg("--version").capture()?;
    let cargo = rustup_run(name, "cargo").arg("--version").capture()?;
    if !version.status.success() || !cargo.status.success() {
        return Ok(Err(format!("toolchain `{name}` lacks rustc or cargo")));
    }
    let sysroot = rustup_run(name, "rustc")
        .args(["--print", "sysroot"])
        .read()?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !sources.exists() {
        return Ok(Err(format!("toolchain `{name}` lacks rust-src")));
    }
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let (Some(has), Some(needed)) = (
        version.split_whitespace().nth(1).and_then(minor),
        minor(env!("CARGO_PKG_RUST_VERSION")),
    ) else {
        bail!("`{version}` is no version of rustc");
    };
    if has < needed {
        return Ok(Err(format!(
            "toolchain `{name}` is {version}; 1.{needed} is needed"
        )));
    }
    Ok(Ok(version))
}

/// The 95 of `1.95.0-nightly`.
fn minor(version: &str) -> Option<u32> {
    let mut numbers = version.split('.');
    (numbers.next()? == "1").then_some(())?;
    numbers.next()?.parse().ok()
}

/// Links Debian's Rust, afresh where a link is there already.
fn link() -> Result<()> {
    process::command("rustup")
        .args(["toolchain", "link", LINKED, SYSTEM])
        .run()
}

/// A program of a toolchain, never fetching one.
pub(crate) fn rustup_run(toolchain: &str, program: &str) -> std::process::Command {
    let mut command = process::command("rustup");
    command
        .args(["run", toolchain, program])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

#[cfg(test)]
mod tests {
    use super::{is_dated, minor};

    #[test]
    fn versions_are_read_with_and_without_a_channel() {
        assert_eq!(minor("1.95"), Some(95));
        assert_eq!(minor("1.97.0-nightly"), Some(97));
        assert_eq!(minor("2.0.0"), None);
        assert_eq!(minor("one"), None);
    }

    #[test]
    fn a_dated_nightly_is_not_nightly() {
        assert!(is_dated("nightly-2026-05-19-x86_64-unknown-linux-gnu"));
        assert!(!is_dated("nightly-x86_64-unknown-linux-gnu"));
    }
}
