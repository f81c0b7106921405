//! A gap in the numbers of a ring is what was lost.

use std::collections::HashMap;

/// Per-CPU sequence numbers of one ring, as far as they were seen.
#[derive(Debug, Default)]
pub(in crate::kernel) struct Gaps {
    /// By CPU: highest sequence number seen, and entries received.
    sequences: HashMap<u32, (u64, u64)>,
    /// Losses already reported.
    reported: u64,
    /// Losses found last time.
    suspected: u64,
}

impl Gaps {
    /// Takes an entry in.
    pub(in crate::kernel) fn note(&mut self, cpu: u32, sequence: u64) {
        let (highest, received) = self.sequences.entry(cpu).or_default();
        *highest = (*highest).max(sequence);
        *received += 1;
    }

    fn missing(&self) -> u64 {
        let missing: u64 = self
            .sequences
            .values()
            .map(|(highest, received)| highest.saturating_sub(*received))
            .sum();
        missing.saturating_sub(self.reported)
    }

    /// Entries newly known to be lost. One that is only late, because a softirq overtook it
    /// between numbering and writing, is not: a gap counts when it is still there the next time.
    pub(in crate::kernel) fn lost(&mut self) -> u64 {
        let missing = self.missing();
        let lost = missing.min(self.suspected);
        self.suspected = missing - lost;
        self.reported += lost;
        lost
    }

    /// Entries newly known to be lost, when none can be late any more.
    pub(in crate::kernel) fn lost_for_good(&mut self) -> u64 {
        let lost = self.missing();
        self.reported += lost;
        self.suspected = 0;
        lost
    }
}
