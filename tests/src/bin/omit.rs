//! `omit STEPS COMMAND…` runs a command with these steps of Sluice's launcher left out, and ends
//! with its status. `STEPS` is JSON, a list of what [`sluice_tests::omission`] defines.

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use sluice_tests::{deadline::shell_status, omission};

/// Stops before it becomes the command.
const STOPPED: &str = "kill -STOP $$ && exec \"$@\"";

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let steps = arguments.next().context("no STEPS")?;
    let steps: Vec<omission::Omission> =
        serde_json::from_str(steps.to_str().context("STEPS is no text")?).context("STEPS")?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", STOPPED, "sh"]).args(arguments);
    let status = omission::run(&mut command, &steps)?;
    Ok(ExitCode::from(u8::try_from(shell_status(status))?))
}
