//! What test agents and servers run on Python and the distribution does not have, from PyPI.

use std::{collections::HashSet, fs};

use anyhow::{Context as _, Result};

use super::{Look, Scope, Step, packages::PYTHON};
use crate::{
    process::{self, Run as _},
    workspace,
};

/// Name and version of each: the official MCP SDK, and all that it needs.
const PACKAGES: &[(&str, &str)] = &[
    ("annotated-types", "0.8.0"),
    ("anyio", "4.16.0"),
    ("attrs", "26.1.0"),
    ("cffi", "2.1.1"),
    ("click", "8.5.1"),
    ("cryptography", "50.0.2"),
    ("h11", "0.16.0"),
    ("httpcore2", "2.16.2"),
    ("httpx2", "2.16.2"),
    ("idna", "3.20"),
    ("jsonschema", "4.26.0"),
    ("jsonschema-specifications", "2025.9.1"),
    ("mcp", "2.3.0"),
    ("mcp-types", "2.3.0"),
    ("opentelemetry-api", "1.45.2"),
    ("pycparser", "3.12"),
    ("pydantic", "2.14.4"),
    ("pydantic-core", "2.50.5"),
    ("pyjwt", "2.15.1"),
    ("python-multipart", "0.0.34"),
    ("referencing", "0.37.0"),
    ("rpds-py", "2026.9.1"),
    ("sse-starlette", "3.7.0"),
    ("starlette", "1.10.0"),
    ("truststore", "0.10.5"),
    ("typing-extensions", "4.16.0"),
    ("typing-inspection", "0.4.5"),
    ("uvicorn", "0.54.0"),
];

/// The packages, in a folder of their own: the distribution's Python is not theirs to change.
pub(super) const PYTHON_PACKAGES: Step = Step {
    name: "packages of Python's",
    scope: Scope::Test,
    look,
    install: || {
        let folder = workspace::tools()?.join("python-packages");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("making room for other versions")?;
        }
        process::command(PYTHON)
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--only-binary", ":all:", "--root-user-action", "ignore"])
            .arg("--target")
            .arg(folder)
            .args(wanted())
            .run()
    },
    by_hand: || {
        let wanted: Vec<_> = wanted().collect();
        format!(
            "{PYTHON} -m pip install --no-deps --only-binary :all: \
             --target target/tools/python-packages {}",
            wanted.join(" ")
        )
    },
};

fn wanted() -> impl Iterator<Item = String> {
    PACKAGES
        .iter()
        .map(|(name, version)| format!("{name}=={version}"))
}

fn look() -> Result<Look> {
    let folder = workspace::tools()?.join("python-packages");
    let there: HashSet<String> = match fs::read_dir(&folder) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect(),
        Err(_) => HashSet::new(),
    };
    for (name, version) in PACKAGES {
        if !there.contains(&format!("{}-{version}.dist-info", name.replace('-', "_"))) {
            return Ok(Look::Missing(format!("no {name} {version}")));
        }
    }
    Ok(Look::Present(wanted().collect::<Vec<_>>().join(", ")))
}
