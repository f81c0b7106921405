//! Where records go and how much may wait.

use std::{path::PathBuf, time::Duration};

use super::MemoryLog;

/// Most records that may wait for the writer; bounds the memory of the queue.
pub const MAX_CAPACITY: usize = 65_536;

/// How an audit stream is opened.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// Where the lines go.
    pub target: Target,
    /// Records that may be reserved, queued or under way at once: 1 to [`MAX_CAPACITY`].
    /// Default 4,096.
    pub capacity: usize,
    /// How long [`Audit::reserve`](super::Audit::reserve) waits for room before the request is
    /// refused. Default one second.
    pub patience: Duration,
    /// When lines are forced to the disk.
    pub sync: SyncPolicy,
}

/// Where the lines go.
#[derive(Clone, Debug)]
pub enum Target {
    /// Appended to this file, which is made (mode 0600, missing folders 0700) if it is not
    /// there.
    File(PathBuf),
    /// Standard output of this process. Every start begins a new chain.
    Stdout,
    /// Kept in memory, up to the log's bound.
    Memory(MemoryLog),
}

/// When lines are forced to the disk with `fdatasync`. At close they always are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncPolicy {
    /// After every group of records.
    EachBatch,
    /// At most this long after a line was written.
    Within(Duration),
}

impl AuditConfig {
    /// The defaults for this target.
    #[must_use]
    pub const fn new(target: Target) -> Self {
        Self {
            target,
            capacity: 4096,
            patience: Duration::from_secs(1),
            sync: SyncPolicy::Within(Duration::from_secs(1)),
        }
    }

    /// Appends to this file; `-` is standard output, as on the command line.
    #[must_use]
    pub fn path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self::new(if path.as_os_str() == "-" {
            Target::Stdout
        } else {
            Target::File(path)
        })
    }

    /// Keeps the lines in this log.
    #[must_use]
    pub fn memory(log: &MemoryLog) -> Self {
        Self::new(Target::Memory(log.clone()))
    }
}
