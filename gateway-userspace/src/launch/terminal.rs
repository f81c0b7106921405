//! Between the operator's terminal and the agent's own: what is typed goes in, what is drawn
//! comes out, and the operator's is put back as it was on every way out.
//!
//! In a pipeline others use the operator's terminal too, such as a pager, and in the background the
//! shell does. There the agent's command begins in the background of its own terminal: the kernel
//! stops it when it reads keys or sets modes, and only then is the operator's terminal taken for it.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    process::getpgrp,
    stdio::{stderr, stdin, stdout},
    termios::{
        LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp,
        tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;
/// How soon a run that was put into the foreground notices, and how long a line that was typed
/// into a pipeline is left to the others there.
const GLANCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// Milliseconds that a stopped agent's last words have to get out.
const SETTLE: u32 = 500;

/// Which of standard input, output and error are terminals.
#[must_use]
pub fn standard() -> [bool; 3] {
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
}

/// Who has the operator's terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hold {
    /// Others of the pipeline; the agent has not asked for it.
    Unasked,
    /// The agent is to have it, once the run is in the foreground.
    Wanted,
    /// The agent.
    Taken,
    /// The shell, until it continues the run.
    Returned,
}

/// The operator's terminal.
#[derive(Debug)]
struct Outer {
    terminal: OwnedFd,
    saved: Termios,
    /// What it is set to while the agent has it.
    raw: Termios,
    hold: Mutex<Hold>,
    /// See [`is_whole`].
    whole: bool,
}

impl Outer {
    fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it if it is wanted, and not from the background; whether the agent has it.
    fn take(&self) -> bool {
        let mut hold = self.hold();
        if *hold == Hold::Wanted
            && in_front(&self.terminal)
            && tcsetattr(&self.terminal, OptionalActions::Now, &self.raw).is_ok()
        {
            *hold = Hold::Taken;
        }
        *hold == Hold::Taken
    }

    /// Gives it back as it was, if it is taken.
    fn give_back(&self) {
        let mut hold = self.hold();
        if *hold == Hold::Unasked {
            return;
        }
        if *hold == Hold::Taken && in_front(&self.terminal) && self.is_ours() {
            tcsetattr(&self.terminal, OptionalActions::Now, &self.saved).ok();
        }
        *hold = Hold::Returned;
    }

    /// Whether nobody else of the pipeline has set it since.
    fn is_ours(&self) -> bool {
        self.whole || is_set_to(&self.terminal, &self.raw)
    }
}

/// What the operator's terminal was set to, for when the process that has it is killed.
#[derive(Debug)]
pub(super) struct Saved {
    terminal: OwnedFd,
    modes: Termios,
    raw: Termios,
}

impl Saved {
    /// Of the terminal that `which` of standard input, output and error are, if any.
    pub(super) fn of(which: [bool; 3]) -> Option<Self> {
        let standard = [stdin(), stdout(), stderr()];
        let terminal = which.iter().zip(standard).find(|(is, _)| **is)?.1;
        let terminal = terminal.try_clone_to_owned().ok()?;
        let modes = tcgetattr(&terminal).ok()?;
        let raw = raw(&modes, is_whole(which));
        Some(Self {
            terminal,
            modes,
            raw,
        })
    }

    /// Puts them back, unless a shell or another of the pipeline has set its own since.
    pub(super) fn restore(&self) {
        if in_front(&self.terminal) && is_set_to(&self.terminal, &self.raw) {
            tcsetattr(&self.terminal, OptionalActions::Now, &self.modes).ok();
        }
    }
}

/// Whether keys go in and drawings come out, so that nobody else is on the terminal.
const fn is_whole([input, output, _]: [bool; 3]) -> bool {
    input && output
}

/// Whether a command that has these of standard input, output and error begins in the foreground
/// of its terminal: not in a pipeline or in the background.
#[must_use]
pub fn begins_in_front(which: [bool; 3]) -> bool {
    is_whole(which) && in_front(&stdin())
}

/// What the operator's terminal is set to while the agent has it.
fn raw(saved: &Termios, whole: bool) -> Termios {
    let mut raw = saved.clone();
    raw.make_raw();
    if !whole {
        // Line ends and signals are for all of the pipeline; `run` passes the latter on.
        raw.output_modes = saved.output_modes;
        raw.local_modes |= saved.local_modes & LocalModes::ISIG;
    }
    raw
}

fn is_set_to(terminal: &OwnedFd, modes: &Termios) -> bool {
    tcgetattr(terminal).is_ok_and(|now| {
        now.local_modes == modes.local_modes && now.input_modes == modes.input_modes
    })
}

/// The two, joined.
#[derive(Debug)]
pub struct Terminal {
    master: OwnedFd,
    outer: Arc<Outer>,
    /// Locked while something is on its way out.
    drawing: Arc<Mutex<()>>,
    /// Closed to end the thread that reads keys.
    stop: Option<OwnedFd>,
    output: Option<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Joins the agent's terminal to the operator's, as which `which` of standard input, output
    /// and error serve; whether the command begins in the foreground of its own.
    ///
    /// # Errors
    /// If the terminals do not answer.
    pub fn join(master: OwnedFd, which: [bool; 3], in_front: bool) -> io::Result<Self> {
        let [input, output, error] = which;
        let terminal = match (output, error) {
            (true, _) => again(&stdout(), OFlags::empty())?,
            (_, true) => again(&stderr(), OFlags::empty())?,
            _ => again(&stdin(), OFlags::empty())?,
        };
        let saved = tcgetattr(&terminal)?;
        let whole = is_whole(which);
        let raw = raw(&saved, whole);
        let mut inner = saved.clone();
        if !whole {
            // The operator's terminal still does what is to be done with line ends.
            inner.output_modes -= OutputModes::OPOST;
        }
        tcsetattr(&master, OptionalActions::Now, &inner)?;
        let (watched, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let hold = if in_front {
            Hold::Wanted
        } else {
            Hold::Unasked
        };
        let outer = Arc::new(Outer {
            terminal,
            saved,
            raw,
            hold: Mutex::new(hold),
            whole,
        });
        let mut joined = Self {
            master,
            outer,
            drawing: Arc::default(),
            stop: Some(stop),
            output: None,
            input: None,
        };
        joined.resize();
        joined.outer.take();
        let (from, to) = (
            joined.master.try_clone()?,
            joined.outer.terminal.try_clone()?,
        );
        let drawing = Arc::clone(&joined.drawing);
        joined.output = Some(thread::Builder::new().spawn(move || drawn(from, to, &drawing))?);
        let keys = Keys {
            // Another may be quicker to read what made this one look.
            from: again(&joined.outer.terminal, OFlags::NONBLOCK)?,
            to: File::from(joined.master.try_clone()?),
            outer: Arc::clone(&joined.outer),
            unasked: input,
        };
        joined.input = Some(thread::Builder::new().spawn(move || keys.pass(&watched))?);
        Ok(joined)
    }

    /// Gives the agent's terminal the size of the operator's.
    pub fn resize(&self) {
        if let Ok(size) = tcgetwinsize(&self.outer.terminal) {
            // An agent that has ended needs none.
            tcsetwinsize(&self.master, size).ok();
        }
    }

    /// The agent's command asks for keys; whether it gets them now. Not from the background, where
    /// a shell will put the run into the foreground.
    pub fn ask(&self, has_shell: bool) -> bool {
        let mut hold = self.outer.hold();
        let granted = *hold == Hold::Unasked && (!has_shell || in_front(&self.outer.terminal));
        if granted {
            *hold = Hold::Wanted;
        }
        drop(hold);
        self.outer.take();
        granted
    }

    /// The shell has continued the run: takes the operator's terminal again.
    pub fn resume(&self) {
        let mut hold = self.outer.hold();
        if *hold != Hold::Unasked {
            *hold = Hold::Wanted;
        }
        drop(hold);
        self.outer.take();
        self.resize();
    }

    /// Gives the operator's terminal back as it was, with all that was drawn until now.
    pub fn give_back(&self) {
        self.settle();
        self.outer.give_back();
    }

    /// Waits until all is out that was drawn until now, unless the operator's terminal is held up.
    fn settle(&self) {
        for _ in 0..SETTLE {
            if let Ok(_nothing) = self.drawing.try_lock()
                && poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&NOW)) == Ok(0)
            {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for all that was drawn, which ends with the agent's last process.
    pub fn finish(mut self) {
        if let Some(output) = self.output.take() {
            drop(output.join());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(input) = self.input.take() {
            drop(input.join());
        }
        self.outer.give_back();
    }
}

/// The same terminal, opened again: its flags are nobody else's.
fn again(terminal: &impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", terminal.as_fd().as_raw_fd());
    let flags = flags | OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Whether this process group has the terminal, or none can: on one that is not this session's
/// anybody reads.
fn in_front(terminal: &impl AsFd) -> bool {
    !tcgetpgrp(terminal).is_ok_and(|group| group != getpgrp())
}

/// From the background neither thread may be stopped for what it does.
fn shield() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTTIN);
    signals.add(Signal::SIGTTOU);
    signals.thread_block().ok();
}

fn drawn(from: OwnedFd, to: OwnedFd, drawing: &Mutex<()>) {
    shield();
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut chunk = vec![0; CHUNK];
    loop {
        if poll(&mut [PollFd::new(&from, PollFlags::IN)], None).is_err() {
            continue;
        }
        let _drawing = drawing.lock();
        // EIO: nobody holds the other side any more.
        let Ok(count @ 1..) = from.read(&mut chunk) else {
            return;
        };
        if to
            .write_all(chunk.get(..count).unwrap_or_default())
            .is_err()
        {
            return;
        }
    }
}

/// What is typed, on its way in.
struct Keys {
    from: OwnedFd,
    to: File,
    outer: Arc<Outer>,
    /// Whether lines go in that nobody has asked for: one that waits for them with poll(2) does
    /// not ask.
    unasked: bool,
}

impl Keys {
    fn pass(mut self, stop: &OwnedFd) {
        shield();
        let mut chunk = vec![0; CHUNK];
        loop {
            let taken = self.outer.take();
            let mut waited = vec![PollFd::new(stop, PollFlags::IN)];
            if in_front(&self.from) && (taken || self.has_lines()) {
                waited.push(PollFd::new(&self.from, PollFlags::IN));
            }
            if poll(&mut waited, Some(&GLANCE)).is_err() {
                continue;
            }
            let events = |at: usize| waited.get(at).map_or(PollFlags::empty(), PollFd::revents);
            if !events(0).is_empty() || events(1).contains(PollFlags::HUP) {
                return;
            }
            if events(1).is_empty() || (!taken && !self.is_left(stop)) {
                continue;
            }
            let keys = match rustix::io::read(&self.from, &mut chunk) {
                // The end of input, where the operator's terminal makes lines.
                Ok(0) => {
                    let modes = &self.outer.saved.special_codes;
                    vec![modes[SpecialCodeIndex::VEOF]]
                }
                Ok(count) => chunk.get(..count).unwrap_or_default().to_vec(),
                // It went into the background in between, or another read it.
                Err(rustix::io::Errno::IO | rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {
                    continue;
                }
                Err(_) => return,
            };
            if self.to.write_all(&keys).is_err() {
                return;
            }
        }
    }

    /// Whether lines are typed that nobody has asked for. Single keys are for who set it so.
    fn has_lines(&self) -> bool {
        self.unasked
            && *self.outer.hold() == Hold::Unasked
            && tcgetattr(&self.from).is_ok_and(|now| now.local_modes.contains(LocalModes::ICANON))
    }

    /// Whether nobody else of the pipeline has read the line that is there.
    fn is_left(&self, stop: &OwnedFd) -> bool {
        poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&GLANCE)) == Ok(0)
            && in_front(&self.from)
            && self.has_lines()
    }
}
