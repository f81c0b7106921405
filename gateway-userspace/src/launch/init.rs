//! The first process of an agent's pid namespace: shuts itself in, starts the command when told
//! to, buries the dead. When it ends, everything inside ends.

use std::{
    convert::Infallible,
    ffi::{OsStr, OsString},
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Command, ExitCode},
};

use caps::CapSet;
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::SignalFd,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Gid, Pid, Uid, getpid, setgroups, setpgid, setresgid, setresuid, setsid},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
};

use super::{
    abi::{self, Side},
    channel::{Channel, Report, Shut, Tell},
    enter::{EnterError, FAILED, NOT_EXECUTABLE, NOT_FOUND},
    landlock,
    order::Order,
    seccomp, stdio, view,
};
use crate::{kernel::cgroup, open_files};

/// Shuts itself in, waits for the word, and becomes the init. Answers with the command's status.
pub(super) fn run(order: &Order, channel: &Channel, born_inside: bool) -> ExitCode {
    let ready = shut_in(order, born_inside).and_then(|(shut, terminal)| {
        let (master, slave) = terminal.unzip();
        let report = Report::Ready(Box::new(shut), master);
        channel.report(&report).map_err(EnterError::Channel)?;
        Ok(slave)
    });
    let slave = match ready {
        Ok(slave) => slave,
        Err(error) => return super::enter::fail(error),
    };
    match channel.next_tell() {
        Ok(Some(Tell::Go)) => {}
        // Whoever asked for it is gone, or thought better of it.
        Ok(_) | Err(_) => return FAILED.into(),
    }
    match abi::fork() {
        Ok(Side::Child) => match start(order, slave.as_ref()) {
            Ok(never) => match never {},
            Err(status) => status,
        },
        Ok(Side::Parent(command)) => watch(command, channel, slave.as_ref()),
        Err(error) => super::enter::fail(EnterError::Fork(error)),
    }
}

type Pty = (OwnedFd, OwnedFd);

/// Order matters: what needs capabilities first, what takes system calls away last.
fn shut_in(order: &Order, born_inside: bool) -> Result<(Shut, Option<Pty>), EnterError> {
    let now_in = cgroup::of_process("self")?;
    let mount = cgroup::mount_point()?;
    let expected = order.cgroup.strip_prefix(&mount).ok();
    if now_in.as_deref().map(|path| path.trim_start_matches('/'))
        != expected.and_then(|path| path.to_str())
    {
        return Err(EnterError::Elsewhere(now_in));
    }
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .map_err(EnterError::Namespaces)?;
    let in_sight = view::make(order)?;
    abi::new_session_keyring().map_err(EnterError::Keyring)?;
    limits(order)?;
    setsid().map_err(EnterError::Session)?;
    let terminal = order
        .terminal
        .contains(&true)
        .then(|| terminal(order))
        .transpose()
        .map_err(EnterError::Terminal)?;
    let unix = stdio::check()?;
    drop_privileges(order)?;
    nix::sys::prctl::set_no_new_privs().map_err(EnterError::NoNewPrivileges)?;
    let mut filters = seccomp::Count::begin();
    let landlock = landlock::restrict(order)?;
    // Changing ids has cleared it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(EnterError::Session)?;
    nix::sys::prctl::set_dumpable(false).map_err(EnterError::Session)?;
    let installed = seccomp::install(order)?;
    let missing_filters = filters.missing(installed);
    let shut = Shut {
        born_inside,
        landlock,
        in_sight,
        missing_filters,
        unix,
    };
    Ok((shut, terminal))
}

fn limits(order: &Order) -> Result<(), EnterError> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(|error| EnterError::Limits(error.into()))?;
    match order.open_files {
        Some(limit) => open_files::set(Some(limit)).map_err(EnterError::Limits),
        None => Ok(()),
    }
}

/// A terminal of the agent's own, in place of the operator's.
fn terminal(order: &Order) -> io::Result<Pty> {
    use rustix::fs::{Mode, OFlags, fchown, open};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
    unlockpt(&master)?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, peer)?;
    fchown(&slave, Some(rustix::fs::Uid::from_raw(order.uid)), None)?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    let [input, output, error] = order.terminal;
    if input {
        rustix::stdio::dup2_stdin(&slave)?;
    }
    if output {
        rustix::stdio::dup2_stdout(&slave)?;
    }
    if error {
        rustix::stdio::dup2_stderr(&slave)?;
    }
    Ok((master, slave))
}

/// The bounding set goes while capabilities are there to do it, the rest goes with the uid, and
/// what a uid of 0 would keep goes last.
fn drop_privileges(order: &Order) -> Result<(), EnterError> {
    let failed = |source| EnterError::Identity {
        uid: order.uid,
        gid: order.gid,
        source,
    };
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Bounding)?;
    let (uid, gid) = (Uid::from_raw(order.uid), Gid::from_raw(order.gid));
    setgroups(&[gid]).map_err(failed)?;
    setresgid(gid, gid, gid).map_err(failed)?;
    setresuid(uid, uid, uid).map_err(failed)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::clear(None, CapSet::Effective)?;
    caps::clear(None, CapSet::Permitted)?;
    Ok(())
}

/// Becomes the command, in a process group of its own, which has the terminal, or is to ask
/// for it.
fn start(order: &Order, terminal: Option<&OwnedFd>) -> Result<Infallible, ExitCode> {
    let grouped = setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(io::Error::from);
    let has_terminal = grouped.and_then(|()| match terminal {
        Some(terminal) if order.in_front => Ok(rustix::termios::tcsetpgrp(
            terminal,
            rustix::process::getpid(),
        )?),
        // In `$(…)` of an interactive shell they are ignored, and nobody would see it ask.
        Some(_) => Ok(abi::default_actions(&[Signal::SIGTTIN, Signal::SIGTTOU])?),
        None => Ok(()),
    });
    if let Err(error) = has_terminal {
        return Err(super::enter::fail(EnterError::Terminal(error)));
    }
    // The terminal is its own by now, so that nothing stops it for having asked.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return Err(super::enter::fail(EnterError::Session(error)));
    }
    // Whatever was left open stays behind: a socket made outside is a way out.
    close_fds::set_fds_cloexec(3, &[]);
    let Some((program, arguments)) = order.command.split_first() else {
        return Err(FAILED.into());
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(order.environment.iter().cloned())
        .exec();
    let error = as_a_shell_tells(error, program, &order.environment);
    crate::cli::say::error(format_args!(
        "cannot run {}: {}",
        program.display(),
        said(&error)
    ));
    Err(match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND.into(),
        _ => NOT_EXECUTABLE.into(),
    })
}

/// Why a command cannot be run, as a shell tells it.
fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such program".to_owned(),
        _other => error.to_string(),
    }
}

/// execvp(3) says that it is not permitted where one folder of `PATH` cannot be searched, even if
/// the program is in none.
fn as_a_shell_tells(
    error: io::Error,
    program: &OsStr,
    environment: &[(OsString, OsString)],
) -> io::Error {
    let is_path = program.as_encoded_bytes().contains(&b'/');
    let folders = environment.iter().find(|(name, _)| name == "PATH");
    let is_there = folders.is_none_or(|(_, folders)| {
        std::env::split_paths(folders).any(|folder| folder.join(program).exists())
    });
    if error.kind() == io::ErrorKind::PermissionDenied && !is_path && !is_there {
        return io::ErrorKind::NotFound.into();
    }
    error
}

/// Waits for the command, buries others, passes signals on.
fn watch(command: Pid, channel: &Channel, terminal: Option<&OwnedFd>) -> ExitCode {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let Ok(deaths) = SignalFd::new(&children) else {
        return FAILED.into();
    };
    let mut connected = true;
    loop {
        while let Ok(Some(change)) = next_change() {
            match change {
                WaitStatus::Exited(pid, status) if pid == command => {
                    return ExitCode::from(u8::try_from(status & 0xff).unwrap_or(u8::MAX));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == command => {
                    return ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX));
                }
                WaitStatus::Stopped(pid, signal) if pid == command => {
                    connected &= channel.report(&Report::Stopped(signal as i32)).is_ok();
                }
                _ => {}
            }
        }
        let mut waited = vec![PollFd::new(&deaths, PollFlags::IN)];
        if connected {
            waited.push(PollFd::from_borrowed_fd(
                channel.descriptor(),
                PollFlags::IN,
            ));
        }
        if poll(&mut waited, None).is_err() {
            continue;
        }
        let told = waited.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let died = waited.first().is_some_and(|fd| !fd.revents().is_empty());
        if died {
            deaths.read_signal().ok();
        }
        if told {
            connected = match channel.next_tell() {
                Ok(Some(tell)) => {
                    pass_on(tell, command, terminal);
                    true
                }
                // The gateway is gone; the boundary holds, and the command goes on inside it,
                // unless its terminal went along: then it is told so, wherever it is on it.
                Ok(None) | Err(_) => {
                    if terminal.is_some() {
                        killpg(command, Signal::SIGHUP).ok();
                        killpg(command, Signal::SIGCONT).ok();
                    }
                    false
                }
            };
        }
    }
}

fn next_change() -> nix::Result<Option<WaitStatus>> {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
    match waitpid(None, Some(flags))? {
        WaitStatus::StillAlive => Ok(None),
        change => Ok(Some(change)),
    }
}

fn pass_on(tell: Tell, command: Pid, terminal: Option<&OwnedFd>) {
    let signal = |number: u8| Signal::try_from(i32::from(number)).ok();
    // One that has ended takes no signal, and its end is on the way.
    match tell {
        Tell::Go => {}
        Tell::Front => drop(terminal.map(|terminal| {
            let group = rustix::process::Pid::from_raw(command.as_raw())?;
            rustix::termios::tcsetpgrp(terminal, group).ok()
        })),
        Tell::Signal(number) => drop(signal(number).map(|signal| kill(command, signal))),
        Tell::Group(number) => drop(signal(number).map(|signal| {
            // Its group is there once it has come far enough to make it.
            killpg(command, signal).or_else(|_| kill(command, signal))
        })),
    }
    debug_assert_eq!(getpid().as_raw(), 1, "only an init does this");
}
