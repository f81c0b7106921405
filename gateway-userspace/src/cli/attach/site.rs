//! Where one attachment has what is its own: the gateway's cgroup, its pins, its scratch folder.
//! The agent's cgroup is somebody else's.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    kernel::{
        bpffs::{self, Pins},
        cgroup::{self, Cgroup},
    },
    sessions::SCRATCH,
    starting::Starting,
};

/// The places of one attachment.
#[derive(Debug)]
pub(super) struct Site {
    /// Its name: pins and cgroups carry it.
    pub(super) run: String,
    /// Where this process lives while it is the gateway.
    pub(super) gateway: Cgroup,
    home: PathBuf,
    parent: Cgroup,
    scratch: PathBuf,
}

impl Site {
    /// Makes the places and moves this process into the gateway's.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        let home = cgroup::current()?;
        let id = uuid::Uuid::now_v7().simple().to_string();
        let run = format!("{}{id}", bpffs::ATTACHED);
        let starting = Starting::begin()?;
        let parent = Cgroup::create(bpffs::runs_cgroup()?.join(&run))?;
        let gateway = Cgroup::create(parent.path().join("gateway"))?;
        gateway.enter()?;
        // From here on it counts as alive, and no run clears it away.
        drop(starting);
        let scratch = Path::new(SCRATCH).join(&run);
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&scratch)
            .with_context(|| format!("making {}", scratch.display()))?;
        Ok(Self {
            run,
            gateway,
            home,
            parent,
            scratch,
        })
    }

    /// Makes the folder of its pins.
    pub(super) fn pins(&self) -> anyhow::Result<Pins> {
        Ok(Pins::create(&bpffs::root()?, &self.run)?)
    }

    /// A folder of its own, for root alone.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// This process goes back where it came from. What the agent needs to stay shut in stays.
    pub(super) fn leave(&self) {
        if let Err(error) = cgroup::enter(&self.home) {
            tracing::warn!(%error, "leaving the gateway's cgroup");
        }
    }

    /// Whether links are pinned here, by which the agent is shut in.
    pub(super) fn holds(&self) -> anyhow::Result<bool> {
        Ok(Pins::adopt(&bpffs::root()?, &self.run).folder().exists())
    }

    /// Removes the places, which nobody needs any more.
    pub(super) fn clear(&self) {
        self.leave();
        remove(&self.parent, &self.scratch);
    }

    /// The same but for the session's file, which tells that its agent is not held any more.
    pub(super) fn clear_but_for_word(&self) {
        self.leave();
        remove_cgroups(&self.parent);
    }
}

/// Removes the cgroups and the scratch folder of an attachment that has ended.
pub(super) fn remove(parent: &Cgroup, scratch: &Path) {
    remove_cgroups(parent);
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "removing {}", scratch.display());
        }
        Ok(()) | Err(_) => {}
    }
}

fn remove_cgroups(parent: &Cgroup) {
    let gateway = Cgroup::adopt(parent.path().join("gateway"));
    for cgroup in [&gateway, parent] {
        if let Err(error) = cgroup.remove() {
            tracing::warn!(%error, "removing a cgroup");
        }
    }
}

/// Path of a cgroup within the hierarchy.
pub(super) fn within(cgroup: &Cgroup) -> anyhow::Result<String> {
    let mount = cgroup::mount_point()?;
    Ok(format!("/{}", cgroup.path().strip_prefix(mount)?.display()))
}
