//! Processes that are made to stand still.

use std::fs;

use anyhow::Result;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::deadline::wait_for;

/// Stops a process, and comes back when each of its threads stands still: until then, one of them
/// may take on what the test sends it.
///
/// # Errors
/// If it is not there.
pub fn stop(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGSTOP)?;
    wait_for("it to stand still", || {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task"))?;
        let all = threads.all(|thread| {
            let status = thread.and_then(|it| fs::read_to_string(it.path().join("status")));
            // One that ended meanwhile does nothing either.
            status.map_or(true, |it| it.contains("\nState:\tT"))
        });
        Ok(all.then_some(()))
    })
}
