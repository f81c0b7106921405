//! The golden layout: what crosses the kernel boundary may only change on purpose.

use anyhow::{Context as _, Result};

use crate::process::{self, Run as _};

/// Tells the test to write `gateway-common/abi.txt` instead of comparing with it.
const BLESS: &str = "SLUICE_BLESS";

/// Compares the layout that gateway-common has now with the golden file, or writes that.
pub(crate) fn run(bless: bool) -> Result<()> {
    let mut layout = process::cargo();
    layout.args([
        "test",
        "--quiet",
        "--package",
        "gateway-common",
        "--test",
        "layout",
    ]);
    if bless {
        layout.env(BLESS, "1").run()?;
        eprintln!("xtask: wrote gateway-common/abi.txt; if it changed, raise ABI_VERSION");
        return Ok(());
    }
    layout.env_remove(BLESS).run().context(
        "if the layout is meant to change: raise ABI_VERSION, then `cargo xtask abi --bless`",
    )
}
