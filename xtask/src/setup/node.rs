//! A Node whose `fetch` takes a proxy from the environment, for the tests: 24 or newer.

use anyhow::{Context as _, Result, bail};

use super::{Look, Scope, Step, packages};
use crate::{
    process::{self, Run as _},
    workspace,
};

/// The first major version whose `fetch` reads `NODE_USE_ENV_PROXY`.
const MAJOR: u32 = 24;
/// What setup installs from the npm registry, where it is a package like any other.
const VERSION: &str = "24.21.0";

/// The Node that test agents run.
pub(super) const NODE: Step = Step {
    name: "Node",
    scope: Scope::Test,
    look,
    install: || {
        if workspace::find_program("npm").is_none() {
            packages::apt_install(&["npm"])?;
        }
        let tools = workspace::tools()?;
        let folder = tools.join("npm");
        process::command("npm")
            .arg("install")
            .arg("--prefix")
            .arg(&folder)
            .args(["--no-audit", "--no-fund", "--no-save"])
            .arg(format!("{}@{VERSION}", package()?))
            .run()?;
        let link = tools.join("node");
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link).with_context(|| format!("removing {}", link.display()))?;
        }
        let installed = folder.join("node_modules").join(package()?);
        std::os::unix::fs::symlink(&installed, &link)
            .with_context(|| format!("linking {}", link.display()))
    },
    by_hand: || format!("install Node {MAJOR} or newer, as https://nodejs.org tells"),
};

fn look() -> Result<Look> {
    let Some(path) = workspace::find_program("node") else {
        return Ok(Look::Missing("not installed".to_owned()));
    };
    let output = process::command(&path).arg("--version").capture()?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(match major(&version) {
        Some(major) if major >= MAJOR => Look::Present(format!("{version} ({})", path.display())),
        _ => Look::Missing(format!(
            "{} is {version:?}; {MAJOR} is needed",
            path.display()
        )),
    })
}

/// The 24 of `v24.21.0`.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// The registry's package with the binary for this machine.
fn package() -> Result<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => bail!("the npm registry has no Node for {other}"),
    };
    Ok(format!("node-linux-{architecture}"))
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn the_major_version_is_read() {
        assert_eq!(major("v24.21.0"), Some(24));
        assert_eq!(major("v8.0.0-pre"), Some(8));
        assert_eq!(major("24.21.0"), None);
        assert_eq!(major(""), None);
    }
}
