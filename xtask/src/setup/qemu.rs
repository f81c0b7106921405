//! What the virtual machines of `cargo xtask vm` are made with.

use anyhow::{Result, bail};

use super::{Look, Scope, Step, packages};
use crate::{
    process::{self, Run as _},
    vm::apt::{Apt, codename},
    workspace,
};

/// QEMU, and what makes the indices of a kernel's modules. QEMU on its own pulls in a desktop,
/// so nothing that is merely recommended comes along.
pub(super) const QEMU: Step = Step {
    name: "virtual machines",
    scope: Scope::Vm,
    look: || {
        let missing: Vec<_> = ["qemu-system-x86_64", "depmod", "strip"]
            .into_iter()
            .filter(|program| workspace::find_program(program).is_none())
            .collect();
        if !missing.is_empty() {
            return Ok(Look::Missing(format!("no {}", missing.join(", no "))));
        }
        let version = process::command("qemu-system-x86_64")
            .arg("--version")
            .read()?;
        let first = version.lines().next().unwrap_or_default();
        Ok(Look::Present(first.to_owned()))
    },
    install,
    by_hand: || {
        packages::install_command(
            &["qemu-system-x86", "kmod", "binutils"],
            &["qemu-system-x86-core", "kmod", "binutils"],
            &["qemu-system-x86", "kmod", "binutils"],
        )
    },
};

const PACKAGES: [&str; 3] = ["qemu-system-x86", "kmod", "binutils"];

/// Nothing may be removed for it: where the release's own QEMU does not go with what is there,
/// that of the backports does.
fn install() -> Result<()> {
    let Err(error) = packages::apt_install(&PACKAGES) else {
        return Ok(());
    };
    let backports = format!("{}-backports", codename()?);
    eprintln!("xtask: {error:#}; trying {backports}");
    if !process::is_root() {
        bail!("this needs root");
    }
    let apt = Apt::with(
        crate::vm::folder()?.join("apt").join(&backports),
        &[&backports],
    )?;
    apt.get()
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--quiet=2", "--yes", "--no-install-recommends"])
        .args(["--no-remove", "--target-release", &backports])
        .args(PACKAGES)
        .run()
}
