//! Arithmetic of loss: sequence numbers against events received, totals against events told.

use std::collections::HashMap;

use gateway_common::event::Event;

use super::Gaps;

/// What was received and accounted for so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    gaps: Gaps,
    /// By CPU and reason: refusals accounted for.
    accounted: HashMap<(u32, u32), u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Takes an event in; answers how many refusals of its kind came before it unreported.
    pub(super) fn note(&mut self, event: &Event) -> u64 {
        self.gaps.note(event.cpu, event.sequence);
        let key = (event.cpu, u32::from(event.reason));
        let accounted = self.accounted.entry(key).or_default();
        // An event that was overtaken by a later one on its CPU has been counted with that.
        let repeated = event.total.saturating_sub(*accounted).saturating_sub(1);
        *accounted = (*accounted).max(event.total);
        repeated
    }

    /// Refusals of a CPU and reason that no event told of, given the exact total.
    pub(super) fn remaining(&mut self, cpu: u32, reason: u32, total: u64) -> u64 {
        let accounted = self.accounted.entry((cpu, reason)).or_default();
        let remaining = total.saturating_sub(*accounted);
        *accounted = (*accounted).max(total);
        remaining
    }

    /// See [`Gaps::lost`].
    pub(super) fn lost(&mut self) -> u64 {
        self.gaps.lost()
    }

    /// See [`Gaps::lost_for_good`].
    pub(super) fn lost_for_good(&mut self) -> u64 {
        self.gaps.lost_for_good()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn event(cpu: u32, sequence: u64, reason: u16, total: u64) -> Event {
        let mut event = Event::new_zeroed();
        event.cpu = cpu;
        event.sequence = sequence;
        event.reason = reason;
        event.total = total;
        event
    }

    #[test]
    fn a_gap_is_the_loss_once_it_lasts() {
        let mut tally = Tally::new();
        tally.note(&event(0, 1, 35, 1));
        tally.note(&event(0, 4, 35, 4));
        assert_eq!(tally.lost(), 0, "may still be late");
        assert_eq!(tally.lost(), 2);
        assert_eq!(tally.lost(), 0, "told once");
        assert_eq!(tally.lost_for_good(), 0);
    }

    #[test]
    fn an_overtaken_event_is_no_loss() {
        let mut tally = Tally::new();
        tally.note(&event(0, 2, 35, 2));
        assert_eq!(tally.lost(), 0);
        tally.note(&event(0, 1, 35, 1));
        assert_eq!(tally.lost_for_good(), 0);
    }

    #[test]
    fn cpus_and_reasons_are_counted_apart() {
        let mut tally = Tally::new();
        assert_eq!(tally.note(&event(0, 1, 35, 1)), 0);
        assert_eq!(tally.note(&event(1, 1, 35, 1)), 0);
        assert_eq!(tally.note(&event(0, 2, 36, 1)), 0);
        assert_eq!(tally.note(&event(0, 3, 35, 8)), 6, "2 to 7 were folded");
        assert_eq!(tally.remaining(0, 35, 10), 2);
        assert_eq!(tally.remaining(0, 35, 10), 0, "told once");
    }
}
