//! Cgroups: finds the cgroup2 hierarchy, makes and removes the ones that Sluice owns.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Longest that a process which has ended may still be on its processor.
const OFF_PROCESSOR: Duration = Duration::from_secs(1);
/// How often something is looked at that nothing announces.
const GLANCE: Duration = Duration::from_millis(1);

/// Why a cgroup could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 hierarchy is mounted.
    #[error("no cgroup2 hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")]
    NotMounted,
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Processes are still in a cgroup that was to be removed.
    #[error("{} still has processes after they were killed", path.display())]
    Busy {
        /// The cgroup.
        path: PathBuf,
    },
}

impl CgroupError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Where the cgroup2 hierarchy is mounted.
///
/// It is looked up, never assumed: hosts with version 1 hierarchies have it elsewhere.
///
/// # Errors
/// [`CgroupError::NotMounted`] if it is nowhere.
pub fn mount_point() -> Result<PathBuf, CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read_to_string(path).map_err(CgroupError::io("reading", path))?;
    mounts
        .lines()
        .find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            (after.split(' ').next()? == "cgroup2")
                .then(|| before.split(' ').nth(4))
                .flatten()
        })
        .map(|point| PathBuf::from(unescape(point)))
        .ok_or(CgroupError::NotMounted)
}

/// Undoes mountinfo's octal escapes for space, tab, newline and backslash.
pub(crate) fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A cgroup that Sluice made and will remove.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup, and its parents where missing.
    ///
    /// # Errors
    /// If it cannot be made, or is there already: an existing one may hold anybody's processes.
    pub fn create(path: PathBuf) -> Result<Self, CgroupError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(CgroupError::io("creating cgroup", parent))?;
        }
        fs::create_dir(&path).map_err(CgroupError::io("creating cgroup", &path))?;
        Ok(Self { path })
    }

    /// A cgroup that is there already, to be cleaned up.
    #[must_use]
    pub const fn adopt(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id: what `bpf_get_current_cgroup_id` answers.
    ///
    /// # Errors
    /// If the folder is gone.
    pub fn id(&self) -> Result<u64, CgroupError> {
        fs::metadata(&self.path)
            .map(|metadata| metadata.ino())
            .map_err(CgroupError::io("reading", &self.path))
    }

    /// How deep it lies; the root of the hierarchy is 0.
    ///
    /// # Errors
    /// If no hierarchy is mounted.
    pub fn level(&self) -> Result<u32, CgroupError> {
        let mount = mount_point()?;
        let within = self.path.strip_prefix(&mount).unwrap_or(&self.path);
        Ok(u32::try_from(within.components().count()).unwrap_or(u32::MAX))
    }

    /// Its path within the hierarchy, as `/proc/PID/cgroup` tells it.
    ///
    /// # Errors
    /// If no hierarchy is mounted.
    pub fn within(&self) -> Result<String, CgroupError> {
        let mount = mount_point()?;
        let within = self.path.strip_prefix(&mount).unwrap_or(&self.path);
        Ok(Path::new("/").join(within).display().to_string())
    }

    /// Opens the folder, to attach programs to it.
    ///
    /// # Errors
    /// If the folder is gone.
    pub fn open(&self) -> Result<fs::File, CgroupError> {
        fs::File::open(&self.path).map_err(CgroupError::io("opening", &self.path))
    }

    /// The processes in it and below it.
    ///
    /// # Errors
    /// If the folder is gone.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let mut found = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let path = folder.join("cgroup.procs");
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                // Removed since it was listed, or of threads only, which their process stands for.
                Err(_) if folder != self.path => continue,
                Err(error) => return Err(CgroupError::io("reading", &path)(error)),
            };
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            let children = fs::read_dir(&folder).map_err(CgroupError::io("reading", &folder))?;
            let children = children.flatten().map(|child| child.path());
            folders.extend(children.filter(|child| child.is_dir()));
        }
        found.retain(|pid| *pid != 0);
        Ok(found)
    }

    /// Moves this whole process into the cgroup.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter(&self) -> Result<(), CgroupError> {
        enter(&self.path)
    }

    /// Whether no process is in it or below it.
    ///
    /// # Errors
    /// If its events cannot be read.
    pub fn is_empty(&self) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        let events = fs::read_to_string(&path).map_err(CgroupError::io("reading", &path))?;
        Ok(events.lines().any(|line| line == "populated 0"))
    }

    /// Kills every process in it and below it, and waits until they are gone.
    ///
    /// Needs `cgroup.kill` (kernel ≥ 5.14).
    ///
    /// # Errors
    /// [`CgroupError::Busy`] if some are left after `patience`.
    pub fn kill(&self, patience: Duration) -> Result<(), CgroupError> {
        if self.is_empty()? {
            return Ok(());
        }
        let path = self.path.join("cgroup.kill");
        fs::write(&path, "1").map_err(CgroupError::io("writing", &path))?;
        let deadline = Instant::now() + patience;
        while !self.is_empty()? {
            if Instant::now() >= deadline {
                return Err(CgroupError::Busy {
                    path: self.path.clone(),
                });
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Removes the cgroup with those below it, which its processes may have made. No process may be
    /// in any.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_all(&self) -> Result<(), CgroupError> {
        for child in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                Self::adopt(child.path()).remove_all()?;
            }
        }
        self.remove()
    }

    /// Removes the cgroup. No process may be in it; for one that has ended, which kernels from
    /// 6.19 on count until it is off its processor, this waits for at most [`OFF_PROCESSOR`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + OFF_PROCESSOR;
        loop {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
                {
                    thread::sleep(GLANCE);
                }
                result => return result.map_err(CgroupError::io("removing cgroup", &self.path)),
            }
        }
    }
}

/// Moves this whole process into the cgroup at `path`.
///
/// # Errors
/// If the kernel refuses.
pub fn enter(path: &Path) -> Result<(), CgroupError> {
    let procs = path.join("cgroup.procs");
    fs::write(&procs, "0").map_err(CgroupError::io("joining", &procs))
}

/// The cgroup2 folder that this process is in.
///
/// # Errors
/// If no hierarchy is mounted.
pub fn current() -> Result<PathBuf, CgroupError> {
    of_process("self")
        .map(|path| path.unwrap_or_default())
        .and_then(|path| mount_point().map(|mount| mount.join(path.trim_start_matches('/'))))
}

/// The cgroup2 path of a process within the hierarchy, starting with `/`; none if it is gone.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn of_process(pid: &str) -> Result<Option<String>, CgroupError> {
    let path = Path::new("/proc").join(pid).join("cgroup");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(str::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CgroupError::io("reading", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
