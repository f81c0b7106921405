//! `sluice audit tail`: the last records, and those that come.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    follow::{Change, Followed},
    line::{self, Colour},
    lines::{Lines, Piece},
};
use crate::{audit::default_path, cli::say};

/// How long a growing file is left alone.
const INTERVAL: Duration = Duration::from_millis(200);

/// Show the last records, one compact line each.
///
/// Lines that are no audit records are shown as such and counted.
#[derive(Debug, clap::Args)]
pub(super) struct TailCommand {
    /// The audit file; by default the one that `sluice run` writes for this user.
    file: Option<PathBuf>,
    /// How many records to show.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: u64,
    /// Wait for further records, also when the file is replaced or cut.
    #[arg(short, long)]
    follow: bool,
    /// Show the records as they stand in the file, as JSON Lines.
    #[arg(long)]
    json: bool,
}

impl TailCommand {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let path = match self.file {
            Some(path) => path,
            None => {
                let root = rustix::process::geteuid().is_root();
                default_path(root, std::env::var_os)?
            }
        };
        let mut view = View {
            out: BufWriter::new(io::stdout().lock()),
            json: self.json,
            colour: colour(),
            foreign: 0,
        };
        match view.show(&path, self.lines, self.follow) {
            // Whoever read us has seen enough.
            Err(Stop::Reader) => {}
            Err(Stop::Failed(error)) => {
                return Err(error.context(format!("showing {}", path.display())));
            }
            Ok(()) => view.report(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Colour is for people who did not decline it (<https://no-color.org>).
fn colour() -> Colour {
    let declined = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !declined {
        Colour::On
    } else {
        Colour::Off
    }
}

/// Why showing ended before the file did.
enum Stop {
    /// Nobody reads standard output any more.
    Reader,
    /// Something went wrong.
    Failed(anyhow::Error),
}

impl Stop {
    fn reading(error: io::Error) -> Self {
        Self::Failed(anyhow::Error::new(error).context("reading the audit file"))
    }

    /// Output that nobody reads any more is no error.
    fn writing(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Reader;
        }
        Self::Failed(anyhow::Error::new(error).context("writing to standard output"))
    }
}

struct View<'a> {
    out: BufWriter<StdoutLock<'a>>,
    json: bool,
    colour: Colour,
    /// Lines that were no records.
    foreign: u64,
}

impl View<'_> {
    fn show(&mut self, path: &Path, count: u64, follow: bool) -> Result<(), Stop> {
        let mut lines = File::open(path)
            .and_then(|file| Lines::last(file, count))
            .map_err(Stop::reading)?;
        if follow {
            return self.follow(&Followed::new(path), lines);
        }
        note_unfinished(self.rest(&mut lines)?);
        Ok(())
    }

    /// Shows what is there and what comes, until nobody reads it any more.
    fn follow(&mut self, followed: &Followed, mut lines: Lines) -> Result<(), Stop> {
        loop {
            let unfinished = self.rest(&mut lines)?;
            self.wait()?;
            match followed.change(&lines).map_err(Stop::reading)? {
                Change::None => {}
                Change::Cut => {
                    note_unfinished(unfinished);
                    say::line("the file was cut; showing it from its start");
                    lines.rewind().map_err(Stop::reading)?;
                }
                Change::Replaced(file) => {
                    // What was written before the change still belongs to the old file.
                    note_unfinished(self.rest(&mut lines)?);
                    say::line("the file was replaced; showing the new one");
                    lines = Lines::new(file);
                }
            }
        }
    }

    /// Shows what there is; answers with the bytes of an unfinished line at the end.
    fn rest(&mut self, lines: &mut Lines) -> Result<u64, Stop> {
        loop {
            match lines.next().map_err(Stop::reading)? {
                Piece::Line(bytes) => self.line(bytes),
                Piece::TooLong(length) => {
                    self.strange(&format!("? no audit record: a line of {length} bytes"))
                }
                Piece::End(unfinished) => {
                    self.out.flush().map_err(Stop::writing)?;
                    return Ok(unfinished);
                }
            }
            .map_err(Stop::writing)?;
        }
    }

    fn line(&mut self, bytes: &[u8]) -> io::Result<()> {
        let text = if self.json {
            line::verbatim(bytes)
        } else {
            line::compact(bytes, self.colour)
        };
        match text {
            Some(text) => writeln!(self.out, "{text}"),
            None => self.strange(&line::foreign(bytes)),
        }
    }

    /// Something that is no record: among the records for people, beside them for programs.
    fn strange(&mut self, text: &str) -> io::Result<()> {
        self.foreign += 1;
        if self.json {
            say::line(text);
            return Ok(());
        }
        writeln!(self.out, "{text}")
    }

    fn report(&self) {
        if self.foreign > 0 {
            say::line(format_args!(
                "lines that are no audit records: {}",
                self.foreign
            ));
        }
    }

    /// Waits a moment, or until nobody reads us any more.
    fn wait(&self) -> Result<(), Stop> {
        let stdout = self.out.get_ref().as_fd();
        let interval = Timespec {
            tv_sec: 0,
            tv_nsec: INTERVAL.subsec_nanos().into(),
        };
        // Asked for nothing, poll still reports a pipe without a reader.
        let mut descriptors = [PollFd::from_borrowed_fd(stdout, PollFlags::empty())];
        match poll(&mut descriptors, Some(&interval)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => Err(Stop::Reader),
            Err(errno) => Err(Stop::Failed(
                anyhow::Error::new(errno).context("waiting for the audit file"),
            )),
        }
    }
}

fn note_unfinished(bytes: u64) {
    if bytes > 0 {
        say::line(format_args!(
            "the last line is not finished ({bytes} bytes)"
        ));
    }
}
