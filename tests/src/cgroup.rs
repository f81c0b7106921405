//! Where cgroups are, looked up and never assumed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::deadline::wait_for;

/// A cgroup of the test's own. Dropped, it ends with everybody inside.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// Makes one of a name that nobody else has, at the top of the hierarchy.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        let name = format!("sluice-test-{}", crate::agent::random()?);
        Self::at(mount_point()?.join(name))
    }

    /// Makes one below it.
    ///
    /// # Errors
    /// If it cannot be made, or is there.
    pub fn below(&self, name: &str) -> Result<Self> {
        Self::at(self.0.join(name))
    }

    /// Makes this one.
    ///
    /// # Errors
    /// If it cannot be made, or is there.
    pub fn at(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    /// Ends everybody inside, removes it, and makes another with the same path.
    ///
    /// # Errors
    /// If somebody inside does not end.
    pub fn remake(&self) -> Result<()> {
        kill(&self.0);
        wait_for("the test's cgroup to be empty", || {
            Ok(fs::remove_dir(&self.0).ok())
        })?;
        fs::create_dir(&self.0).with_context(|| format!("making {}", self.0.display()))
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.0.exists() {
            return;
        }
        kill(&self.0);
        let removed = wait_for("the test's cgroup to be empty", || {
            Ok(fs::remove_dir(&self.0).ok())
        });
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

/// Where the cgroup2 hierarchy is mounted.
///
/// # Errors
/// If it is nowhere.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let kind = after.split(' ').next()?;
            (kind == "cgroup2").then(|| before.split(' ').nth(4))?
        })
        .map(PathBuf::from)
        .context("no cgroup2 hierarchy is mounted")
}

/// The cgroup2 path of this process, as `/proc` has it.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn own() -> Result<String> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .context("this process is in no cgroup2 hierarchy")
}

/// Kills all processes in and below a cgroup; one that is gone already is fine.
pub fn kill(cgroup: &Path) {
    // The only error that matters is a cgroup that is not there any more.
    drop(fs::write(cgroup.join("cgroup.kill"), "1"));
}

/// Whether no process lives in or below it.
///
/// # Errors
/// If it cannot be read for another reason than being gone.
pub fn is_empty(cgroup: &Path) -> Result<bool> {
    match fs::read_to_string(cgroup.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 0")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).context("reading cgroup.events"),
    }
}

/// Whether a gateway's worker lives in this cgroup; others of Sluice's processes may.
///
/// # Errors
/// If it cannot be read for another reason than being gone.
pub fn has_worker(cgroup: &Path) -> Result<bool> {
    // Threads: a process is off the list of processes before the last of them lets go of what it
    // holds.
    let members = match fs::read_to_string(cgroup.join("cgroup.threads")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        members => members.context("reading cgroup.threads")?,
    };
    let mut threads = members.lines().filter_map(|line| line.parse().ok());
    Ok(threads.any(is_worker))
}

/// Whether this process or thread is a gateway's worker, or one that is about to end, which has no
/// words any more and may still have its listeners. One that has ended is none.
#[must_use]
pub fn is_worker(pid: u32) -> bool {
    let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    words.is_empty() || words.split(|byte| *byte == 0).any(|word| word == b"worker")
}

/// The processes in a cgroup: the number that each knows itself by, and the one that it has out
/// here.
///
/// # Errors
/// If the cgroup is gone.
pub fn processes(cgroup: &Path) -> Result<BTreeMap<u32, u32>> {
    let members = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let inside = |outside: u32| {
        // One that has ended in between has no number any more.
        let status = fs::read_to_string(format!("/proc/{outside}/status")).ok()?;
        let numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        numbers.split_whitespace().last()?.parse().ok()
    };
    let mut processes = BTreeMap::new();
    for line in members.lines() {
        let outside = line.parse()?;
        processes.extend(inside(outside).map(|inside: u32| (inside, outside)));
    }
    Ok(processes)
}
