//! The kernel's ledger: from its ring into the [`Ledger`], and what stays alone there into the
//! audit stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use gateway_common::{
    ABI_VERSION,
    flow::{Flow, KIND_EXPLICIT, KIND_LOCAL, KIND_OBSERVED, KIND_OWN, KIND_REDIRECTED},
    passage::Passage,
};
use jiff::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use zerocopy::FromBytes as _;

use super::{
    abi::pollable,
    boundary::{Boundary, BoundaryError},
    denials::{Gaps, wall_clock},
    flows::{boot_time, socket_addr},
    processes::Names,
    tenure::Tenure,
};
use crate::{
    audit::{Audit, Blame, Kind, Outcome, Record, Subject},
    ledger::{Alone, Ledger, PATIENCE, PassageKey, Unmatched},
};

/// How often both ledgers are compared.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// Most findings that one comparison writes singly; the others are folded into the last.
const FINDINGS_MAX: usize = 16;

/// Reads the kernel's ledger.
pub struct Passages {
    ring: AsyncFd<RingBuf<MapData>>,
    gaps: Gaps,
    malformed: u64,
    ledger: Arc<Ledger>,
    audit: Audit,
    subject: Subject,
    names: Names,
    tenure: Tenure,
}

impl Passages {
    /// Takes the ring out of the boundary, and forgets what it holds so far: that was the
    /// canary's.
    ///
    /// # Errors
    /// If the object lacks the map or the ring cannot be polled.
    pub fn new(
        boundary: &mut Boundary,
        ledger: Arc<Ledger>,
        audit: Audit,
        subject: Subject,
        cgroup: String,
    ) -> Result<Self, BoundaryError> {
        let ring: RingBuf<MapData> = boundary.take_map("PASSAGES")?;
        let mut passages = Self {
            ring: pollable(ring).map_err(BoundaryError::Poll)?,
            gaps: Gaps::default(),
            malformed: 0,
            ledger,
            audit,
            subject,
            names: boundary.names(cgroup),
            tenure: boundary.tenure()?,
        };
        while passages.next().is_some() {}
        passages.gaps.lost_for_good();
        // Before, a gateway that this one took over from kept it.
        let now = u64::try_from(boot_time().as_nanos()).unwrap_or(u64::MAX);
        passages.ledger.begin(now);
        Ok(passages)
    }

    /// Keeps the ledger until `stop`, and then compares both sides once more: what was still on
    /// its way then is told by nobody, as the gateway has stopped accepting.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut every = tokio::time::interval(COMPARE_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = every.tick() => {
                    let lost = self.gaps.lost();
                    self.compare(lost);
                }
                ready = self.ring.readable_mut() => match ready {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(error) => {
                        tracing::error!(%error, "the kernel's ledger cannot be polled");
                        break;
                    }
                },
            }
            self.drain();
        }
        self.drain();
        let lost = self.gaps.lost_for_good();
        self.compare(lost);
    }

    fn drain(&mut self) {
        while let Some(passage) = self.next() {
            self.enter(&passage);
        }
    }

    /// The next entry of the ring that is one of ours; others are counted.
    fn next(&mut self) -> Option<Passage> {
        loop {
            let item = self.ring.get_mut().next()?;
            let passage = Passage::read_from_bytes(&item)
                .ok()
                .filter(|passage| passage.abi == ABI_VERSION);
            drop(item);
            match passage {
                Some(passage) => {
                    self.gaps.note(passage.cpu, passage.sequence);
                    return Some(passage);
                }
                None => self.malformed += 1,
            }
        }
    }

    fn enter(&self, passage: &Passage) {
        let flow = &passage.flow;
        match flow.kind {
            KIND_REDIRECTED | KIND_EXPLICIT => {
                let key = PassageKey::question(flow, passage.token);
                self.ledger.passed(key, flow, Instant::now());
            }
            // The gateway has no part in these, so the kernel's word is the record.
            KIND_LOCAL => self.write(self.local(flow, "declared_loopback")),
            KIND_OWN => self.write(self.local(flow, "own_loopback")),
            // Recorded when the call was let through against policy.
            KIND_OBSERVED => {}
            // A kind that this build does not know can have no session either.
            _ => {
                let key = PassageKey::question(flow, passage.token);
                self.ledger.passed(key, flow, Instant::now());
            }
        }
    }

    fn local(&self, flow: &Flow, reason: &'static str) -> Record {
        self.record(flow, Kind::Direct, Outcome::Allow, reason)
            .method("connect")
    }

    fn record(&self, flow: &Flow, kind: Kind, outcome: Outcome, reason: &'static str) -> Record {
        let process = self.names.process(&flow.task, flow.cookie, flow.time_ns);
        let destination = socket_addr(&flow.original);
        let time = wall_clock(flow.time_ns);
        let mut record = Record::new(&self.subject, time, kind, outcome, reason)
            .from_kernel(Some(Arc::new(process)))
            .target(destination.ip(), Some(destination.port()));
        record.original_destination = Some(destination);
        record
    }

    fn compare(&mut self, lost: u64) {
        let mut unmatched = self.ledger.unmatched(Instant::now(), PATIENCE);
        // What a successor's programs let through is in the successor's ring, whoever served it.
        if self.tenure.is_over() {
            unmatched.retain(|one| one.alone == Alone::Kernel);
        }
        let folded = unmatched.len().saturating_sub(FINDINGS_MAX) as u64;
        let last = unmatched.len().min(FINDINGS_MAX).checked_sub(1);
        for (index, alone) in unmatched.iter().take(FINDINGS_MAX).enumerate() {
            let more = if Some(index) == last { folded } else { 0 };
            self.write(self.finding(alone, more));
        }
        let unreadable = std::mem::take(&mut self.malformed);
        self.missing(
            lost + unreadable,
            "ledger_lost",
            "entries of the kernel's ledger that could not be read or had no room; the gateway \
             refuses those connections",
        );
        self.missing(
            self.ledger.take_overflow(),
            "ledger_overflow",
            "more connections wait for their other side than are kept; of these nobody can say \
             whether they were matched",
        );
    }

    fn finding(&self, unmatched: &Unmatched, more: u64) -> Record {
        let mut record = self
            .record(
                &unmatched.flow,
                Kind::Finding,
                Outcome::Allow,
                unmatched.alone.label(),
            )
            .blame(Blame::Us);
        record.repeated = unmatched.times - 1 + more;
        record.hint = Some(
            match unmatched.alone {
                Alone::Kernel => {
                    "the kernel let this through and the gateway never served it; find out who did"
                }
                Alone::Gateway => {
                    "the gateway served this and the kernel has no passage for it; its records \
                     are not to be trusted"
                }
            }
            .to_owned(),
        );
        record
    }

    fn missing(&self, count: u64, reason: &'static str, hint: &'static str) {
        if count == 0 {
            return;
        }
        let time = Timestamp::now();
        let mut record = Record::new(&self.subject, time, Kind::Loss, Outcome::Deny, reason)
            .from_kernel(None)
            .blame(Blame::Us);
        record.hint = Some(hint.to_owned());
        record.repeated = count - 1;
        self.write(record);
    }

    fn write(&self, record: Record) {
        // Where there is no room, the audit log counts it and says so in a record of its own.
        if !self.audit.offer(record) {
            tracing::error!("an entry of the kernel's ledger found no room in the audit log");
        }
    }
}
