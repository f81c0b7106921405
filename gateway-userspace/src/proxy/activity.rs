//! When something last moved on a connection, so that an idle one can be ended.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Written by both directions of a relay, read by its watch.
#[derive(Debug)]
pub(crate) struct Activity {
    start: Instant,
    /// Milliseconds from `start` to the latest movement.
    latest: AtomicU64,
}

impl Activity {
    /// Something moved just now.
    pub(crate) fn begin() -> Self {
        Self {
            start: Instant::now(),
            latest: AtomicU64::new(0),
        }
    }

    /// Something moves.
    pub(crate) fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.latest.store(elapsed, Ordering::Relaxed);
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
