//! `bpf-linker`, built against the LLVM whose bitcode it must read.

use anyhow::{Context as _, Result};

use super::{Look, Scope, Step, packages, toolchain};
use crate::{
    process::{self, Run as _},
    workspace,
};

const NAME: &str = "bpf-linker";
/// The version that setup installs; a newer one that is there already will do.
const VERSION: &str = "0.13.0";

/// What links the kernel half.
pub(super) const BPF_LINKER: Step = Step {
    name: NAME,
    scope: Scope::Build,
    look,
    install: || {
        let llvm = toolchain::llvm_major()?;
        let packages = libraries(llvm);
        packages::apt_install(&packages.iter().map(String::as_str).collect::<Vec<_>>())?;
        process::cargo()
            .env("LLVM_PREFIX", prefix(llvm))
            .args(["install", NAME, "--version", VERSION, "--locked", "--force"])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
            ])
            .run()
    },
    by_hand: || {
        let llvm = toolchain::llvm_major().unwrap_or(22);
        format!(
            "install LLVM {llvm} with its headers (Debian: sudo apt-get install {}), then\n  \
             LLVM_PREFIX={} cargo install {NAME} --version {VERSION} --locked \
             --no-default-features --features llvm-{llvm}",
            libraries(llvm).join(" "),
            prefix(llvm)
        )
    },
};

fn look() -> Result<Look> {
    let Some(path) = workspace::find_program(NAME) else {
        return Ok(Look::Missing("not installed".to_owned()));
    };
    // That it starts shows that the LLVM it was built against is still there.
    let output = process::command(&path).arg("--version").capture()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let has = version.split_whitespace().nth(1).and_then(release);
    if !output.status.success() || has.is_none() {
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Ok(Look::Missing(format!(
            "{} does not start: {error}",
            path.display()
        )));
    }
    if has < release(VERSION) {
        return Ok(Look::Missing(format!("{version} is older than {VERSION}")));
    }
    let needed = toolchain::llvm_major()?;
    let libraries = process::command("ldd")
        .arg(&path)
        .read()
        .context("asking which LLVM it uses")?;
    match linked_llvm(&libraries) {
        Some(has) if has < needed => Ok(Look::Missing(format!(
            "{version} uses LLVM {has} and cannot read the toolchain's LLVM {needed}"
        ))),
        Some(has) => Ok(Look::Present(format!("{version}, with LLVM {has}"))),
        None => Ok(Look::Present(format!("{version}, with an LLVM of its own"))),
    }
}

/// A version as numbers that compare.
fn release(version: &str) -> Option<Vec<u32>> {
    version
        .split('.')
        .map(|number| number.parse().ok())
        .collect()
}

/// The LLVM among a program's libraries, as `ldd` lists them; none where it is linked in.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let (_, after) = libraries.split_once("libLLVM")?;
    let digits = after.trim_start_matches(|first: char| !first.is_ascii_digit());
    digits
        .split(|next: char| !next.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Debian's packages to build it.
fn libraries(llvm: u32) -> Vec<String> {
    let fixed = ["libzstd-dev", "zlib1g-dev", "libxml2-dev", "g++"];
    let versioned = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    versioned
        .into_iter()
        .chain(fixed.map(str::to_owned))
        .collect()
}

/// Where Debian puts an LLVM.
fn prefix(llvm: u32) -> String {
    format!("/usr/lib/llvm-{llvm}")
}

#[cfg(test)]
mod tests {
    use super::{linked_llvm, release};

    #[test]
    fn releases_compare_by_number() {
        assert!(release("0.9.15") < release("0.13.0"));
        assert!(release("0.13.0") <= release("0.13.0"));
        assert_eq!(release("0.13.x"), None);
    }

    #[test]
    fn the_llvm_is_read_from_the_library_name() {
        let debian = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7fd50d200000)\n";
        assert_eq!(linked_llvm(debian), Some(22));
        let older = "\tlibLLVM-18.so.1 => /usr/lib/llvm-18/lib/libLLVM-18.so.1 (0x7f)\n";
        assert_eq!(linked_llvm(older), Some(18));
        assert_eq!(linked_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n"), None);
    }
}
