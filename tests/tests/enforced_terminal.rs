//! A command under `sluice run` on a real terminal behaves as it does without: keys that send
//! signals, the end of input, the size of the window, job control, pipelines, exit statuses.
//!
//! A driver types at an interactive shell on a terminal of its own, as an operator would, and
//! waits for what that brings up. Each scenario is first played without Sluice: what is expected
//! is what happens there.

use std::{ffi::OsString, process::Command};

use anyhow::{Result, ensure};
use sluice_tests::{agent::sluice, deadline::patience, needs_root, skip::PYTHON, world::World};

#[path = "enforced_terminal/jobs.rs"]
mod jobs;
#[path = "enforced_terminal/pipelines.rs"]
mod pipelines;
#[path = "enforced_terminal/statuses.rs"]
mod statuses;

const DRIVER: &str = include_str!("enforced_terminal/driver.py");

fn play(scenario: &str) -> Result<()> {
    let world = World::new()?;
    let audit = world.scratch().join("audit.jsonl");
    let script = format!("{DRIVER}{scenario}");
    let run = [
        sluice()?.into(),
        "run".into(),
        "--audit".into(),
        audit.into(),
        "--".into(),
    ];
    for run in [&[] as &[OsString], &run] {
        let mut command = Command::new(PYTHON);
        command.args(["-c", &script]);
        command.arg(patience().as_secs().to_string()).args(run);
        command.current_dir("/");
        let output = world.node.run(|| command.output())?;
        ensure!(output.status.success(), "begun with {run:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn keys_that_send_signals() -> Result<()> {
    needs_root!();
    play(
        r"
for key, code in [('\x03', 130), ('\x1c', 131)]:
    line(run + answer)
    answers()
    t.say(key)
    outer()
    status(code)
    is_restored()
",
    )
}

#[test]
fn the_end_of_input() -> Result<()> {
    needs_root!();
    play(
        r#"
line(run + "sh -c 'echo re''ady; sed -u s/^/got-/; echo en''ded; exit 4'")
answers()
t.say('\x04')
t.expect(rb'ended')
outer()
status(4)
"#,
    )
}

#[test]
fn the_size_of_the_window() -> Result<()> {
    needs_root!();
    play(
        r#"
resize(33, 77)
line(run + "sh -c 'trap \"stty size; exit 3\" WINCH; stty size; while read x; do :; done'")
t.expect(rb'33 77')
resize(44, 88)
t.expect(rb'44 88')
outer()
status(3)
"#,
    )
}
