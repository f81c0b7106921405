//! Between the operator's terminal and the agent's own: what is typed goes in, what is drawn
//! comes out, and the operator's is put back as it was on every way out.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    thread::{self, JoinHandle},
};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::getpgrp,
    termios::{
        OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
        tcsetwinsize,
    },
};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;
/// How soon a run that was put into the foreground notices.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Which of standard input, output and error are terminals.
#[must_use]
pub fn standard() -> [bool; 3] {
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
}

/// The two, joined.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    outer: OwnedFd,
    saved: Termios,
    /// Raw, only where keys go in and drawings come out.
    interactive: bool,
    /// Closed to end the thread that reads keys.
    stop: Option<OwnedFd>,
    output: Option<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Joins the agent's terminal to the operator's, as which `which` of standard input, output
    /// and error serve.
    ///
    /// # Errors
    /// If the terminals do not answer.
    pub fn join(master: OwnedFd, which: [bool; 3]) -> io::Result<Self> {
        let [input, output, error] = which;
        let outer = match (output, error) {
            (true, _) => io::stdout().as_fd().try_clone_to_owned()?,
            (_, true) => io::stderr().as_fd().try_clone_to_owned()?,
            _ => io::stdin().as_fd().try_clone_to_owned()?,
        };
        let saved = tcgetattr(&outer)?;
        let interactive = input && output;
        let mut inner = saved.clone();
        if !interactive {
            // The operator's terminal still does what is to be done with line ends.
            inner.output_modes -= OutputModes::OPOST;
        }
        tcsetattr(&master, OptionalActions::Now, &inner)?;
        let (watched, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut terminal = Self {
            master,
            outer,
            saved,
            interactive,
            stop: Some(stop),
            output: None,
            input: None,
        };
        terminal.resize();
        terminal.take();
        let (from, to) = (terminal.master.try_clone()?, terminal.outer.try_clone()?);
        terminal.output = Some(thread::Builder::new().spawn(move || drawn(from, to))?);
        if input {
            let from = io::stdin().as_fd().try_clone_to_owned()?;
            let to = terminal.master.try_clone()?;
            let keys = thread::Builder::new().spawn(move || typed(&from, to, &watched))?;
            terminal.input = Some(keys);
        }
        Ok(terminal)
    }

    /// Gives the agent's terminal the size of the operator's.
    pub fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.outer) {
            // An agent that has ended needs none.
            tcsetwinsize(&self.master, size).ok();
        }
    }

    /// Takes the operator's terminal: keys go through as they are. Not from the background.
    pub fn take(&self) {
        if self.interactive && in_front(&self.outer) {
            let mut raw = self.saved.clone();
            raw.make_raw();
            tcsetattr(&self.outer, OptionalActions::Now, &raw).ok();
        }
    }

    /// Gives the operator's terminal back as it was.
    pub fn give_back(&self) {
        if self.interactive && in_front(&self.outer) {
            tcsetattr(&self.outer, OptionalActions::Now, &self.saved).ok();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // All that was drawn comes first; it ends with the agent's last process.
        if let Some(output) = self.output.take() {
            drop(output.join());
        }
        drop(self.stop.take());
        if let Some(input) = self.input.take() {
            drop(input.join());
        }
        self.give_back();
    }
}

/// Whether this process group has the terminal.
fn in_front(terminal: &OwnedFd) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// From the background neither thread may be stopped for what it does.
fn shield() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTTIN);
    signals.add(Signal::SIGTTOU);
    signals.thread_block().ok();
}

fn drawn(from: OwnedFd, to: OwnedFd) {
    shield();
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut chunk = vec![0; CHUNK];
    // EIO: nobody holds the other side any more.
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if to
            .write_all(chunk.get(..count).unwrap_or_default())
            .is_err()
        {
            return;
        }
    }
}

fn typed(from: &OwnedFd, to: OwnedFd, stop: &OwnedFd) {
    shield();
    let mut to = File::from(to);
    let mut chunk = vec![0; CHUNK];
    loop {
        let front = in_front(from);
        let mut waited = vec![PollFd::new(stop, PollFlags::IN)];
        if front {
            waited.push(PollFd::new(from, PollFlags::IN));
        }
        if poll(&mut waited, Some(&GLANCE)).is_err() {
            continue;
        }
        let has = |at: usize| waited.get(at).is_some_and(|fd| !fd.revents().is_empty());
        if has(0) {
            return;
        }
        if !has(1) {
            continue;
        }
        match rustix::io::read(from, &mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                if to
                    .write_all(chunk.get(..count).unwrap_or_default())
                    .is_err()
                {
                    return;
                }
            }
            // It went into the background in between.
            Err(rustix::io::Errno::IO | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
