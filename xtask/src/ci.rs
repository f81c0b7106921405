//! What CI checks besides the tests: sources, format, lints, documentation, licences, layout.

mod sources;

use anyhow::Result;

use crate::{
    abi,
    process::{self, Run as _},
    setup::{self, toolchain},
    workspace,
};

/// Runs every check, the quick ones first, and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    stage("set-up");
    setup::run(setup::Scope::Check)?;
    stage("sources");
    sources::check()?;
    stage("format");
    process::cargo().args(["fmt", "--all", "--check"]).run()?;
    stage("layout");
    abi::run(false)?;
    stage("lints");
    process::cargo()
        .args(["clippy", "--all-targets", "--", "--deny", "warnings"])
        .run()?;
    stage("lints of the kernel half");
    lint_kernel_half()?;
    stage("documentation");
    // For who works on it: private items are shown, so links to them are fine.
    process::cargo()
        .args(["doc", "--no-deps", "--document-private-items"])
        .env(
            "RUSTDOCFLAGS",
            "--deny warnings --allow rustdoc::private-intra-doc-links",
        )
        .run()?;
    stage("licences and advisories");
    if workspace::find_program("cargo-deny").is_some() {
        process::cargo().args(["deny", "check"]).run()?;
    } else {
        eprintln!("xtask: NOT CHECKED: cargo-deny is not installed");
    }
    Ok(())
}

/// The kernel half has a target, a toolchain and a `core` of its own.
fn lint_kernel_half() -> Result<()> {
    let name = toolchain::name()?;
    let mut cargo = toolchain::rustup_run(name, "cargo");
    if toolchain::is_linked(name) {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    cargo
        .args(["clippy", "--package", "gateway-ebpf", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(workspace::target()?.join("clippy-ebpf"))
        .args(["--", "--deny", "warnings"])
        .run()
}

fn stage(name: &str) {
    eprintln!("xtask: ── {name}");
}
