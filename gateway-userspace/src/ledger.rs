//! The two ledgers: what the kernel let through, held against what the gateway served.
//!
//! Every connection of an agent that the kernel let through must meet exactly one session of the
//! gateway, and the other way round. What stays alone is a finding: it went past the gateway, or
//! the gateway served somebody whom the kernel never saw.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use gateway_common::flow::Flow;

/// How long one side may be ahead of the other.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Most passages that may wait for their other side. Beyond it they are counted, not kept.
pub const WAITING_MAX: usize = 65_536;

/// What tells one connection, or one DNS question, from every other until the next boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PassageKey {
    /// Socket cookie.
    pub cookie: u64,
    /// When the call was made, nanoseconds since boot.
    pub time_ns: u64,
    /// DNS transaction id, 0 for a connection.
    pub token: u16,
}

impl PassageKey {
    /// The key of a connection.
    #[must_use]
    pub const fn connection(flow: &Flow) -> Self {
        Self::question(flow, 0)
    }

    /// The key of a DNS question.
    #[must_use]
    pub const fn question(flow: &Flow, transaction: u16) -> Self {
        Self {
            cookie: flow.cookie,
            time_ns: flow.time_ns,
            token: transaction,
        }
    }
}

/// Which side saw a passage that the other did not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alone {
    /// The kernel let it through, and the gateway has no session.
    Kernel,
    /// The gateway has a session, and the kernel no passage.
    Gateway,
}

impl Alone {
    /// The reason in the audit record.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "unmatched_passage",
            Self::Gateway => "unmatched_session",
        }
    }
}

/// One entry that waited in vain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmatched {
    /// Who saw it.
    pub alone: Alone,
    /// What it was, as the side that saw it tells.
    pub flow: Flow,
    /// How often it was seen: a question may be asked twice under one key.
    pub times: u64,
}

/// Both sides meet here.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    since: u64,
    waiting: HashMap<PassageKey, Waiting>,
    overflow: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// How much the kernel is ahead; negative where the gateway is. Never zero.
    ahead: i64,
    since: Instant,
    flow: Flow,
}

impl Ledger {
    /// Leaves out, on both sides, what was called for before this time, in nanoseconds since
    /// boot: another kept the ledger then.
    pub fn begin(&self, since: u64) {
        self.with(|entries| entries.since = since);
    }

    /// The kernel let something through.
    pub fn passed(&self, key: PassageKey, flow: &Flow, now: Instant) {
        self.count(key, flow, now, 1);
    }

    /// The gateway began to serve it.
    pub fn served(&self, key: PassageKey, flow: &Flow, now: Instant) {
        self.count(key, flow, now, -1);
    }

    fn count(&self, key: PassageKey, flow: &Flow, now: Instant, step: i64) {
        self.with(|entries| {
            if key.time_ns < entries.since {
                return;
            }
            if let Some(waiting) = entries.waiting.get_mut(&key) {
                waiting.ahead += step;
                if waiting.ahead == 0 {
                    entries.waiting.remove(&key);
                }
            } else if entries.waiting.len() < WAITING_MAX {
                let waiting = Waiting {
                    ahead: step,
                    since: now,
                    flow: *flow,
                };
                entries.waiting.insert(key, waiting);
            } else {
                entries.overflow += 1;
            }
        });
    }

    /// Takes out what has waited longer than `patience`, oldest first.
    #[must_use]
    pub fn unmatched(&self, now: Instant, patience: Duration) -> Vec<Unmatched> {
        let mut late: Vec<_> = self.with(|entries| {
            entries
                .waiting
                .extract_if(|_, waiting| now.duration_since(waiting.since) >= patience)
                .map(|(_, waiting)| waiting)
                .collect()
        });
        late.sort_by_key(|waiting| waiting.since);
        late.into_iter()
            .map(|waiting| Unmatched {
                alone: if waiting.ahead > 0 {
                    Alone::Kernel
                } else {
                    Alone::Gateway
                },
                flow: waiting.flow,
                times: waiting.ahead.unsigned_abs(),
            })
            .collect()
    }

    /// How many entries found no room since this was asked last: of them nobody can say whether
    /// they were matched.
    #[must_use]
    pub fn take_overflow(&self) -> u64 {
        self.with(|entries| std::mem::take(&mut entries.overflow))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Entries) -> T) -> T {
        // Each step leaves the entries whole: a panic elsewhere spoils nothing.
        work(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;

    fn flow(cookie: u64) -> Flow {
        let mut flow = Flow::new_zeroed();
        flow.cookie = cookie;
        flow
    }

    fn key(cookie: u64) -> PassageKey {
        PassageKey::connection(&flow(cookie))
    }

    #[test]
    fn either_side_may_come_first_and_what_stays_alone_is_told_once() {
        let ledger = Ledger::default();
        let start = Instant::now();
        ledger.passed(key(1), &flow(1), start);
        ledger.served(key(1), &flow(1), start);
        ledger.served(key(2), &flow(2), start);
        ledger.passed(key(2), &flow(2), start);
        ledger.passed(key(3), &flow(3), start);
        ledger.served(key(4), &flow(4), start + Duration::from_secs(1));
        let just_before = start + PATIENCE - Duration::from_nanos(1);
        assert!(ledger.unmatched(just_before, PATIENCE).is_empty());
        let late = start + PATIENCE + Duration::from_secs(1);
        let told: Vec<_> = ledger
            .unmatched(late, PATIENCE)
            .into_iter()
            .map(|it| (it.alone, it.flow.cookie, it.times))
            .collect();
        assert_eq!(told, [(Alone::Kernel, 3, 1), (Alone::Gateway, 4, 1)]);
        assert!(ledger.unmatched(late, PATIENCE).is_empty());
    }

    #[test]
    fn a_question_asked_twice_needs_two_answers() {
        let ledger = Ledger::default();
        let start = Instant::now();
        let key = PassageKey::question(&flow(1), 77);
        ledger.passed(key, &flow(1), start);
        ledger.passed(key, &flow(1), start);
        ledger.served(key, &flow(1), start);
        let told = ledger.unmatched(start + PATIENCE, PATIENCE);
        assert_eq!(told.first().map(|it| it.times), Some(1));
    }

    #[test]
    fn beyond_the_limit_entries_are_counted() {
        let ledger = Ledger::default();
        let start = Instant::now();
        for cookie in 0..WAITING_MAX as u64 + 3 {
            ledger.passed(key(cookie), &flow(cookie), start);
        }
        assert_eq!(ledger.take_overflow(), 3);
        assert_eq!(ledger.take_overflow(), 0, "told once");
        // Those that are in are still matched.
        ledger.served(key(0), &flow(0), start);
        let told = ledger.unmatched(start + PATIENCE, PATIENCE);
        assert_eq!(told.len(), WAITING_MAX - 1);
    }

    proptest! {
        #[test]
        fn only_what_is_missing_on_one_side_is_told(
            kernel in prop::collection::btree_set(0u64..64, 0..40),
            gateway in prop::collection::btree_set(0u64..64, 0..40),
            kernel_first in any::<bool>(),
        ) {
            let ledger = Ledger::default();
            let start = Instant::now();
            let pass = || kernel.iter().for_each(|it| ledger.passed(key(*it), &flow(*it), start));
            let serve = || gateway.iter().for_each(|it| ledger.served(key(*it), &flow(*it), start));
            if kernel_first { pass(); serve(); } else { serve(); pass(); }
            let mut told: Vec<_> = ledger
                .unmatched(start + PATIENCE, PATIENCE)
                .iter()
                .map(|it| (it.flow.cookie, it.alone == Alone::Kernel))
                .collect();
            told.sort_unstable();
            let expected: Vec<_> = kernel
                .symmetric_difference(&gateway)
                .map(|it| (*it, kernel.contains(it)))
                .collect();
            prop_assert_eq!(told, expected);
        }
    }
}
