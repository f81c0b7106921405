//! A certificate authority for two days, and the upstream's certificate.

use std::path::Path;

use anyhow::Result;

use crate::process::{self, Run as _};

/// What the agent trusts.
pub(super) const CA: &str = "ca.pem";

/// Makes `ca.pem`, `server.pem` and their keys in `folder`.
pub(super) fn make(folder: &Path) -> Result<()> {
    request(
        folder,
        "Sluice demo CA",
        "ca",
        &["basicConstraints=critical,CA:TRUE"],
        &[],
    )?;
    request(
        folder,
        "api.demo.internal",
        "server",
        &[
            "subjectAltName=DNS:api.demo.internal",
            "basicConstraints=critical,CA:FALSE",
        ],
        &["-CA", CA, "-CAkey", "ca.key"],
    )
}

fn request(
    folder: &Path,
    name: &str,
    file: &str,
    extensions: &[&str],
    issuer: &[&str],
) -> Result<()> {
    let mut openssl = process::command("openssl");
    openssl
        .current_dir(folder)
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-noenc", "-days", "2", "-subj", &format!("/CN={name}")])
        .args([
            "-keyout",
            &format!("{file}.key"),
            "-out",
            &format!("{file}.pem"),
        ])
        .args(
            extensions
                .iter()
                .flat_map(|extension| ["-addext", extension]),
        )
        .args(issuer);
    openssl.read().map(drop)
}
