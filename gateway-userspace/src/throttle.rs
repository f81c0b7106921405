//! How often: counts what agents do against the rates that policy gives them (GCRA).
//!
//! A rate of N passes exactly N at once, and one more each time an Nth of its period went by.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use crate::{
    names::{AgentId, RuleId},
    policy::Rate,
};

/// Counts kept of one rate before those that are full again are let go.
const COUNTS_KEPT: usize = 4096;

/// What is counted of an agent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum What {
    /// Requests under a rule.
    Rule(RuleId),
    /// Requests under whatever rule.
    Requests,
    /// DNS questions.
    Questions,
}

/// Whose what is counted.
type Key = (AgentId, What);
type Limiter<C> =
    RateLimiter<Key, HashMapStateStore<Key>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// All counts.
pub(crate) struct Throttle<C: Clock = MonotonicClock> {
    clock: C,
    limiters: Mutex<HashMap<Rate, Limiter<C>>>,
}

impl<C: Clock + Clone> Throttle<C> {
    pub(crate) fn new(clock: C) -> Self {
        Self {
            clock,
            limiters: Mutex::default(),
        }
    }

    /// Counts one more.
    ///
    /// # Errors
    /// How long to wait, where that is too many; nothing is counted then.
    pub(crate) fn count(&self, agent: &AgentId, what: What, rate: Rate) -> Result<(), Duration> {
        // Counts are whole between any two steps: a panic elsewhere spoils nothing.
        let mut limiters = self.limiters.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = limiters.entry(rate).or_insert_with(|| {
            let quota = Quota::with_period(rate.interval())
                .expect("an interval is longer than nothing")
                .allow_burst(rate.count());
            RateLimiter::new(quota, HashMapStateStore::default(), self.clock.clone())
        });
        if limiter.len() >= COUNTS_KEPT {
            limiter.retain_recent();
        }
        limiter
            .check_key(&(agent.clone(), what))
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

impl<C: Clock> std::fmt::Debug for Throttle<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttle").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).expect("a rate")
    }

    fn agent(name: &str) -> AgentId {
        AgentId::parse(name).expect("a name")
    }

    #[test]
    fn exactly_so_many_pass_at_once_and_one_more_with_each_part_of_the_period() {
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::new(clock.clone());
        let once = || throttle.count(&agent("a"), What::Requests, rate("60/min"));
        for nth in 0..60 {
            assert_eq!(once(), Ok(()), "{nth}");
        }
        assert_eq!(once(), Err(Duration::from_secs(1)));
        clock.advance(Duration::from_millis(999));
        assert_eq!(once(), Err(Duration::from_millis(1)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(once(), Ok(()));
        assert_eq!(once(), Err(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(3600));
        for nth in 0..60 {
            assert_eq!(once(), Ok(()), "{nth}");
        }
        assert!(once().is_err());
    }

    #[test]
    fn agents_and_rules_are_counted_apart() {
        let throttle = Throttle::new(FakeRelativeClock::default());
        let rule = RuleId::parse("r").expect("a name");
        let one = rate("1/h");
        for (name, what) in [
            ("a", What::Requests),
            ("b", What::Requests),
            ("a", What::Questions),
            ("a", What::Rule(rule.clone())),
            ("b", What::Rule(rule)),
        ] {
            assert_eq!(throttle.count(&agent(name), what.clone(), one), Ok(()));
            assert!(throttle.count(&agent(name), what.clone(), one).is_err());
            assert_eq!(
                throttle.count(&agent(name), what.clone(), rate("2/h")),
                Ok(())
            );
        }
    }

    #[test]
    fn counts_that_are_full_again_are_let_go() {
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::new(clock.clone());
        let one = rate("1/s");
        let fill = |from: usize| {
            for nth in from..from + COUNTS_KEPT {
                assert_eq!(
                    throttle.count(&agent(&format!("a{nth}")), What::Requests, one),
                    Ok(())
                );
            }
        };
        fill(0);
        clock.advance(Duration::from_secs(10));
        fill(COUNTS_KEPT);
        let limiters = throttle.limiters.lock().unwrap();
        assert!(
            limiters[&one].len() <= COUNTS_KEPT,
            "{}",
            limiters[&one].len()
        );
    }
}
