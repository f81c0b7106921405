//! How many connections an agent has, and totals of what was turned away at the door.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{audit::Record, names::AgentId};

/// At most one record per agent and reason in this time; the rest is folded into the next.
pub(crate) const FOLD: Duration = Duration::from_secs(1);

/// Exact totals since the start.
#[derive(Default, Debug)]
pub struct Counters {
    unattributed: AtomicU64,
    connection_limit: AtomicU64,
    audit_unavailable: AtomicU64,
    question_limit: AtomicU64,
    questions_dropped: AtomicU64,
}

/// Declares, for each total, how it is counted and read.
macro_rules! totals {
    ($($(#[$doc:meta])* $name:ident, $read:ident;)*) => {
        impl Counters {
            $(
                pub(crate) fn $name(&self) {
                    self.$name.fetch_add(1, Ordering::Relaxed);
                }

                $(#[$doc])*
                #[must_use]
                pub fn $read(&self) -> u64 {
                    self.$name.load(Ordering::Relaxed)
                }
            )*
        }
    };
}

totals! {
    /// Connections and DNS questions of nobody known.
    unattributed, unattributed_total;
    /// Connections over their agent's limit.
    connection_limit, connection_limit_total;
    /// Requests refused because no record could be written.
    audit_unavailable, audit_unavailable_total;
    /// DNS questions over the limit.
    question_limit, question_limit_total;
    /// Datagrams that are no DNS question.
    questions_dropped, questions_dropped_total;
}

/// Open connections by agent.
#[derive(Debug)]
pub(crate) struct Admission {
    limit: usize,
    open: Mutex<HashMap<AgentId, usize>>,
}

/// Leave to have one connection open; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    agent: AgentId,
}

impl Admission {
    /// Nobody has a connection yet.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Mutex::default(),
        }
    }

    /// Counts a connection, unless the agent has as many as it may.
    pub(crate) fn admit(self: &Arc<Self>, agent: &AgentId) -> Option<Admitted> {
        let mut open = lock(&self.open);
        let count = open.entry(agent.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Admitted {
            admission: Arc::clone(self),
            agent: agent.clone(),
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = lock(&self.admission.open);
        if let Some(count) = open.get_mut(&self.agent) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.agent);
            }
        }
    }
}

/// Keeps refusals that cost the other side nothing from flooding the audit log.
#[derive(Default, Debug)]
pub(crate) struct Fold(Mutex<HashMap<(AgentId, &'static str), Folded>>);

#[derive(Debug)]
struct Folded {
    written: Instant,
    held: Option<Record>,
}

impl Fold {
    /// Takes one more. If it is time for a record: that one, with how many others it stands for.
    pub(crate) fn add(&self, mut record: Record, now: Instant) -> Option<Record> {
        let mut folds = lock(&self.0);
        let key = (record.agent.clone(), record.reason);
        let Some(folded) = folds.get_mut(&key) else {
            let first = Folded {
                written: now,
                held: None,
            };
            folds.insert(key, first);
            return Some(record);
        };
        record.repeated = match &folded.held {
            Some(held) => held.repeated + 1,
            None => 0,
        };
        if now.duration_since(folded.written) < FOLD {
            folded.held = Some(record);
            return None;
        }
        folded.written = now;
        folded.held = None;
        Some(record)
    }

    /// Takes out what has been held for long enough, so that the last of many is told, too, and
    /// forgets what has not come up again.
    pub(crate) fn due(&self, now: Instant) -> Vec<Record> {
        let mut due = Vec::new();
        lock(&self.0).retain(|_, folded| {
            if now.duration_since(folded.written) < FOLD {
                return true;
            }
            let Some(record) = folded.held.take() else {
                return false;
            };
            folded.written = now;
            due.push(record);
            true
        });
        due
    }

    /// Takes out what has not been written.
    pub(crate) fn take(&self) -> impl Iterator<Item = Record> {
        let folds = std::mem::take(&mut *lock(&self.0));
        folds.into_values().filter_map(|folded| folded.held)
    }
}

/// No code between lock and unlock panics; were it to, the counts are still counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        audit::{Kind, Outcome, Subject},
        identity::Assurance,
        names::PolicyDigest,
    };

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).unwrap()
    }

    #[test]
    fn the_limit_is_per_agent_and_given_back() {
        let admission = Arc::new(Admission::new(2));
        let (one, other) = (agent("one"), agent("other"));
        let first = admission.admit(&one).unwrap();
        let _second = admission.admit(&one).unwrap();
        assert!(admission.admit(&one).is_none());
        assert!(admission.admit(&other).is_some());
        drop(first);
        assert!(admission.admit(&one).is_some());
    }

    #[test]
    fn repeats_are_folded_and_none_is_lost() {
        let record = |reason| {
            let subject = Subject {
                agent: agent("one"),
                assurance: Assurance::Cooperative,
                policy: PolicyDigest([0; 32]),
            };
            Record::new(
                &subject,
                Timestamp::UNIX_EPOCH,
                Kind::Tcp,
                Outcome::Deny,
                reason,
            )
        };
        let (fold, start) = (Fold::default(), Instant::now());
        let add = |reason, at| fold.add(record(reason), at).map(|record| record.repeated);
        assert_eq!(add("x", start), Some(0));
        assert_eq!(add("x", start), None);
        assert_eq!(add("x", start), None);
        assert_eq!(add("y", start), Some(0));
        assert_eq!(add("x", start + FOLD), Some(2));
        assert_eq!(add("x", start + FOLD), None);
        let due = |at| -> Vec<_> { fold.due(at).iter().map(|it| it.repeated).collect() };
        assert_eq!(
            due(start + FOLD + FOLD / 2),
            [0u64; 0],
            "not yet, and `y` is forgotten"
        );
        assert_eq!(due(start + 2 * FOLD), [0]);
        assert_eq!(due(start + 3 * FOLD), [0u64; 0], "told once");
        assert_eq!(
            add("x", start + 3 * FOLD),
            Some(0),
            "forgotten, so it is news"
        );
        assert_eq!(add("x", start + 3 * FOLD), None);
        let left: Vec<Record> = fold.take().collect();
        assert_eq!(
            left.iter()
                .map(|record| record.repeated)
                .collect::<Vec<_>>(),
            [0]
        );
        assert_eq!(fold.take().count(), 0);
    }
}
