//! What is told of a run itself: a record when its command is about to start and one at its end,
//! and the file by which others on this node find it.

use std::time::Instant;

use anyhow::Context as _;
use jiff::Timestamp;
use uuid::Uuid;

use super::{session::Plan, site::Site};
use crate::{
    audit::{Kind, Outcome, Phase, Record, SessionFacts, Subject},
    kernel::KernelHeld,
    launch::channel::Shut,
    sessions::{Entry, Origin, Session},
};

/// A run that is under way.
pub(super) struct Chronicle {
    subject: Subject,
    facts: SessionFacts,
    event: Uuid,
    began: Instant,
    /// Says that it is there.
    pub(super) entry: Entry,
}

impl Chronicle {
    /// Writes both; without them nothing starts.
    pub(super) async fn begin(
        plan: &Plan,
        site: &Site,
        port: u16,
        held: KernelHeld,
        shut: &Shut,
    ) -> anyhow::Result<Self> {
        let subject = Subject {
            agent: plan.policy.agent().clone(),
            assurance: plan.assessment.level,
            policy: plan.policy.digest(),
        };
        let words: Vec<_> = plan.command.iter().map(|word| word.display()).collect();
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let facts = SessionFacts {
            run: site.run.clone(),
            kernel: rustix::system::uname().release().to_string_lossy().into(),
            uid: plan.user.uid.as_raw(),
            command: words.join(" "),
            controls: controls(plan, held, shut),
            open: plan.assessment.open.clone(),
            exit: None,
        };
        let session = Session {
            run: site.run.clone(),
            origin: Origin::Run,
            agent: subject.agent.to_string(),
            cgroup: site.agent.path().to_owned(),
            cgroup_id: site.agent.id()?,
            assurance: subject.assurance.label().to_owned(),
            open: facts.open.clone(),
            policy: subject.policy.to_string(),
            port,
            pid: std::process::id(),
            started: Timestamp::now(),
        };
        let slot = plan.audit.reserve().await?;
        let entry = Entry::write(site.scratch(), &session).context("writing the session's file")?;
        let mut record = Self::record(&subject, &facts, "session_started");
        record.phase = Phase::Open;
        let event = record.event;
        slot.write(record);
        Ok(Self {
            subject,
            facts,
            event,
            began: Instant::now(),
            entry,
        })
    }

    /// Writes how it ended.
    pub(super) fn end(mut self, plan: &Plan, exit: Option<u8>) {
        self.facts.exit = exit;
        let mut record = Self::record(&self.subject, &self.facts, "session_ended");
        record.event = self.event;
        record.duration_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        if !plan.audit.offer(record) {
            tracing::error!("the end of the session found no room in the audit log");
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
}

/// What is in force, by name.
fn controls(plan: &Plan, held: KernelHeld, shut: &Shut) -> Vec<String> {
    let process = plan.policy.process();
    let named = [
        ("cgroup_programs", true),
        ("unix_programs", held.unix),
        ("lsm_programs", held.lsm),
        ("leavers_killed", held.leavers),
        ("namespaces", true),
        ("no_capabilities", true),
        ("no_new_privs", true),
        ("seccomp", true),
        ("seccomp_tracing", !process.ptrace),
        ("seccomp_user_namespaces", !process.user_namespaces),
        ("seccomp_io_uring", !process.io_uring),
        ("born_inside", shut.born_inside),
    ];
    let mut controls: Vec<_> = named
        .into_iter()
        .filter(|(_, in_force)| *in_force)
        .map(|(name, _)| name.to_owned())
        .collect();
    if shut.landlock > 0 {
        controls.push(format!("landlock_{}", shut.landlock));
    }
    controls
}
