//! Waits for the agent as a shell would: signals go through, the exit status comes back.

use std::{io, os::unix::process::ExitStatusExt as _, process::ExitStatus};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

/// Waits for the agent's first process. Signals that ask this process to end are passed on; one
/// from the terminal has reached the agent already, as it is in the same process group.
///
/// # Errors
/// If the process cannot be waited for.
pub async fn wait(agent: &mut Child) -> io::Result<ExitStatus> {
    let pid = agent
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .map(Pid::from_raw);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    loop {
        let received = tokio::select! {
            status = agent.wait() => return status,
            _ = terminate.recv() => Signal::SIGTERM,
            _ = hangup.recv() => Signal::SIGHUP,
            _ = interrupt.recv() => Signal::SIGINT,
            _ = quit.recv() => Signal::SIGQUIT,
        };
        let from_terminal = matches!(received, Signal::SIGINT | Signal::SIGQUIT)
            && io::IsTerminal::is_terminal(&io::stdin());
        if let Some(pid) = pid
            && !from_terminal
            && let Err(error) = kill(pid, received)
        {
            tracing::debug!(%error, %received, "the agent took no signal");
        }
    }
}

/// The exit status as a shell tells it: the command's own, or 128 and the signal.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or_default();
    // Wait statuses have eight bits.
    u8::try_from(code).unwrap_or(u8::MAX)
}
