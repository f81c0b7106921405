//! Builds the kernel half and hands it to this crate as `OUT_DIR/sluice-ebpf`.

use anyhow::{Context as _, anyhow};
use aya_build::{Package, Toolchain};

/// Name under which `cargo xtask setup` links a system Rust that has `rust-src`.
const LINKED: &str = "sluice-ebpf";

/// Set where the crate is built for the fuzzer, which attaches nothing.
const FUZZING: &str = "SLUICE_FUZZING";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={FUZZING}");
    if std::env::var_os(FUZZING).is_some() {
        let folder = std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?;
        let object = std::path::Path::new(&folder).join("sluice-ebpf");
        return std::fs::write(&object, []).context("writing an empty object");
    }
    println!("cargo:rerun-if-env-changed=SLUICE_EBPF_TOOLCHAIN");
    println!("cargo:rerun-if-changed=../gateway-common");
    let toolchain = std::env::var("SLUICE_EBPF_TOOLCHAIN").unwrap_or_else(|_| installed());
    if toolchain == LINKED {
        // SAFETY: a build script has one thread here. The variable lets a stable compiler
        // build `core` for the BPF target; it reaches no other crate of this workspace.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway-ebpf");
    aya_build::build_ebpf(
        [Package {
            name: "gateway-ebpf",
            root_dir: root,
            no_default_features: false,
            features: &[],
        }],
        Toolchain::Custom(&toolchain),
    )
    .with_context(|| {
        anyhow!("building gateway-ebpf with toolchain `{toolchain}`; `cargo xtask setup` installs what it needs")
    })
}

/// The linked system toolchain where there is one, otherwise nightly.
fn installed() -> String {
    let listed = std::process::Command::new("rustup")
        .args(["toolchain", "list"])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if listed
        .lines()
        .any(|line| line.split_whitespace().next() == Some(LINKED))
    {
        LINKED.to_owned()
    } else {
        "nightly".to_owned()
    }
}
