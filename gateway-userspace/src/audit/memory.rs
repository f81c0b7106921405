//! A bounded log in memory, in the place of a file.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Audit lines in memory, up to a number of bytes; when it is full, it fails as a full disk
/// does until it is [taken](Self::take).
#[derive(Clone, Debug)]
pub struct MemoryLog {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl MemoryLog {
    /// An empty log with room for so many bytes.
    #[must_use]
    pub fn with_room(limit: usize) -> Self {
        Self {
            bytes: Arc::default(),
            limit,
        }
    }

    /// What was written so far. The last line may be unfinished while the log is full.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock()).into_owned()
    }

    /// Takes everything out and so makes room.
    #[must_use]
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.lock());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// As `write(2)` on a disk that runs full: as much as fits, then `ENOSPC`.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.lock();
        let room = self.limit.saturating_sub(kept.len()).min(bytes.len());
        if room == 0 {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
        Ok(room)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // A poisoned log is still a log: bytes are only ever appended whole.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
