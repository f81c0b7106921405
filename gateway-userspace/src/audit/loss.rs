//! What was lost, counted until it can be written down.

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::{Kind, Phase, Source, record::event_id};

/// Why records are missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// No slot was free for an event that had already happened.
    NoSlot,
    /// Requests were refused because they could not have been recorded.
    Unavailable,
    /// Lines were written, but forcing them to the disk failed.
    Sync,
    /// A record did not serialise.
    Encoding,
}

impl Cause {
    const ALL: [Self; 4] = [Self::NoSlot, Self::Unavailable, Self::Sync, Self::Encoding];

    const fn label(self) -> &'static str {
        match self {
            Self::NoSlot => "audit_no_slot",
            Self::Unavailable => "audit_unavailable",
            Self::Sync => "audit_sync_failed",
            Self::Encoding => "audit_encoding",
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::NoSlot => "events found no room in the queue; they are not in this file",
            Self::Unavailable => "requests were refused because they could not be recorded",
            Self::Sync => "the disk may not have kept this many of the lines before this one",
            Self::Encoding => "records could not be serialised",
        }
    }
}

/// Losses by cause, since the start.
#[derive(Debug, Default)]
pub(super) struct Losses([AtomicU64; Cause::ALL.len()]);

/// Which of the [`Losses`] are written down already.
#[derive(Debug, Default)]
pub(super) struct Reported([u64; Cause::ALL.len()]);

impl Losses {
    /// Counts a loss.
    pub(super) fn count(&self, cause: Cause, records: u64) {
        if let Some(counter) = self.0.get(cause as usize) {
            counter.fetch_add(records, Ordering::Relaxed);
        }
    }

    /// All that was counted for this cause.
    pub(super) fn total(&self, cause: Cause) -> u64 {
        self.0
            .get(cause as usize)
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// What is not written down yet, as records; they count as reported from now on.
    pub(super) fn unreported<'a>(
        &'a self,
        reported: &'a mut Reported,
    ) -> impl Iterator<Item = Loss> + 'a {
        Cause::ALL
            .into_iter()
            .zip(&mut reported.0)
            .filter_map(|(cause, reported)| {
                let total = self.total(cause);
                let lost = total - std::mem::replace(reported, total);
                (lost > 0).then(|| Loss::new(cause.label(), cause.hint().to_owned(), lost))
            })
    }
}

/// A `loss` record of the writer's own. It concerns the file, not one agent: it carries neither
/// agent nor policy.
#[derive(Debug, Serialize)]
pub(super) struct Loss {
    #[serde(serialize_with = "super::microseconds")]
    time: Timestamp,
    event: Uuid,
    phase: Phase,
    source: Source,
    kind: Kind,
    reason: &'static str,
    hint: String,
    repeated: u64,
}

impl Loss {
    fn new(reason: &'static str, hint: String, lost: u64) -> Self {
        let time = Timestamp::now();
        Self {
            time,
            event: event_id(time),
            phase: Phase::End,
            source: Source::Gateway,
            kind: Kind::Loss,
            reason,
            hint,
            repeated: lost,
        }
    }

    /// The last line of the file was not finished.
    pub(super) fn torn(hint: String) -> Self {
        Self::new("audit_torn_line", hint, 1)
    }
}
