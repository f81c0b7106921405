//! What test agents run on Node, from the npm registry.

use anyhow::Result;

use super::{Look, Scope, Step, packages};
use crate::{
    process::{self, Run as _},
    workspace,
};

/// Name and version of each: a WebSocket client, how it asks a proxy, and the official MCP SDK.
const PACKAGES: &[(&str, &str)] = &[
    ("ws", "8.23.0"),
    ("https-proxy-agent", "9.1.0"),
    ("@modelcontextprotocol/sdk", "1.32.2"),
];

/// The packages, in a folder of their own: npm takes away what it was not asked for.
pub(super) const NODE_PACKAGES: Step = Step {
    name: "packages of Node's",
    scope: Scope::Test,
    look,
    install: || {
        if workspace::find_program("npm").is_none() {
            packages::apt_install(&["npm"])?;
        }
        process::command("npm")
            .arg("install")
            .arg("--prefix")
            .arg(workspace::tools()?.join("node-packages"))
            .args(["--no-audit", "--no-fund", "--no-save", "--ignore-scripts"])
            .args(wanted())
            .run()
    },
    by_hand: || {
        let wanted: Vec<_> = wanted().collect();
        format!(
            "npm install --prefix target/tools/node-packages {}",
            wanted.join(" ")
        )
    },
};

fn wanted() -> impl Iterator<Item = String> {
    PACKAGES
        .iter()
        .map(|(name, version)| format!("{name}@{version}"))
}

fn look() -> Result<Look> {
    let folder = workspace::tools()?.join("node-packages/node_modules");
    for (name, version) in PACKAGES {
        let about = folder.join(name).join("package.json");
        let found = std::fs::read_to_string(&about).ok();
        let found = found.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        let found = found.as_ref().and_then(|about| about["version"].as_str());
        if found != Some(version) {
            return Ok(Look::Missing(format!("no {name} {version}")));
        }
    }
    Ok(Look::Present(wanted().collect::<Vec<_>>().join(", ")))
}
