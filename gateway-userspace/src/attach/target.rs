//! From what an operator names, a process, a unit, a container, to a cgroup that may be confined.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    kernel::cgroup::{self, CgroupError},
    netns,
};

/// Cgroups that a search looks at, at most.
const SEARCHED_MAX: usize = 100_000;

/// Shortest part of a container's id that names it.
const CONTAINER_ID_MIN: usize = 8;

/// What an operator names. Exactly one of them.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    /// The cgroup of this process: everything in it is confined.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// The cgroup of this systemd unit.
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// The cgroup of the container with this id (Docker, Podman, containerd, CRI-O).
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// This cgroup, below the cgroup2 mount.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
}

/// Why there is nothing to confine.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No cgroup2, or it cannot be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No such process.
    #[error("there is no process {0}")]
    NoProcess(u32),
    /// Nothing is called so.
    #[error("no cgroup belongs to {what} `{name}`; `systemd-cgls` shows those that there are")]
    NotFound {
        /// Unit or container.
        what: &'static str,
        /// As it was named.
        name: String,
    },
    /// More than one is called so.
    #[error("{what} `{name}` may be {first} or {second}; name one of them with --cgroup")]
    Ambiguous {
        /// Unit or container.
        what: &'static str,
        /// As it was named.
        name: String,
        /// One.
        first: String,
        /// Another.
        second: String,
    },
    /// Too short to name one container.
    #[error("`{0}` is no container id of at least {CONTAINER_ID_MIN} hexadecimal digits")]
    NotAnId(String),
    /// It is outside the hierarchy.
    #[error("{} is no cgroup below {}", path.display(), mount.display())]
    Outside {
        /// What was named.
        path: PathBuf,
        /// Where cgroups are.
        mount: PathBuf,
    },
    /// It would confine too much.
    #[error(
        "{} holds {what}; confine a cgroup of the agent's own (`systemd-run --scope`, a unit, a \
         container)",
        path.display()
    )]
    TooWide {
        /// The cgroup.
        path: PathBuf,
        /// What must stay free.
        what: &'static str,
    },
}

impl Target {
    /// The cgroup that is meant, if it may be confined: neither the root of the hierarchy, nor
    /// one that holds the first process of this host or this process.
    ///
    /// # Errors
    /// [`TargetError`] says which cgroup cannot be found or confined, and what to do.
    pub fn resolve(&self) -> Result<PathBuf, TargetError> {
        let mount = cgroup::mount_point()?;
        let path = self.find(&mount)?;
        let path = fs::canonicalize(&path).unwrap_or(path);
        let outside = || TargetError::Outside {
            path: path.clone(),
            mount: mount.clone(),
        };
        let within = path.strip_prefix(&mount).map_err(|_| outside())?;
        if !path.join("cgroup.procs").is_file() {
            return Err(outside());
        }
        let too_wide = |what| TargetError::TooWide {
            path: path.clone(),
            what,
        };
        if within.as_os_str().is_empty() {
            return Err(too_wide("every process of this host"));
        }
        if cgroup::current()?.starts_with(&path) {
            return Err(too_wide("this very process"));
        }
        let first = cgroup::of_process("1")?.unwrap_or_default();
        if mount.join(first.trim_start_matches('/')).starts_with(&path) {
            return Err(too_wide("the first process of this host"));
        }
        if within.starts_with("sluice") {
            return Err(too_wide("an agent that `sluice run` has confined"));
        }
        Ok(path)
    }

    fn find(&self, mount: &Path) -> Result<PathBuf, TargetError> {
        if let Some(pid) = self.pid {
            let path = cgroup::of_process(&pid.to_string())?.ok_or(TargetError::NoProcess(pid))?;
            return Ok(mount.join(path.trim_start_matches('/')));
        }
        if let Some(unit) = &self.unit {
            let unit = if unit.contains('.') {
                unit.clone()
            } else {
                format!("{unit}.service")
            };
            return search(mount, "unit", &unit, |name| name == unit);
        }
        if let Some(id) = &self.container {
            let digits = id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if id.len() < CONTAINER_ID_MIN || !digits {
                return Err(TargetError::NotAnId(id.clone()));
            }
            return search(mount, "container", id, |name| names_container(name, id));
        }
        let path = self.cgroup.clone().unwrap_or_default();
        Ok(if path.starts_with(mount) {
            path
        } else {
            mount.join(path.strip_prefix("/").unwrap_or(&path))
        })
    }
}

/// Whether a cgroup's name is that of the container: its id alone, or with what Docker, Podman,
/// containerd and CRI-O put around it.
fn names_container(name: &str, id: &str) -> bool {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let of_container = ["docker-", "libpod-", "cri-containerd-", "crio-", ""]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    of_container.len() == 64
        && of_container.bytes().all(|byte| byte.is_ascii_hexdigit())
        && of_container.starts_with(&id.to_ascii_lowercase())
}

/// Finds the one cgroup with such a name.
fn search(
    mount: &Path,
    what: &'static str,
    wanted: &str,
    is_it: impl Fn(&str) -> bool,
) -> Result<PathBuf, TargetError> {
    let mut found: Option<PathBuf> = None;
    let mut left = vec![mount.to_owned()];
    let mut searched = 0;
    while let Some(folder) = left.pop() {
        searched += 1;
        if searched > SEARCHED_MAX {
            break;
        }
        // A cgroup may be removed meanwhile.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if !entry.file_name().to_str().is_some_and(&is_it) {
                left.push(path);
            } else if let Some(first) = &found {
                return Err(TargetError::Ambiguous {
                    what,
                    name: wanted.to_owned(),
                    first: first.display().to_string(),
                    second: path.display().to_string(),
                });
            } else {
                found = Some(path);
            }
        }
    }
    found.ok_or_else(|| TargetError::NotFound {
        what,
        name: wanted.to_owned(),
    })
}

/// Whether any process is in the cgroup or below it.
///
/// # Errors
/// If it cannot be read.
pub fn is_populated(path: &Path) -> std::io::Result<bool> {
    netns::processes(path).map(|processes| !processes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_cgroups() {
        let id = "3f4e5a6b7c8d9e0f".repeat(4);
        for name in [
            id.clone(),
            format!("docker-{id}.scope"),
            format!("libpod-{id}.scope"),
            format!("cri-containerd-{id}.scope"),
            format!("crio-{id}.scope"),
        ] {
            assert!(names_container(&name, "3f4e5a6b7c8d"), "{name}");
            assert!(names_container(&name, &id), "{name}");
            assert!(names_container(&name, &id.to_uppercase()), "{name}");
            assert!(!names_container(&name, "4f4e5a6b7c8d"), "{name}");
        }
        assert!(
            !names_container("3f4e5a6b7c8d", "3f4e5a6b7c8d"),
            "too short"
        );
        let other = format!("libpod-conmon-{id}.scope");
        assert!(!names_container(&other, &id), "the monitor is no container");
    }

    #[test]
    fn the_root_and_the_own_cgroup_are_not_confined() {
        let target = |cgroup: PathBuf| Target {
            pid: None,
            unit: None,
            container: None,
            cgroup: Some(cgroup),
        };
        let Ok(mount) = cgroup::mount_point() else {
            return;
        };
        let wide = target(mount).resolve();
        assert!(matches!(wide, Err(TargetError::TooWide { .. })), "{wide:?}");
        let own = target(cgroup::current().expect("a cgroup")).resolve();
        assert!(matches!(own, Err(TargetError::TooWide { .. })), "{own:?}");
        let none = target(PathBuf::from("/no/such")).resolve();
        assert!(matches!(none, Err(TargetError::Outside { .. })), "{none:?}");
    }
}
