//! The launcher with a step left out: a tracer answers one of its system calls in the kernel's
//! place, so that a test sees what that step is for. The program under test knows nothing of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// One step of the launcher, and how it is left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Omission {
    /// Number of the system call.
    pub call: i64,
    /// Which of these calls.
    pub of: Which,
    /// What happens in its place.
    pub instead: Instead,
}

/// Which calls of a number are meant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Which {
    /// All.
    All,
    /// The n-th of a process, from 1.
    Nth(usize),
    /// Those with this argument (from 0) of this value.
    With(usize, u64),
    /// Those with this argument (from 0) at this path.
    At(usize, PathBuf),
}

/// What happens in a call's place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Instead {
    /// Nothing, and the caller is told that all went well.
    Nothing,
    /// The call, without these flags in its first argument.
    Without(u64),
    /// The call, without these flags in the number that its first argument points at.
    WithoutAt(u64),
}

impl Omission {
    /// All calls of this number do nothing.
    #[must_use]
    pub const fn all(call: i64) -> Self {
        Self::which(call, Which::All)
    }

    /// These calls do nothing.
    #[must_use]
    pub const fn which(call: i64, of: Which) -> Self {
        let instead = Instead::Nothing;
        Self { call, of, instead }
    }

    /// Calls of this number lose flags.
    #[must_use]
    pub const fn flags(call: i64, instead: Instead) -> Self {
        let of = Which::All;
        Self { call, of, instead }
    }

    fn fits(&self, pid: Pid, seen: &Seen) -> bool {
        seen.number == self.call
            && match &self.of {
                Which::All => true,
                Which::Nth(count) => seen.count == *count,
                Which::With(at, value) => seen.arguments.get(*at) == Some(value),
                Which::At(at, path) => seen
                    .arguments
                    .get(*at)
                    .and_then(|address| text_at(pid, *address).ok())
                    .is_some_and(|text| Path::new(&text) == path),
            }
    }
}

/// A call that a process is about to make.
struct Seen {
    number: i64,
    arguments: [u64; 6],
    /// How many of this number it has made, this one among them.
    count: usize,
}

/// A process whose calls are looked at.
#[derive(Default)]
struct Traced {
    counts: std::collections::HashMap<i64, usize>,
    /// Its present call is not made.
    is_skipped: bool,
}

/// Runs a command to its end, with these steps of the launcher left out.
///
/// # Errors
/// If it cannot be started or traced, or if a step was never come to: then nothing was left out.
pub fn run(command: &mut Command, omissions: &[Omission]) -> Result<ExitStatus> {
    let mut child = command.spawn().context("starting the command")?;
    let root = Pid::from_raw(i32::try_from(child.id())?);
    // It stops itself, so that nothing of it is missed.
    waitpid(root, Some(WaitPidFlag::WUNTRACED)).context("waiting for it to stop")?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(root, options).context("tracing it")?;
    nix::sys::signal::kill(root, Signal::SIGCONT)?;
    let mut tracer = Tracer {
        root,
        omissions,
        used: vec![false; omissions.len()],
        traced: std::collections::HashMap::new(),
    };
    // A tracer is told of an end before a parent is, and leaves that to the parent.
    while !has_ended(root)? {
        tracer.step()?;
    }
    let status = child.wait()?;
    anyhow::ensure!(
        tracer.used.iter().all(|used| *used),
        "a step was never come to: {omissions:?}"
    );
    Ok(status)
}

fn has_ended(root: Pid) -> Result<bool> {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let state = waitid(Id::Pid(root), flags)?;
    Ok(matches!(
        state,
        WaitStatus::Exited(..) | WaitStatus::Signaled(..)
    ))
}

struct Tracer<'omissions> {
    root: Pid,
    omissions: &'omissions [Omission],
    used: Vec<bool>,
    traced: std::collections::HashMap<Pid, Traced>,
}

impl Tracer<'_> {
    /// Waits for one process to stop, and lets it go on.
    fn step(&mut self) -> Result<()> {
        use nix::sys::wait::{Id, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::__WALL;
        // Without taking it: the end of the command itself is for whoever started it.
        let next = waitid(Id::All, flags | WaitPidFlag::WNOWAIT)?;
        let Some(pid) = next.pid() else { return Ok(()) };
        if matches!(next, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
            self.traced.remove(&pid);
            if pid != self.root {
                waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).ok();
            }
            return Ok(());
        }
        let state = waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
        let signal = match state {
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::PtraceSyscall(_)) => {
                self.call(pid)?;
                None
            }
            Ok(WaitStatus::PtraceEvent(_, _, event)) => {
                if event == libc::PTRACE_EVENT_EXEC && self.is_command(pid) {
                    self.traced.remove(&pid);
                    return gone_is_fine(ptrace::detach(pid, None));
                }
                None
            }
            Ok(_) | Err(Errno::ECHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if is_launcher(pid) {
            self.traced.entry(pid).or_default();
            return gone_is_fine(ptrace::syscall(pid, signal));
        }
        gone_is_fine(ptrace::cont(pid, signal))
    }

    /// Whether a process of the launcher has just become the agent's command.
    fn is_command(&self, pid: Pid) -> bool {
        self.traced.contains_key(&pid) && !is_launcher(pid)
    }

    /// A call begins or ends.
    fn call(&mut self, pid: Pid) -> Result<()> {
        let Ok(info) = ptrace::syscall_info(pid) else {
            return Ok(());
        };
        let traced = self.traced.entry(pid).or_default();
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            if std::mem::take(&mut traced.is_skipped) {
                registers::answer(pid)?;
            }
            return Ok(());
        }
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(());
        }
        // SAFETY: of the variants, the kernel has filled in the one that `op` names.
        let entry = unsafe { info.u.entry };
        let number = i64::try_from(entry.nr)?;
        let count = traced.counts.entry(number).or_default();
        *count += 1;
        let seen = Seen {
            number,
            arguments: entry.args,
            count: *count,
        };
        for (omission, used) in self.omissions.iter().zip(&mut self.used) {
            if !omission.fits(pid, &seen) {
                continue;
            }
            *used = true;
            match omission.instead {
                Instead::Nothing => {
                    traced.is_skipped = true;
                    registers::skip(pid)?;
                }
                Instead::Without(flags) => registers::set_first(pid, entry.args[0] & !flags)?,
                Instead::WithoutAt(flags) => {
                    let address = entry.args[0] as ptrace::AddressType;
                    let value = ptrace::read(pid, address)?;
                    ptrace::write(pid, address, value & !(flags as libc::c_long))?;
                }
            }
        }
        Ok(())
    }
}

/// Whether this is a process of the launcher, before it has become the agent's command.
fn is_launcher(pid: Pid) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(b"enter")
}

/// One that was killed in between takes no orders.
fn gone_is_fine(result: nix::Result<()>) -> Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The text at an address of another process.
fn text_at(pid: Pid, address: u64) -> io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    const LONGEST: usize = 256;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut text = vec![0; LONGEST];
    let length = memory.read_at(&mut text, address)?;
    text.truncate(length);
    text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(length));
    String::from_utf8(text).map_err(io::Error::other)
}

/// How this architecture passes the number of a call, its first argument and its answer.
#[cfg(target_arch = "x86_64")]
mod registers {
    use anyhow::Result;
    use nix::{sys::ptrace, unistd::Pid};

    pub(super) fn skip(pid: Pid) -> Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.orig_rax = u64::MAX;
        Ok(ptrace::setregs(pid, registers)?)
    }

    pub(super) fn answer(pid: Pid) -> Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.rax = 0;
        Ok(ptrace::setregs(pid, registers)?)
    }

    pub(super) fn set_first(pid: Pid, value: u64) -> Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.rdi = value;
        Ok(ptrace::setregs(pid, registers)?)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use anyhow::{Result, bail};
    use nix::unistd::Pid;

    const WHY: &str = "leaving steps out is written for x86_64 only";

    pub(super) fn skip(_: Pid) -> Result<()> {
        bail!(WHY)
    }

    pub(super) fn answer(_: Pid) -> Result<()> {
        bail!(WHY)
    }

    pub(super) fn set_first(_: Pid, _: u64) -> Result<()> {
        bail!(WHY)
    }
}
