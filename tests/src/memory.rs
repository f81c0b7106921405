//! Takes memory away from processes, whichever version of the kernel's memory controller there is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{agent::random, cgroup, deadline::wait_for, skip::because};

/// A bound on the memory of some processes. Dropped, it is lifted.
#[derive(Debug)]
pub struct Bound {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    /// A hierarchy of its own, with a group of the test's.
    One,
    /// The hierarchy that Sluice uses, with the group that the processes are in.
    Two,
}

impl Bound {
    /// Finds the controller, for the processes of this cgroup; none with a word about it.
    ///
    /// # Errors
    /// If it is there and cannot be used.
    pub fn find(group: &Path) -> Result<Option<Self>> {
        let top = cgroup::mount_point()?;
        if has_controller(&top)? {
            let below = group.strip_prefix(&top)?;
            let mut folder = top;
            for part in below {
                fs::write(folder.join("cgroup.subtree_control"), "+memory")
                    .with_context(|| format!("giving memory to {}", folder.display()))?;
                folder.push(part);
            }
            let version = Version::Two;
            return Ok(Some(Self { folder, version }));
        }
        let Some(top) = first_version()? else {
            because("no hierarchy of cgroups has the memory controller enabled");
            return Ok(None);
        };
        let folder = top.join(format!("sluice-test-{}", random()?));
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let version = Version::One;
        Ok(Some(Self { folder, version }))
    }

    /// From here on this process gets no further memory, and if the kernel has to end one of the
    /// cgroup's, it is this one.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn none_left(&self, process: u32) -> Result<()> {
        match self.version {
            Version::One => {
                self.write("memory.limit_in_bytes", "0")?;
                self.write("cgroup.procs", &process.to_string())
            }
            Version::Two => {
                for other in cgroup::processes(&self.folder)?.into_values() {
                    let score = if other == process { "1000" } else { "-1000" };
                    fs::write(format!("/proc/{other}/oom_score_adj"), score)
                        .context("saying whom to end")?;
                }
                self.write("memory.max", "0")
            }
        }
    }

    /// How many processes the kernel has killed for want of memory.
    ///
    /// # Errors
    /// If it does not say.
    pub fn killed(&self) -> Result<u64> {
        let name = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let events = fs::read_to_string(self.folder.join(name))?;
        let killed = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        Ok(killed.context("no count of the killed")?.parse()?)
    }

    /// There is memory again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn lift(&self) -> Result<()> {
        match self.version {
            Version::One => self.write("memory.limit_in_bytes", "-1"),
            Version::Two => self.write("memory.max", "max"),
        }
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        fs::write(self.folder.join(name), value).with_context(|| format!("{value} to {name}"))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // The cgroup of the second version is its owner's, who removes it.
        drop(self.lift());
        if self.version == Version::One {
            let removed = wait_for("the test's group to be empty", || {
                Ok(fs::remove_dir(&self.folder).ok())
            });
            if let Err(error) = removed {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Whether groups below this one may have the controller.
fn has_controller(top: &Path) -> Result<bool> {
    let enabled = fs::read_to_string(top.join("cgroup.subtree_control"))?;
    Ok(enabled.split_whitespace().any(|name| name == "memory"))
}

/// Where the controller's own hierarchy is mounted.
fn first_version() -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let of_it = after.next() == Some("cgroup")
            && after.nth(1)?.split(',').any(|option| option == "memory");
        of_it.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    }))
}
