//! The record of one decision while it is being made: opened before anything is forwarded,
//! written when it is dropped, however that comes about.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;
use uuid::Uuid;

use super::failure::Failure;
use crate::{
    app::Core,
    audit::{Blame, Kind, Noticed, Outcome, Phase, Record, Slot, Subject},
    identity::Peer,
    names::{AgentId, Host, RuleId},
    policy::{Denial, Grant, Permit, Policy},
};

/// Bytes that passed so far.
#[derive(Default, Debug)]
pub(crate) struct Traffic {
    /// From the agent to the upstream.
    pub(crate) out: AtomicU64,
    /// From the upstream to the agent.
    pub(crate) back: AtomicU64,
}

/// A record that is not written yet, with room reserved for it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// None once it is discarded or written.
    pending: Option<(Slot, Box<Record>)>,
    event: Uuid,
    started: Instant,
    /// Counted while relaying.
    pub(crate) traffic: Traffic,
}

impl Entry {
    /// Reserves room and begins the record. Until something else is said, it is a refusal that
    /// was cut short by the gateway's own end.
    ///
    /// # Errors
    /// [`Failure::AuditUnavailable`]: the request must be refused.
    pub(crate) async fn open(
        core: &Core,
        policy: &Policy,
        peer: &Peer,
        kind: Kind,
    ) -> Result<Self, Failure> {
        let slot = core.context.audit.reserve().await.map_err(|error| {
            core.counters.audit_unavailable();
            tracing::error!(%error, "refusing: no record can be written");
            Failure::AuditUnavailable
        })?;
        let record = new_record(core, policy, peer, kind);
        Ok(Self {
            event: record.event,
            pending: Some((slot, Box::new(record))),
            started: Instant::now(),
            traffic: Traffic::default(),
        })
    }

    /// The id under which the record can be found.
    pub(crate) const fn event(&self) -> Uuid {
        self.event
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Record)) {
        if let Some((_, record)) = &mut self.pending {
            edit(record);
        }
    }

    /// What is asked for.
    pub(crate) fn target(&mut self, host: &Host, port: u16) {
        self.edit(|record| {
            record.host = Some(host.to_string());
            record.port = Some(port);
        });
    }

    /// The method, or DNS record type, and the path.
    pub(crate) fn asks(&mut self, method: &str, path: Option<&str>) {
        self.edit(|record| {
            record.method = Some(method.to_owned());
            record.path = path.map(str::to_owned);
        });
    }

    /// What is called on an MCP server.
    pub(crate) fn calls(&mut self, what: Option<String>) {
        self.edit(|record| record.call = what);
    }

    /// What was noticed in what was said.
    pub(crate) fn noticed(&mut self, noticed: Vec<Noticed>) {
        self.edit(|record| record.noticed.extend(noticed));
    }

    /// The gateway reads it.
    pub(crate) fn inspected(&mut self) {
        self.edit(|record| record.inspected = true);
    }

    /// Policy allows it; whether its addresses are fit is still open.
    pub(crate) fn granted(&mut self, grant: &Grant) {
        self.allowed(grant.rule(), grant.observed());
    }

    /// Policy allows it, for addresses that are fit.
    pub(crate) fn permitted(&mut self, permit: &Permit) {
        self.allowed(permit.rule(), permit.observed());
    }

    /// Whose it is.
    pub(crate) fn agent(&self) -> Option<AgentId> {
        self.pending
            .as_ref()
            .map(|(_, record)| record.agent.clone())
    }

    /// It passes though it should be refused.
    pub(crate) fn observed(&mut self, denial: &Denial) {
        self.allowed(None, Some(denial));
    }

    /// A rule allows it, or observe mode does not carry a refusal out.
    fn allowed(&mut self, rule: Option<&RuleId>, observed: Option<&Denial>) {
        self.edit(|record| match observed {
            None => {
                record.outcome = Outcome::Allow;
                record.rule = rule.cloned();
            }
            Some(denial) => {
                record.outcome = Outcome::Observe;
                record.rule.clone_from(&denial.rule);
                record.reason = denial.reason.label();
                record.hint = Some(denial.hint.clone());
            }
        });
    }

    /// The address that was dialled.
    pub(crate) fn dialled(&mut self, address: SocketAddr) {
        self.edit(|record| record.upstream = Some(address));
    }

    /// The HTTP status that the agent sees.
    pub(crate) fn status(&mut self, status: u16) {
        self.edit(|record| record.status = Some(status));
    }

    /// It came to its end.
    pub(crate) fn done(mut self) {
        self.edit(|record| {
            record.blame = None;
            match record.outcome {
                Outcome::Allow => record.reason = "allowed",
                Outcome::Deny | Outcome::Observe => {}
            }
        });
    }

    /// It failed.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        let report = failure.report();
        self.edit(|record| {
            record.blame = Some(report.blame);
            record.reason = report.reason;
            if report.refuses {
                record.outcome = Outcome::Deny;
            }
            if let Some(denial) = failure.denial() {
                record.rule.clone_from(&denial.rule);
            }
            record.hint = Some(failure.to_string());
        });
    }

    /// It failed, and that is all.
    pub(crate) fn failed(mut self, failure: &Failure) {
        self.fail(failure);
    }

    /// Writes that it is open, into room of its own; the end follows under the same event.
    pub(crate) fn opened(&self, slot: Slot) {
        if let Some((_, record)) = &self.pending {
            let mut record = Record::clone(record);
            record.phase = Phase::Open;
            if record.outcome == Outcome::Allow {
                record.reason = "allowed";
            }
            record.blame = None;
            self.write(slot, record);
        }
    }

    fn write(&self, slot: Slot, mut record: Record) {
        record.bytes_out = self.traffic.out.load(Ordering::Relaxed);
        record.bytes_in = self.traffic.back.load(Ordering::Relaxed);
        record.duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        slot.write(record);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some((slot, record)) = self.pending.take() {
            self.write(slot, *record);
        }
    }
}

/// A record of something that this peer did, in which all is unknown yet.
pub(crate) fn new_record(core: &Core, policy: &Policy, peer: &Peer, kind: Kind) -> Record {
    let subject = Subject {
        agent: peer.agent.clone(),
        assurance: core.context.assurance,
        policy: policy.digest(),
    };
    let now = jiff::Timestamp::now();
    Record::new(&subject, now, kind, Outcome::Deny, "cut_short")
        .peer(peer)
        .blame(Blame::Us)
}
