//! `sluice policy schema`: the JSON Schema of policy files.

use std::process::ExitCode;

use super::print;
use crate::policy::Policy;

/// Arguments of `sluice policy schema`.
#[derive(Debug, clap::Args)]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        print(&(serde_json::to_string_pretty(&Policy::json_schema())? + "\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
