//! The thread that owns the file: takes what is queued, writes it in groups, never gives up.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ringbuf::{HeapCons, traits::Consumer as _};

use super::{
    Record, Summary, SyncPolicy,
    file::Opened,
    line::Chain,
    loss::{Cause, Loss, Reported},
    sink::Sink,
    status::Status,
};

/// A group is closed when it has so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// First and longest pause after a failed attempt.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A group of lines on its way into the file.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// How much of `bytes` is in the file.
    done: usize,
    /// How many losses are not in the file yet: they come first.
    losses: u64,
    /// How many queued records are not in the file yet.
    records: usize,
}

/// State of the writer thread.
pub(super) struct Writer {
    queue: HeapCons<Record>,
    status: Arc<Status>,
    sink: Sink,
    chain: Chain,
    sync: SyncPolicy,
    /// The loss of the unfinished line that the file ended with.
    torn: Option<Loss>,
    reported: Reported,
    batch: Batch,
    /// Lines written since the last sync, and when the first of them was.
    unsynced: Option<(u64, Instant)>,
    failing: bool,
    pause: Duration,
}

/// Ends the stream for producers when the thread ends, however it does.
struct CloseOnExit(Arc<Status>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Writer {
    pub(super) fn new(
        queue: HeapCons<Record>,
        status: Arc<Status>,
        opened: Opened,
        sync: SyncPolicy,
    ) -> Self {
        Self {
            queue,
            status,
            sink: opened.sink,
            chain: opened.chain,
            sync,
            torn: opened.torn,
            reported: Reported::default(),
            batch: Batch::default(),
            unsynced: None,
            failing: false,
            pause: BACK_OFF.0,
        }
    }

    pub(super) fn run(mut self) -> Summary {
        let _close = CloseOnExit(Arc::clone(&self.status));
        loop {
            // Read before the queue: what was queued before closing is seen below.
            let closing = self.status.is_closing();
            // While writing fails, records stay in the queue, which is bounded.
            if !self.failing {
                self.fill();
            }
            let idle = self.batch.is_empty();
            match self.commit(closing) {
                Ok(()) => {
                    let recovered = self.recovered();
                    if !idle || recovered {
                        continue;
                    }
                    if closing {
                        return self.status.summary();
                    }
                    self.wait();
                }
                Err(error) => {
                    self.failed(&error);
                    if closing {
                        return self.give_up();
                    }
                    self.back_off();
                }
            }
        }
    }

    /// Takes losses and queued records into the batch, if that is empty.
    fn fill(&mut self) {
        if !self.batch.is_empty() {
            return;
        }
        self.batch.clear();
        let Self {
            batch,
            chain,
            status,
            ..
        } = self;
        let losses = status.losses.unreported(&mut self.reported);
        for loss in self.torn.take().into_iter().chain(losses) {
            if chain.append(&loss, &mut batch.bytes).is_ok() {
                batch.losses += 1;
            } else {
                status.losses.count(Cause::Encoding, 1);
            }
        }
        while batch.bytes.len() < BATCH_BYTES {
            let Some(record) = self.queue.try_pop() else {
                break;
            };
            if chain.append(&record, &mut batch.bytes).is_ok() {
                batch.records += 1;
            } else {
                status.losses.count(Cause::Encoding, 1);
                status.room.add_permits(1);
            }
        }
    }

    /// Writes the batch, and syncs if that is due.
    fn commit(&mut self, closing: bool) -> io::Result<()> {
        self.write()?;
        let Some((lines, since)) = self.unsynced else {
            return Ok(());
        };
        let due = match self.sync {
            SyncPolicy::EachBatch => true,
            SyncPolicy::Within(time) => since.elapsed() >= time,
        };
        // After a failure only a sync that works proves that the disk does.
        if due || closing || self.failing {
            if let Err(error) = self.sink.sync() {
                // The kernel may have dropped the pages and call the next sync a success.
                self.status.losses.count(Cause::Sync, lines);
                self.unsynced = Some((0, Instant::now()));
                return Err(error);
            }
            self.unsynced = None;
        }
        Ok(())
    }

    /// Writes what is left of the batch. After an error it continues where it stopped, so that
    /// a line cut off by a full disk is completed.
    fn write(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        while let Some(rest) = self.batch.rest() {
            let octets = self.sink.write(rest)?;
            self.wrote(octets);
        }
        self.batch.clear();
        Ok(())
    }

    /// Gives back the room of the records that are in the file now: their group may take long.
    fn wrote(&mut self, octets: usize) {
        let lines = self.batch.advance(octets);
        let losses = lines.min(self.batch.losses);
        self.batch.losses -= losses;
        let records = usize::try_from(lines - losses).unwrap_or(usize::MAX);
        let records = records.min(self.batch.records);
        self.batch.records -= records;
        let (before, since) = self.unsynced.unwrap_or((0, Instant::now()));
        self.unsynced = Some((before + lines, since));
        self.status.room.add_permits(records);
        self.status
            .written
            .send_modify(|count| *count += records as u64);
    }

    fn failed(&mut self, error: &io::Error) {
        self.status.set_failing(error);
        if !self.failing {
            self.failing = true;
            tracing::error!(%error, "audit: the log cannot be written; requests are refused");
        }
    }

    /// Notes that all is well; says whether it was not before.
    fn recovered(&mut self) -> bool {
        self.pause = BACK_OFF.0;
        if self.failing {
            self.status.set_well();
            tracing::warn!("audit: the log can be written again");
        }
        std::mem::take(&mut self.failing)
    }

    /// Waits for work, at most until the next sync is due.
    fn wait(&self) {
        match (self.unsynced, self.sync) {
            (Some((_, since)), SyncPolicy::Within(time)) => {
                thread::park_timeout(time.saturating_sub(since.elapsed()));
            }
            (Some(_), SyncPolicy::EachBatch) | (None, _) => thread::park(),
        }
    }

    /// Waits before the next attempt; producers do not cut that short, closing does.
    fn back_off(&mut self) {
        let start = Instant::now();
        while !self.status.is_closing() {
            let left = self.pause.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        self.pause = (self.pause * 2).min(BACK_OFF.1);
    }

    /// Ends with records that could not be written.
    fn give_up(mut self) -> Summary {
        let mut summary = self.status.summary();
        summary.lost += (self.batch.records + self.queue.pop_iter().count()) as u64;
        tracing::error!(
            lost = summary.lost,
            "audit: closed while the log could not be written"
        );
        summary
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.rest().is_none()
    }

    /// What is not in the file yet.
    fn rest(&self) -> Option<&[u8]> {
        self.bytes.get(self.done..).filter(|rest| !rest.is_empty())
    }

    /// Notes that so many more octets are in the file; says how many lines these end.
    fn advance(&mut self, octets: usize) -> u64 {
        let written = self.rest().and_then(|rest| rest.get(..octets));
        let lines = written.map_or(0, count_lines);
        self.done += octets;
        lines
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.done = 0;
        self.losses = 0;
        self.records = 0;
    }
}

/// Lines that end in these bytes: each line of ours has exactly one newline.
fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}
