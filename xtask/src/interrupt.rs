//! Ctrl-C and SIGTERM: this process lives on until its child has ended, and then unwinds, so that
//! nothing stays behind.

use std::{
    process::Child,
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The child that SIGTERM is handed on to; 0 where there is none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// From now on, an interruption no longer ends this process at once.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("watching for signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            // Ctrl-C reaches the child as well, from the terminal itself.
            if signal == SIGTERM {
                hand_on();
            }
        }
    });
    Ok(())
}

/// SIGTERM will end `child` too, which this process is waiting for.
pub(crate) fn forward_to(child: &Child) -> Result<()> {
    CHILD.store(pid(child)?.as_raw(), Ordering::SeqCst);
    Ok(())
}

/// Asks a child to end.
pub(crate) fn terminate(child: &Child) -> Result<()> {
    kill(pid(child)?, Signal::SIGTERM).context("sending SIGTERM")
}

fn pid(child: &Child) -> Result<Pid> {
    let pid = i32::try_from(child.id()).context("a process id past i32")?;
    Ok(Pid::from_raw(pid))
}

/// # Errors
/// There has been an interruption.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sends SIGTERM to the child that this process is waiting for, if any.
fn hand_on() {
    let pid = CHILD.load(Ordering::SeqCst);
    if pid > 0 {
        // It may have ended just now, which is as good.
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
}
