//! Whether the worker answers, asked over its control socket for as long as it serves.
//!
//! What is counted is time that this process waited, so that one which stood still itself, with
//! its worker or without, finds nothing amiss when it goes on.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::SendFlags,
};

use super::packet;

/// What the worker is asked, and what it answers.
pub(super) const PULSE: &[u8] = b"p";
/// That the worker is to accept no more and let what is open go on, and its answer once it is so.
pub(super) const HAND_OVER: &[u8] = b"h";
/// That another policy is to take the place of the one before; it comes along.
pub(super) const RELOAD: &[u8] = b"r";
/// That it did, and that it could not.
pub(super) const RELOADED: &[u8] = b"y";
pub(super) const KEPT: &[u8] = b"n";
/// How often it is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Seconds without an answer after which it counts as standing still.
pub(super) const SILENT: u32 = 5;
/// Seconds without an answer after which it is killed, so that another can serve.
pub(super) const OVER: u32 = 20;

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// It has not answered for [`SILENT`] seconds.
    Silent,
    /// It answers again.
    Answers,
    /// It has not answered for [`OVER`] seconds.
    Over,
    /// It accepts no more, as it was told.
    HandedOver,
    /// It has the policy that it was sent, or keeps the one before.
    Reloaded(bool),
}

/// What it said.
enum Word {
    Pulse,
    HandedOver,
    Reloaded(bool),
    End,
}

/// Asks until the worker is gone, or told to finish. There is never more than one question that
/// waits for its answer.
pub(super) fn watch(control: &OwnedFd, mut tell: impl FnMut(Change)) -> io::Result<()> {
    loop {
        match packet::send(control, PULSE, &[], SendFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            sent => sent?,
        }
        let mut missed = 0;
        loop {
            match within(control, EVERY)? {
                Some(Word::Pulse) => break,
                Some(Word::HandedOver) => tell(Change::HandedOver),
                Some(Word::Reloaded(taken)) => tell(Change::Reloaded(taken)),
                Some(Word::End) => return Ok(()),
                None => {
                    missed += 1;
                    match missed {
                        SILENT => tell(Change::Silent),
                        OVER => tell(Change::Over),
                        _ => {}
                    }
                }
            }
        }
        if missed >= SILENT {
            tell(Change::Answers);
        }
        let next = Instant::now() + EVERY;
        while let Some(word) = within(control, next.saturating_duration_since(Instant::now()))? {
            match word {
                // It was asked once.
                Word::Pulse => return Err(io::ErrorKind::InvalidData.into()),
                Word::HandedOver => tell(Change::HandedOver),
                Word::Reloaded(taken) => tell(Change::Reloaded(taken)),
                Word::End => return Ok(()),
            }
        }
    }
}

/// What it says within this time, if anything.
fn within(control: &OwnedFd, time: Duration) -> io::Result<Option<Word>> {
    if !readable(control, time)? {
        return Ok(None);
    }
    let mut said = [0; PULSE.len()];
    match packet::receive(control, &mut said)? {
        Some(_) if said == PULSE => Ok(Some(Word::Pulse)),
        Some(_) if said == HAND_OVER => Ok(Some(Word::HandedOver)),
        Some(_) if said == RELOADED => Ok(Some(Word::Reloaded(true))),
        Some(_) if said == KEPT => Ok(Some(Word::Reloaded(false))),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Ok(Some(Word::End)),
    }
}

fn readable(control: &OwnedFd, time: Duration) -> io::Result<bool> {
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(control, PollFlags::IN)], Some(&time)) {
        // A signal: whoever asks does so again.
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use rustix::net::{Shutdown, shutdown};

    use super::*;

    /// The worker's end, and what is told.
    fn watched() -> (OwnedFd, OwnedFd, mpsc::Receiver<Change>, Served) {
        let (ours, theirs) = packet::pair().unwrap();
        let (told, changes) = mpsc::channel();
        let control = ours.try_clone().unwrap();
        let served = thread::spawn(move || watch(&control, |change| told.send(change).unwrap()));
        (ours, theirs, changes, served)
    }

    type Served = thread::JoinHandle<io::Result<()>>;

    fn answer(theirs: &OwnedFd) {
        let mut asked = [0; 8];
        let (length, _) = packet::receive(theirs, &mut asked).unwrap().unwrap();
        assert_eq!(asked.get(..length), Some(PULSE));
        packet::send(theirs, PULSE, &[], SendFlags::empty()).unwrap();
    }

    #[test]
    fn silence_is_told_once_and_its_end_too() {
        let (_ours, theirs, changes, served) = watched();
        answer(&theirs);
        assert_eq!(changes.recv().unwrap(), Change::Silent);
        answer(&theirs);
        assert_eq!(changes.recv().unwrap(), Change::Answers);
        drop(theirs);
        served.join().unwrap().unwrap();
        assert!(changes.recv().is_err(), "nothing more is told");
    }

    #[test]
    fn one_that_is_told_to_finish_is_asked_no_more() {
        let (ours, theirs, changes, served) = watched();
        answer(&theirs);
        shutdown(&ours, Shutdown::Write).unwrap();
        served.join().unwrap().unwrap();
        assert!(changes.recv().is_err());
        assert!(packet::receive(&theirs, &mut [0; 8]).unwrap().is_none());
    }

    #[test]
    fn another_answer_than_the_one_is_an_error() {
        for other in [&b"q"[..], b"pp"] {
            let (_ours, theirs, _changes, served) = watched();
            packet::send(&theirs, other, &[], SendFlags::empty()).unwrap();
            let error = served.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
