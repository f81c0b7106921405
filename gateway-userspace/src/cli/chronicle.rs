//! What is told of a session itself: a record when it begins and one at its end, and the file by
//! which others on this node find it.

use std::{path::Path, time::Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    audit::{Audit, Kind, Outcome, Phase, Record, SessionFacts, Subject},
    sessions::{Entry, Session},
};

/// A session that is under way.
#[derive(Debug)]
pub(super) struct Chronicle {
    audit: Audit,
    subject: Subject,
    facts: SessionFacts,
    event: Uuid,
    began: Instant,
    /// Says that it is there.
    pub(super) entry: Entry,
}

impl Chronicle {
    /// Writes both. Whoever gets an error must not begin.
    pub(super) async fn begin(
        audit: &Audit,
        subject: Subject,
        facts: SessionFacts,
        session: &Session,
        scratch: &Path,
    ) -> anyhow::Result<Self> {
        let slot = audit.reserve().await?;
        let entry = Entry::write(scratch, session).context("writing the session's file")?;
        let mut record = record(&subject, &facts, "session_started");
        record.phase = Phase::Open;
        let event = record.event;
        slot.write(record);
        Ok(Self {
            audit: audit.clone(),
            subject,
            facts,
            event,
            began: Instant::now(),
            entry,
        })
    }

    /// Writes how it ended.
    pub(super) fn end(mut self, exit: Option<u8>) {
        self.facts.exit = exit;
        let mut record = record(&self.subject, &self.facts, "session_ended");
        record.event = self.event;
        record.duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if !self.audit.offer(record) {
            tracing::error!("the end of the session found no room in the audit log");
        }
    }
}

fn record(subject: &Subject, facts: &SessionFacts, reason: &'static str) -> Record {
    let mut record = Record::new(
        subject,
        Timestamp::now(),
        Kind::Session,
        Outcome::Allow,
        reason,
    );
    record.session = Some(Box::new(facts.clone()));
    record
}

/// The kernel's release.
pub(super) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into()
}

/// What the kernel half has in force, by name.
pub(super) fn kernel_controls(held: crate::kernel::KernelHeld) -> Vec<String> {
    [
        ("cgroup_programs", true),
        ("unix_programs", held.unix),
        ("lsm_programs", held.lsm),
        ("leavers_killed", held.leavers),
    ]
    .into_iter()
    .filter(|(_, in_force)| *in_force)
    .map(|(name, _)| name.to_owned())
    .collect()
}
