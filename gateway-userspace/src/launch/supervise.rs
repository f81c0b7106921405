//! Starts the agent's first process and waits for it as a shell would: signals go through, the
//! exit status comes back.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    process::{ExitStatus, Stdio},
    sync::Arc,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, getsid},
};
use rustix::io::{FdFlags, fcntl_setfd};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    channel::{Channel, Report, Shut, Tell},
    order::Order,
    readback::{self, ReadbackError},
    terminal::Terminal,
};

/// Why the agent did not get as far as its command.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A process could not be started.
    #[error("starting the agent's first process")]
    Io(#[from] io::Error),
    /// It is not shut in as it must be.
    #[error(transparent)]
    Readback(#[from] ReadbackError),
    /// It gave up; it has said why.
    #[error("the agent's first process gave up")]
    GaveUp(u8),
}

/// An agent's first process, shut in, that waits for the word.
#[derive(Debug)]
pub struct Waiting {
    helper: Child,
    channel: Arc<Channel>,
    reports: mpsc::Receiver<Report>,
    terminal: Option<OwnedFd>,
    which: [bool; 3],
    in_front: bool,
    /// What it says of itself.
    pub shut: Shut,
}

impl Waiting {
    /// Starts it, waits until it is shut in, and looks at it from outside.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing was run then.
    pub async fn begin(order: &Order, within: &str) -> Result<Self, LaunchError> {
        let (channel, theirs) = Channel::pair().map_err(io::Error::from)?;
        let file = order.write()?;
        for descriptor in [theirs.descriptor(), std::os::fd::AsFd::as_fd(&file)] {
            fcntl_setfd(descriptor, FdFlags::empty()).map_err(io::Error::from)?;
        }
        // An empty environment: what the operator's says to the dynamic linker is for the command.
        let helper = Command::new("/proc/self/exe")
            .arg("enter")
            .arg(format!("--order={}", file.as_raw_fd()))
            .arg(format!("--channel={}", theirs.descriptor().as_raw_fd()))
            .env_clear()
            .stdin(Stdio::inherit())
            .spawn();
        drop((theirs, file));
        let mut helper = helper?;
        let channel = Arc::new(channel);
        let (say, mut reports) = mpsc::channel(4);
        let listener = Arc::clone(&channel);
        std::thread::Builder::new()
            .name("agent".to_owned())
            .spawn(move || listen(&listener, &say))?;
        let (mut init, mut ready) = (None, None);
        while init.is_none() || ready.is_none() {
            match reports.recv().await {
                Some(Report::Made(pid)) => init = Some(pid),
                Some(Report::Ready(shut, terminal)) => ready = Some((shut, terminal)),
                Some(Report::Stopped(_) | Report::Gone) | None => {
                    return Err(LaunchError::GaveUp(exit_code(helper.wait().await?)));
                }
            }
        }
        if let (Some(init), Some((shut, terminal))) = (init, ready) {
            readback::check(init, (order.uid, order.gid), within)?;
            return Ok(Self {
                helper,
                channel,
                reports,
                terminal,
                which: order.terminal,
                in_front: order.in_front,
                shut: *shut,
            });
        }
        Err(LaunchError::GaveUp(exit_code(helper.wait().await?)))
    }

    /// Ends it without the word, and waits for that: the command is never run.
    ///
    /// # Errors
    /// If its process cannot be killed, or waited for.
    pub async fn abandon(mut self) -> io::Result<()> {
        self.helper.kill().await
    }

    /// Gives the word, and waits for the command's end.
    ///
    /// Signals that ask this process to end are passed on. Those that a terminal sends to a whole
    /// process group go to the command's group, as it is not in this one.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub async fn go(mut self) -> io::Result<ExitStatus> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut quit = signal(SignalKind::quit())?;
        let mut user1 = signal(SignalKind::user_defined1())?;
        let mut user2 = signal(SignalKind::user_defined2())?;
        let mut stop = signal(SignalKind::from_raw(nix::libc::SIGTSTP))?;
        let mut resume = signal(SignalKind::from_raw(nix::libc::SIGCONT))?;
        let mut window = signal(SignalKind::window_change())?;
        let terminal = match self.terminal.take() {
            Some(master) => Some(Terminal::join(master, self.which, self.in_front)?),
            None => None,
        };
        self.channel.tell(Tell::Go)?;
        loop {
            let tell = tokio::select! {
                status = self.helper.wait() => {
                    if let Some(terminal) = terminal {
                        terminal.finish();
                    }
                    return status;
                }
                Some(report) = self.reports.recv() => match report {
                    Report::Stopped(signal) => {
                        self.stopped(signal, terminal.as_ref());
                        continue;
                    }
                    Report::Made(_) | Report::Ready(..) | Report::Gone => continue,
                },
                _ = terminate.recv() => one(Signal::SIGTERM),
                _ = hangup.recv() => one(Signal::SIGHUP),
                _ = user1.recv() => one(Signal::SIGUSR1),
                _ = user2.recv() => one(Signal::SIGUSR2),
                _ = interrupt.recv() => all(Signal::SIGINT),
                _ = quit.recv() => all(Signal::SIGQUIT),
                _ = stop.recv() => all(Signal::SIGTSTP),
                _ = resume.recv() => {
                    if let Some(terminal) = &terminal {
                        terminal.resume();
                    }
                    all(Signal::SIGCONT)
                }
                _ = window.recv() => {
                    if let Some(terminal) = &terminal {
                        terminal.resize();
                    }
                    continue;
                }
            };
            if let Err(error) = self.channel.tell(tell) {
                tracing::debug!(%error, ?tell, "the agent took no signal");
            }
        }
    }

    /// The command was stopped: so is everything that was started with it, if there is a shell
    /// that can continue it.
    fn stopped(&self, signal: i32, terminal: Option<&Terminal>) {
        let has_shell = getsid(None).is_ok_and(|session| session != getpgrp());
        let by_terminal = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU]
            .iter()
            .any(|known| *known as i32 == signal);
        if !by_terminal && signal != Signal::SIGSTOP as i32 {
            return;
        }
        let wants_terminal = [Signal::SIGTTIN, Signal::SIGTTOU]
            .iter()
            .any(|known| *known as i32 == signal);
        if wants_terminal && terminal.is_some_and(|terminal| terminal.ask(has_shell)) {
            for tell in [Tell::Front, all(Signal::SIGCONT)] {
                self.channel.tell(tell).ok();
            }
            return;
        }
        if !has_shell {
            // As the kernel does with a group that nobody could continue.
            if by_terminal {
                self.channel.tell(all(Signal::SIGCONT)).ok();
            }
            return;
        }
        if let Some(terminal) = terminal {
            terminal.give_back();
        }
        kill(Pid::from_raw(0), Signal::SIGSTOP).ok();
    }
}

fn listen(channel: &Channel, say: &mpsc::Sender<Report>) {
    while let Ok(report) = channel.next_report() {
        let last = matches!(report, Report::Gone);
        if say.blocking_send(report).is_err() || last {
            return;
        }
    }
}

fn one(signal: Signal) -> Tell {
    Tell::Signal(u8::try_from(signal as i32).unwrap_or_default())
}

fn all(signal: Signal) -> Tell {
    Tell::Group(u8::try_from(signal as i32).unwrap_or_default())
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
