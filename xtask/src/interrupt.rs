//! Ctrl-C and SIGTERM: the child is told, and this process then unwinds, so that nothing of the
//! demo stays behind.

use std::{
    process::Child,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The child that is told; 0 where there is none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// From now on, an interruption no longer ends this process at once.
pub(crate) fn watch() -> Result<()> {
    ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
        tell_child();
    })
    .context("watching for Ctrl-C")
}

/// Interruptions end `child`, which this process is waiting for.
///
/// # Errors
/// There has been one already.
pub(crate) fn forward_to(child: &Child) -> Result<()> {
    let pid = i32::try_from(child.id()).context("a process id past i32")?;
    CHILD.store(pid, Ordering::SeqCst);
    check()
}

/// # Errors
/// There has been an interruption.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

fn tell_child() {
    let pid = CHILD.load(Ordering::SeqCst);
    if pid > 0 {
        // It may have ended just now, which is as good.
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
}
