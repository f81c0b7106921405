//! Waiting: always for something, never for longer than this.

use std::{
    env, io,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Variable with the number of times that everything may take longer: inside a virtual machine
/// without hardware to help.
const SCALE: &str = "SLUICE_TEST_PATIENCE";

/// How long anything may take that ought to happen. Far more than it takes on a slow machine.
#[must_use]
pub fn patience() -> Duration {
    scaled(Duration::from_secs(30))
}

/// Longest that something may take which ought to happen, on this machine.
#[must_use]
pub fn scaled(time: Duration) -> Duration {
    time * scale()
}

/// How long something is waited for that ought not to happen, on this machine. All of it passes
/// each time, so it is no longer than what does happen takes there.
#[must_use]
pub fn in_vain(time: Duration) -> Duration {
    time * scale().min(2)
}

/// Whether this is a machine without hardware to help, where what is done often is done less often.
#[must_use]
pub fn is_emulated() -> bool {
    scale() > 1
}

fn scale() -> u32 {
    let times = env::var(SCALE).ok().and_then(|text| text.parse().ok());
    times.unwrap_or(1)
}

/// How often a condition is looked at that nothing announces.
const GLANCE: Duration = Duration::from_millis(2);

/// Waits until `look` finds something.
///
/// # Errors
/// When it found nothing within [`patience`]; the error names `what`.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {:?} in vain for {what}", patience());
        }
        thread::park_timeout(GLANCE);
    }
}

/// Waits for a child to end.
///
/// # Errors
/// When it has not ended within [`patience`]; it runs on then.
pub fn wait_for_exit(child: &mut Child) -> Result<ExitStatus> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("a child has a pid")?;
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("opening a pidfd")?;
    let timeout = Timespec::try_from(patience()).context("the patience fits")?;
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout));
    match ended {
        Ok(0) => bail!(
            "process {} has not ended within {:?}",
            child.id(),
            patience()
        ),
        Ok(_) => Ok(child.wait()?),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// An exit status as a shell tells it.
#[must_use]
pub fn shell_status(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}
