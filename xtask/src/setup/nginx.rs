//! The web server behind the demo: its binary alone, unpacked into the target folder.
//!
//! Installing Debian's package would start a server on port 80 of the user's machine, for good.

use std::fs;

use anyhow::{Context as _, bail};

use super::{Look, Scope, Step, packages};
use crate::{
    process::{self, Run as _},
    workspace,
};

/// A real upstream.
pub(super) const NGINX: Step = Step {
    name: "nginx",
    scope: Scope::Demo,
    look: || {
        let Some(path) = workspace::find_program("nginx") else {
            return Ok(Look::Missing("not installed".to_owned()));
        };
        // nginx tells its version on standard error.
        let output = process::command(&path).arg("-v").capture()?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok(if output.status.success() {
            Look::Present(format!("{said} ({})", path.display()))
        } else {
            Look::Missing(format!("{} does not start: {said}", path.display()))
        })
    },
    install: || {
        let folder = workspace::tools()?.join("nginx");
        let archives = folder.join("archives");
        fs::create_dir_all(&archives).with_context(|| format!("making {}", archives.display()))?;
        if !packages::apt_offers("nginx")? {
            bail!("apt offers no nginx");
        }
        packages::apt_install(&["libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1"])?;
        process::command("apt-get")
            .current_dir(&archives)
            .args([
                "download",
                "--quiet=2",
                "-oAPT::Sandbox::User=root",
                "nginx",
            ])
            .run()?;
        let archive = fs::read_dir(&archives)
            .context("reading what apt downloaded")?
            .next()
            .context("apt downloaded nothing")??;
        process::command("dpkg-deb")
            .arg("--extract")
            .args([archive.path(), folder])
            .run()
    },
    by_hand: || packages::install_command(&["nginx"], &["nginx"], &["nginx"]),
};
