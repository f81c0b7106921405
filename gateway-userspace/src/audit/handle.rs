//! The handle that producers hold, and the slots that they write into.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread::{JoinHandle, Thread},
    time::Duration,
};

use ringbuf::{
    HeapProd, HeapRb,
    traits::{Producer as _, Split as _},
};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};

use super::{
    AuditConfig, AuditUnavailable, MAX_CAPACITY, OpenError, Record, Summary, SyncPolicy, Target,
    file, loss::Cause, sink::Sink, status::Status, writer::Writer,
};

/// The audit stream. Clones write to the same one; the last one to go closes it.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    status: Arc<Status>,
    queue: Mutex<Queue>,
    patience: Duration,
    writer: Thread,
    joining: Mutex<Option<JoinHandle<Summary>>>,
    summary: OnceLock<Summary>,
}

/// The producers' end of the queue.
struct Queue {
    ring: HeapProd<Record>,
    /// Records pushed since the start.
    pushed: u64,
    closed: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("pushed", &self.pushed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Room for one record. Dropping it unused gives the room back.
#[must_use = "a slot that is not written to records nothing"]
#[derive(Debug)]
pub struct Slot {
    audit: Audit,
    room: OwnedSemaphorePermit,
}

impl Audit {
    /// Opens the stream and starts its writer thread.
    ///
    /// An existing file is continued: its last line is checked and linked to, an unfinished one
    /// is moved to a file beside it and a `loss` record says so.
    ///
    /// # Errors
    /// [`OpenError`] when the file cannot be opened, is somebody else's or is no audit file.
    pub fn open(config: AuditConfig) -> Result<Self, OpenError> {
        let AuditConfig {
            target,
            capacity,
            patience,
            sync,
        } = config;
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(OpenError::Capacity { capacity });
        }
        let opened = match target {
            Target::File(path) => file::open(&path)?,
            Target::Stdout => file::Opened::new(Sink::stdout().map_err(OpenError::Stdout)?),
            Target::Memory(log) => file::Opened::new(Sink::Memory(log)),
        };
        Self::start(opened, capacity, patience, sync)
    }

    /// Hands every record to the supervisor at the other end of this socket.
    ///
    /// # Errors
    /// [`OpenError::Thread`].
    pub(crate) fn handing_over(socket: std::os::fd::OwnedFd) -> Result<Self, OpenError> {
        let AuditConfig {
            capacity,
            patience,
            sync,
            ..
        } = AuditConfig::new(Target::Stdout);
        let opened = file::Opened::new(Sink::Supervisor(socket));
        Self::start(opened, capacity, patience, sync)
    }

    /// Room for a record of the worker's, which counts its own refusals.
    pub(super) async fn reserve_for_worker(&self) -> Result<Slot, AuditUnavailable> {
        match self.try_reserve() {
            Err(AuditUnavailable::Full { .. }) => self.wait_for_room().await,
            other => other,
        }
    }

    fn start(
        opened: file::Opened,
        capacity: usize,
        patience: Duration,
        sync: SyncPolicy,
    ) -> Result<Self, OpenError> {
        let (ring, drain) = HeapRb::new(capacity).split();
        let status = Arc::new(Status::new(capacity));
        let writer = Writer::new(drain, Arc::clone(&status), opened, sync);
        let thread = std::thread::Builder::new()
            .name("sluice-audit".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok(Self(Arc::new(Inner {
            status,
            queue: Mutex::new(Queue {
                ring,
                pushed: 0,
                closed: false,
            }),
            patience,
            writer: thread.thread().clone(),
            joining: Mutex::new(Some(thread)),
            summary: OnceLock::new(),
        })))
    }

    /// Reserves room for one record; waits for it a bounded time.
    ///
    /// # Errors
    /// [`AuditUnavailable`]: refuse the request. The refusal is counted and, as soon as that is
    /// possible, recorded as a `loss`.
    pub async fn reserve(&self) -> Result<Slot, AuditUnavailable> {
        let reserved = match self.try_reserve() {
            Err(AuditUnavailable::Full { .. }) => self.wait_for_room().await,
            other => other,
        };
        if reserved.is_err() {
            self.count(Cause::Unavailable);
        }
        reserved
    }

    async fn wait_for_room(&self) -> Result<Slot, AuditUnavailable> {
        let waited = self.0.patience;
        let room = Arc::clone(&self.0.status.room).acquire_owned();
        match tokio::time::timeout(waited, room).await {
            Err(_) => Err(AuditUnavailable::Full { waited }),
            Ok(Err(_)) => Err(AuditUnavailable::Closed),
            // The writer may have begun to fail in the meantime.
            Ok(Ok(room)) => self.0.status.check().map(|()| self.slot(room)),
        }
    }

    /// Reserves room for one record without waiting. What becomes of a refusal is up to the
    /// caller: [`Self::offer`] is for those who cannot refuse what they record.
    ///
    /// # Errors
    /// [`AuditUnavailable`]: nothing can be recorded now.
    pub fn try_reserve(&self) -> Result<Slot, AuditUnavailable> {
        let room = match Arc::clone(&self.0.status.room).try_acquire_owned() {
            Ok(room) => room,
            Err(TryAcquireError::Closed) => return Err(AuditUnavailable::Closed),
            Err(TryAcquireError::NoPermits) => {
                self.0.status.check()?;
                let waited = Duration::ZERO;
                return Err(AuditUnavailable::Full { waited });
            }
        };
        self.0.status.check().map(|()| self.slot(room))
    }

    /// Records something that has already happened, such as a refusal in the kernel. Without
    /// room it is counted, and the count recorded as a `loss`. Says whether it was queued.
    pub fn offer(&self, record: Record) -> bool {
        match self.try_reserve() {
            Ok(slot) => {
                slot.write(record);
                true
            }
            Err(_) => {
                self.count(Cause::NoSlot);
                false
            }
        }
    }

    /// Waits, so long at most, until all that was written to slots before is handed to the
    /// operating system. The disk may come later: see [`SyncPolicy`].
    ///
    /// # Errors
    /// [`AuditUnavailable`] when that did not happen in time.
    pub async fn flush(&self, patience: Duration) -> Result<(), AuditUnavailable> {
        let target = self.lock().pushed;
        let waited = patience;
        let mut written = self.0.status.written.subscribe();
        match tokio::time::timeout(waited, written.wait_for(|count| *count >= target)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(AuditUnavailable::Closed),
            Err(_) => {
                self.0.status.check()?;
                Err(AuditUnavailable::Full { waited })
            }
        }
    }

    /// Writes what is queued, forces it to the disk and ends the writer. Blocks the thread. A
    /// slot that is written to afterwards is lost, which is logged: let the producers end first.
    pub fn close(&self) -> Summary {
        self.0.close()
    }

    /// How many records are written.
    #[cfg(test)]
    pub(super) fn written(&self) -> u64 {
        *self.0.status.written.borrow()
    }

    fn slot(&self, room: OwnedSemaphorePermit) -> Slot {
        Slot {
            audit: self.clone(),
            room,
        }
    }

    fn count(&self, cause: Cause) {
        self.0.status.losses.count(cause, 1);
        self.0.writer.unpark();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock()
    }
}

impl Slot {
    /// Queues the record. Never waits for the disk and never fails: the room is reserved.
    pub fn write(self, mut record: Record) {
        record.bound();
        let mut queue = self.audit.lock();
        if queue.closed || queue.ring.try_push(record).is_err() {
            drop(queue);
            // There is room by construction: the caller closed too early.
            self.audit.count(Cause::NoSlot);
            tracing::error!("audit: a record came after the log was closed and is lost");
            return;
        }
        queue.pushed += 1;
        drop(queue);
        // The writer gives the room back once the line is written.
        self.room.forget();
        self.audit.0.writer.unpark();
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here leaves the queue half changed when it panics.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Summary {
        // Held until the writer has ended, so that a second caller gets the same answer.
        let mut joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = joining.take() {
            self.lock().closed = true;
            self.status.close();
            self.writer.unpark();
            let summary = thread.join().unwrap_or_else(|_| {
                tracing::error!("audit: the writer thread panicked");
                self.status.summary()
            });
            return *self.summary.get_or_init(|| summary);
        }
        self.summary.get().copied().unwrap_or_default()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let summary = self.close();
        if summary.lost > 0 {
            tracing::error!(lost = summary.lost, "audit: records were lost");
        }
    }
}
