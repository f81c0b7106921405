//! The BPF file system: where links are pinned so that they outlive this process.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use gateway_common::ABI_VERSION;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{
    abi,
    cgroup::{self, Cgroup, CgroupError},
};
use crate::starting::Starting;

/// Where it is mounted on every distribution that mounts it.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Why pins could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// It is not mounted and could not be.
    #[error(
        "mounting the BPF file system on {MOUNT_POINT}; by hand: mount -t bpf bpf {MOUNT_POINT}"
    )]
    Mount(#[source] nix::Error),
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
    /// A cgroup of an earlier run could not be looked at.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpffsError {
    let path = path.to_owned();
    move |source| BpffsError::Io {
        action,
        path,
        source,
    }
}

/// The folder of all pins of this ABI version, mode 0700. Mounts the file system if need be.
///
/// # Errors
/// [`BpffsError`] says what could not be done, and how to do it by hand.
pub fn root() -> Result<PathBuf, BpffsError> {
    let mounted = statfs(MOUNT_POINT).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if !mounted {
        mount(
            Some("bpf"),
            MOUNT_POINT,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(BpffsError::Mount)?;
        tracing::info!("mounted the BPF file system on {MOUNT_POINT}");
    }
    let top = Path::new(MOUNT_POINT).join("sluice");
    let root = top.join(format!("v{ABI_VERSION}"));
    for folder in [&top, &root] {
        private_folder(folder)?;
    }
    Ok(root)
}

/// Makes a folder with mode 0700, or makes sure that the one there is so.
fn private_folder(path: &Path) -> Result<(), BpffsError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))
                .map_err(io_error("restricting", path))
        }
        result => result.map_err(io_error("creating", path)),
    }
}

/// The pins of one run, in a folder of its own.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Makes the folder of a run.
    ///
    /// # Errors
    /// If it cannot be made, or is there already.
    pub fn create(root: &Path, run: &str) -> Result<Self, BpffsError> {
        let folder = root.join(run);
        for path in [folder.clone(), folder.join("links"), folder.join("maps")] {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(io_error("creating", &path))?;
        }
        Ok(Self { folder })
    }

    /// The pins of a run that is there already, or was.
    #[must_use]
    pub fn adopt(root: &Path, run: &str) -> Self {
        Self {
            folder: root.join(run),
        }
    }

    /// Their folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the link of this program is pinned.
    #[must_use]
    pub fn link(&self, program: &str) -> PathBuf {
        self.folder.join("links").join(program)
    }

    /// Where this map is pinned.
    #[must_use]
    pub fn map(&self, map: &str) -> PathBuf {
        self.folder.join("maps").join(map)
    }

    /// Pins these maps of another's here as well; those that it does not have are left out.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn share(&self, other: &Self, maps: &[&str]) -> Result<(), BpffsError> {
        for map in maps {
            let (theirs, ours) = (other.map(map), self.map(map));
            if theirs.exists() {
                abi::open_pinned(&theirs)
                    .and_then(|map| abi::pin(&map, &ours))
                    .map_err(io_error("pinning", &ours))?;
            }
        }
        Ok(())
    }

    /// Moves the links of another's here that are not here as well.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn gather(&self, other: &Self) -> Result<(), BpffsError> {
        let links = other.folder.join("links");
        let theirs = match fs::read_dir(&links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            theirs => theirs.map_err(io_error("reading", &links))?,
        };
        for theirs in theirs {
            let theirs = theirs.map_err(io_error("reading", &links))?;
            let ours = self.folder.join("links").join(theirs.file_name());
            if !ours.exists() {
                fs::rename(theirs.path(), &ours).map_err(io_error("moving", &theirs.path()))?;
            }
        }
        Ok(())
    }

    /// The id of the cgroup that this program is attached to; none if it is not, or if the cgroup
    /// is gone with all its sockets.
    #[must_use]
    pub fn cgroup_of(&self, program: &str) -> Option<u64> {
        let link = abi::open_pinned(&self.link(program)).ok()?;
        abi::ends_of_link(link)
            .ok()
            .map(|ends| ends.cgroup)
            .filter(|id| *id != 0)
    }

    /// Removes every pin. What nobody else holds is detached by that.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn remove(&self) -> Result<(), BpffsError> {
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(io_error("removing", &self.folder)),
        }
    }
}

/// Clears away what earlier runs left whose gateway was killed: pins and cgroups of runs in
/// whose agent cgroup no process lives any more, and cgroups that nothing is pinned to. Runs that
/// still have a process stay shut in. One that is starting has none yet, which is why nobody may.
///
/// # Errors
/// If the folder of pins or a cgroup cannot be read.
pub fn sweep(root: &Path, runs: &Path, _nobody_starts: &Starting) -> Result<(), BpffsError> {
    let entries = fs::read_dir(root).map_err(io_error("reading", root))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let cgroup = runs.join(&name);
        let attached = name.to_str().is_some_and(|name| name.starts_with(ATTACHED));
        if attached {
            sweep_attached(&entry.path(), &cgroup)?;
            continue;
        }
        let gone = match Cgroup::adopt(cgroup.clone()).is_empty() {
            Ok(empty) => empty,
            // No cgroup: nothing can be confined by these pins.
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error.into()),
        };
        if gone {
            tracing::info!(run = %name.display(), "clearing away a run that left nothing alive");
            Pins {
                folder: entry.path(),
            }
            .remove()?;
            clear_away(cgroup);
        }
    }
    sweep_cgroups(root, runs);
    Ok(())
}

/// Clears away what an attachment left whose agent's cgroup is gone. While that is there the
/// agent stays shut in, whether or not anybody serves it.
fn sweep_attached(folder: &Path, cgroup: &Path) -> Result<(), BpffsError> {
    let links = folder.join("links");
    let mut pinned = fs::read_dir(&links).into_iter().flatten().flatten();
    // Links that cannot be asked count as alive, and so does the gateway's own, which goes to
    // another cgroup.
    let alive = pinned.any(|link| {
        link.file_name() != "gateway_ops"
            && abi::open_pinned(&link.path())
                .and_then(abi::ends_of_link)
                .map_or(true, |ends| ends.cgroup != 0)
    });
    let served = !Cgroup::adopt(cgroup.to_owned()).is_empty().unwrap_or(true);
    if alive || served {
        return Ok(());
    }
    tracing::info!(folder = %folder.display(), "clearing away an attachment to no cgroup");
    Pins {
        folder: folder.to_owned(),
    }
    .remove()?;
    clear_away(cgroup.to_owned());
    Ok(())
}

/// Clears away cgroups that nobody is in and nothing is pinned to: of runs that were killed before
/// they had pins, or while they ended.
fn sweep_cgroups(root: &Path, runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name
            .to_str()
            .is_some_and(|name| OURS.iter().any(|ours| name.starts_with(ours)));
        let empty = || Cgroup::adopt(entry.path()).is_empty().unwrap_or(false);
        if ours && !has_pins(root, &name) && empty() {
            tracing::info!(run = %name.display(), "clearing away the cgroups of a run without pins");
            clear_away(entry.path());
        }
    }
}

/// Whether a run of this name has pins, of this ABI version or another. What cannot be read counts.
fn has_pins(root: &Path, run: &OsStr) -> bool {
    let versions = root.parent().map(fs::read_dir);
    let Some(Ok(versions)) = versions else {
        return true;
    };
    versions.flatten().any(|version| {
        fs::symlink_metadata(version.path().join(run))
            .map_or_else(|error| error.kind() != io::ErrorKind::NotFound, |_| true)
    })
}

/// Whether links of a run of this name are pinned, by this ABI version or another. What cannot be
/// read counts.
#[must_use]
pub fn holds_links(run: &str) -> bool {
    let there = |found: io::Result<fs::ReadDir>| match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found),
    };
    match there(fs::read_dir(Path::new(MOUNT_POINT).join("sluice"))) {
        None => false,
        Some(Err(_)) => true,
        Some(Ok(versions)) => versions.flatten().any(|version| {
            match there(fs::read_dir(version.path().join(run).join("links"))) {
                None => false,
                Some(Err(_)) => true,
                Some(Ok(mut links)) => links.next().is_some(),
            }
        }),
    }
}

/// Removes the cgroups of a run that is over. What is left is in nobody's way.
fn clear_away(cgroup: PathBuf) {
    if let Err(error) = Cgroup::adopt(cgroup).remove_all() {
        tracing::warn!(%error, "a later run will try again");
    }
}

/// What the names of runs, attachments and checks begin with.
const OURS: [&str; 3] = ["run-", ATTACHED, "doctor-"];

/// What the names of attachments begin with.
pub const ATTACHED: &str = "attach-";

/// The cgroup under which each run has its own: `<cgroup2>/sluice`.
///
/// # Errors
/// If no cgroup2 hierarchy is mounted.
pub fn runs_cgroup() -> Result<PathBuf, CgroupError> {
    Ok(cgroup::mount_point()?.join("sluice"))
}
