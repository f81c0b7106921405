//! Watches that what holds an attached agent is still there: its cgroup, and the pins.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    audit::{Audit, Blame, Kind, Outcome, Record, Subject},
    cli::say,
    kernel::cgroup::{Cgroup, CgroupError},
};

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What is watched.
#[derive(Debug)]
pub(super) struct Watch {
    cgroup: PathBuf,
    cgroup_id: u64,
    pins: PathBuf,
    audit: Audit,
    subject: Subject,
}

impl Watch {
    pub(super) fn new(
        agent: &Cgroup,
        pins: &Path,
        audit: Audit,
        subject: Subject,
    ) -> Result<Self, CgroupError> {
        Ok(Self {
            cgroup: agent.path().to_owned(),
            cgroup_id: agent.id()?,
            pins: pins.to_owned(),
            audit,
            subject,
        })
    }

    /// Returns once the agent's cgroup is gone. Says so, and writes a finding, when the pins are:
    /// the boundary then holds for as long as this process does.
    pub(super) async fn until_gone(&self) {
        let mut pinned = true;
        let mut every = tokio::time::interval(EVERY);
        loop {
            every.tick().await;
            let id = fs::metadata(&self.cgroup).map(|metadata| metadata.ino());
            if id.ok() != Some(self.cgroup_id) {
                self.find(
                    "cgroup_gone",
                    "the agent's cgroup was removed; one made again in its place is not confined",
                );
                return;
            }
            let still = self.pins.join("links").is_dir();
            if pinned && !still {
                let hint = "the pins are gone (was the BPF file system unmounted?): the boundary \
                            holds only for as long as this process does";
                say::error(hint);
                self.find("pins_gone", hint);
            }
            pinned = still;
        }
    }

    fn find(&self, reason: &'static str, hint: &str) {
        let time = Timestamp::now();
        let mut record = Record::new(&self.subject, time, Kind::Finding, Outcome::Allow, reason)
            .blame(Blame::Us);
        record.hint = Some(hint.to_owned());
        if !self.audit.offer(record) {
            tracing::error!(reason, "a finding found no room in the audit log");
        }
    }
}
