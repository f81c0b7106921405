//! When something last moved on a connection, so that an idle one can be ended.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// An end of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Agent,
    Upstream,
}

/// Written by both directions of a relay, read by its watch.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds from `start` to the latest movement.
    latest: AtomicU64,
    /// Whether a write to this end waits for it.
    agent_full: AtomicBool,
    upstream_full: AtomicBool,
}

impl Activity {
    /// Something moved just now.
    pub(crate) fn begin() -> Self {
        Self {
            start: Instant::now(),
            latest: AtomicU64::new(0),
            agent_full: AtomicBool::new(false),
            upstream_full: AtomicBool::new(false),
        }
    }

    /// Something moves.
    pub(crate) fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.latest.store(elapsed, Ordering::Relaxed);
    }

    /// Writes to an end, which is known to be waited for meanwhile.
    pub(crate) async fn filling<T>(&self, end: End, write: impl Future<Output = T>) -> T {
        let full = match end {
            End::Agent => &self.agent_full,
            End::Upstream => &self.upstream_full,
        };
        full.store(true, Ordering::Relaxed);
        let written = write.await;
        full.store(false, Ordering::Relaxed);
        written
    }

    /// Whether a write to this end was begun and has not ended, be it that it was given up.
    pub(crate) fn is_filling(&self, end: End) -> bool {
        match end {
            End::Agent => self.agent_full.load(Ordering::Relaxed),
            End::Upstream => self.upstream_full.load(Ordering::Relaxed),
        }
    }

    /// Which end does not go on: one that takes nothing more, the agent while its request is not
    /// whole (`sending`), the upstream otherwise.
    pub(crate) fn stalled(&self, sending: bool) -> End {
        if self.is_filling(End::Agent) {
            End::Agent
        } else if self.is_filling(End::Upstream) || !sending {
            End::Upstream
        } else {
            End::Agent
        }
    }

    /// Waits until nothing has moved for this long.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let latest = Duration::from_millis(self.latest.load(Ordering::Relaxed));
            let due = self.start + latest + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn movement_puts_the_end_off() {
        let activity = Activity::begin();
        let limit = Duration::from_secs(10);
        let start = Instant::now();
        let mover = async {
            tokio::time::sleep(Duration::from_secs(9)).await;
            activity.touch();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = activity.idle(limit) => {}
            () = mover => {}
        }
        assert_eq!(start.elapsed().as_secs(), 19);
    }
}
