//! What `run` starts: reads its order, makes the init inside the boundary, and waits outside.

use std::{io, os::fd::RawFd, process::ExitCode};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::SigSet,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{PidfdFlags, pidfd_open},
};

use super::{
    abi::{self, Side},
    channel::{Channel, Report},
    init, landlock,
    order::Order,
    seccomp, stdio,
    terminal::Saved,
    view,
};
use crate::kernel::cgroup::{self, Cgroup};

/// The hidden command's arguments.
#[derive(clap::Args, Debug)]
pub struct EnterCommand {
    /// Descriptor of the order.
    #[arg(long)]
    order: RawFd,
    /// Descriptor of the line to `run`.
    #[arg(long)]
    channel: RawFd,
}

/// Exit status when Sluice itself failed and the command was not run.
pub const FAILED: u8 = 125;
/// Exit status when the command is there and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status when the command is not there.
pub const NOT_FOUND: u8 = 127;

/// Why the agent was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum EnterError {
    #[error("reading what is to be started")]
    Order(#[source] io::Error),
    #[error("talking to `sluice run`")]
    Channel(#[source] Errno),
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    #[error("the kernel put this process into {0:?} instead of the agent's cgroup")]
    Elsewhere(Option<String>),
    #[error(transparent)]
    Stdio(#[from] stdio::OpenDoor),
    #[error("making a process")]
    Fork(#[source] io::Error),
    #[error("making namespaces; the kernel needs CONFIG_PID_NS, CONFIG_IPC_NS and CONFIG_UTS_NS")]
    Namespaces(#[source] nix::Error),
    #[error(transparent)]
    View(#[from] view::ViewError),
    #[error("making a session keyring")]
    Keyring(#[source] io::Error),
    #[error("setting limits")]
    Limits(#[source] io::Error),
    #[error("making a session")]
    Session(#[source] nix::Error),
    #[error("making a terminal for the agent")]
    Terminal(#[source] io::Error),
    #[error("becoming uid {uid}, gid {gid}")]
    Identity {
        uid: u32,
        gid: u32,
        #[source]
        source: nix::Error,
    },
    #[error("giving up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("setting no_new_privs")]
    NoNewPrivileges(#[source] nix::Error),
    #[error(transparent)]
    Landlock(#[from] landlock::LandlockError),
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
}

/// Says why nothing was run.
pub(super) fn fail(error: EnterError) -> ExitCode {
    let error = anyhow::Error::from(error);
    crate::cli::say::error(format_args!("{error:#}; nothing was run"));
    FAILED.into()
}

impl EnterCommand {
    /// Starts the command and answers with its status.
    #[must_use]
    pub fn run(self) -> ExitCode {
        self.enter().unwrap_or_else(fail)
    }

    fn enter(&self) -> Result<ExitCode, EnterError> {
        let channel = abi::inherited(self.channel).map_err(EnterError::Order)?;
        let channel = Channel::from_descriptor(channel);
        let order = abi::inherited(self.order).and_then(Order::read);
        let order = order.map_err(EnterError::Order)?;
        // Signals go to `run`, which tells the init; the command gets a clean mask.
        SigSet::all().thread_block().map_err(EnterError::Session)?;
        let cgroup = Cgroup::adopt(order.cgroup.clone());
        let folder = cgroup.open()?;
        let (side, born_inside) = match abi::clone_into(&folder) {
            Ok(side) => (side, true),
            // A kernel or a filter without clone3: make it here, and move it before it does
            // anything.
            Err(_) => {
                unshare(CloneFlags::CLONE_NEWPID).map_err(EnterError::Namespaces)?;
                (abi::fork().map_err(EnterError::Fork)?, false)
            }
        };
        match side {
            Side::Child => {
                if !born_inside {
                    cgroup.enter()?;
                }
                drop(folder);
                Ok(init::run(&order, &channel, born_inside))
            }
            Side::Parent(init) => {
                channel
                    .report(&Report::Made(init.as_raw()))
                    .map_err(EnterError::Channel)?;
                if let Some(saved) = Saved::of(order.terminal) {
                    guard(init, &channel, &saved);
                }
                drop(channel);
                Ok(wait(init))
            }
        }
    }
}

/// Until the init ends, or `run` is killed: then nobody else puts the operator's terminal back.
fn guard(init: Pid, channel: &Channel, saved: &Saved) {
    let Some(init) = rustix::process::Pid::from_raw(init.as_raw()) else {
        return;
    };
    let Ok(init) = pidfd_open(init, PidfdFlags::empty()) else {
        return;
    };
    // What comes through the channel is for the init; its end is told without being asked for.
    let mut waited = [
        PollFd::new(&init, PollFlags::IN),
        PollFd::from_borrowed_fd(channel.descriptor(), PollFlags::empty()),
    ];
    while poll(&mut waited, None) == Err(Errno::INTR) {}
    if waited.last().is_some_and(|end| !end.revents().is_empty()) {
        saved.restore();
    }
}

fn wait(init: Pid) -> ExitCode {
    loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, status)) => {
                return ExitCode::from(u8::try_from(status & 0xff).unwrap_or(u8::MAX));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return FAILED.into(),
        }
    }
}
