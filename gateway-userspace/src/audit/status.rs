//! What handles and the writer thread know of each other.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};

use super::loss::{Cause, Losses};

/// Why nothing can be recorded now. The request must be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuditUnavailable {
    /// All slots are taken, and none came free in time.
    #[error("the audit queue is full (waited {waited:?})")]
    Full {
        /// How long was waited for room; zero where waiting was not asked for.
        waited: Duration,
    },
    /// The writer cannot write; it keeps trying.
    #[error("the audit log cannot be written: {}", io::Error::from_raw_os_error(*errno))]
    Failing {
        /// Error number of the last attempt.
        errno: i32,
    },
    /// The stream was closed.
    #[error("the audit log is closed")]
    Closed,
}

/// What became of the records.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Records written, `loss` records not counted.
    pub written: u64,
    /// Records that are missing or may be: events that found no room, records that could not
    /// be written before the end, lines that the disk may not have kept.
    pub lost: u64,
    /// Requests that were refused because they could not have been recorded.
    pub refused: u64,
}

/// Shared between handles and writer.
#[derive(Debug)]
pub(super) struct Status {
    /// Room: one permit for each record that is not reserved, queued or under way.
    pub(super) room: Arc<Semaphore>,
    /// Records written since the start.
    pub(super) written: watch::Sender<u64>,
    /// Losses that are not written down yet.
    pub(super) losses: Losses,
    closing: AtomicBool,
    /// Error number of the last attempt, 0 while all is well.
    errno: AtomicI32,
}

impl Status {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(capacity)),
            written: watch::Sender::new(0),
            losses: Losses::default(),
            closing: AtomicBool::new(false),
            errno: AtomicI32::new(0),
        }
    }

    /// Asks the writer to end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.room.close();
    }

    /// Whether the writer is to end. What was queued before is visible to whoever sees it.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(super) fn set_failing(&self, error: &io::Error) {
        const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
        let errno = error.raw_os_error().unwrap_or(EIO);
        self.errno.store(errno, Ordering::Release);
    }

    pub(super) fn set_well(&self) {
        self.errno.store(0, Ordering::Release);
    }

    /// What is known of all records so far.
    pub(super) fn summary(&self) -> Summary {
        let lost = [Cause::NoSlot, Cause::Sync, Cause::Encoding];
        Summary {
            written: *self.written.borrow(),
            lost: lost.into_iter().map(|cause| self.losses.total(cause)).sum(),
            refused: self.losses.total(Cause::Unavailable),
        }
    }

    /// An error unless records can be written, as far as is known.
    pub(super) fn check(&self) -> Result<(), AuditUnavailable> {
        match self.errno.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(AuditUnavailable::Failing { errno }),
        }
    }
}
