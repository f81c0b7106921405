//! One start at a time: from the sweep of what killed runs left to the moment in which a new one
//! counts as alive, since a process of it is in its cgroup.
//!
//! In between a run that starts looks like one that was killed. The lock is one on the folder of
//! all scratch folders, which only root can open; it ends with its holder.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::sessions::SCRATCH;

/// How long others may take to start. Each takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often it is tried.
const GLANCE: Duration = Duration::from_millis(5);

/// Why nothing can start.
#[derive(Debug, thiserror::Error)]
pub enum StartingError {
    /// The folder cannot be made or opened.
    #[error("locking {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody holds the lock and does not go on.
    #[error(
        "another `sluice` has been starting for {PATIENCE:?}; is it stopped? `fuser -v {}` names it",
        path.display()
    )]
    Busy {
        /// The folder.
        path: PathBuf,
    },
}

/// While it lasts no other run, attachment or check starts, and nobody sweeps.
#[derive(Debug)]
pub struct Starting {
    /// Closed, the lock is released.
    _lock: File,
}

impl Starting {
    /// Waits until nobody else starts.
    ///
    /// # Errors
    /// [`StartingError`], upon which nothing must be started.
    pub fn begin() -> Result<Self, StartingError> {
        Self::at(Path::new(SCRATCH), PATIENCE)
    }

    fn at(path: &Path, patience: Duration) -> Result<Self, StartingError> {
        let failed = |source| StartingError::Io {
            path: path.to_owned(),
            source,
        };
        // Agents pass through it, and cannot open it.
        fs::DirBuilder::new()
            .mode(0o711)
            .recursive(true)
            .create(path)
            .map_err(failed)?;
        let lock = File::open(path).map_err(failed)?;
        let deadline = Instant::now() + patience;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(GLANCE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StartingError::Busy {
                        path: path.to_owned(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_waits_and_gives_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sluice");
        let first = Starting::at(&path, PATIENCE).expect("the first");
        let second = Starting::at(&path, Duration::ZERO);
        assert!(
            matches!(second, Err(StartingError::Busy { .. })),
            "{second:?}"
        );
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Starting::at(&path, PATIENCE));
            drop(first);
            waiting.join().expect("no panic").expect("the second");
        });
    }
}
