//! Building what the other tasks run.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    process::{self, Run as _},
    workspace,
};

/// Builds `sluice` with the kernel half inside, and answers where it is.
///
/// The debug profile: it is built for tests anyway, and the demo is not a benchmark.
pub(crate) fn sluice() -> Result<PathBuf> {
    process::cargo()
        .args(["build", "--package", "gateway-userspace", "--bin", "sluice"])
        .run()?;
    workspace::sluice()
}

/// Builds `sluice` as it is shipped, to be measured.
pub(crate) fn sluice_released() -> Result<PathBuf> {
    process::cargo()
        .args(["build", "--release"])
        .args(["--package", "gateway-userspace", "--bin", "sluice"])
        .run()?;
    Ok(workspace::target()?.join("release/sluice"))
}
