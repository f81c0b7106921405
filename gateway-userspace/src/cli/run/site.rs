//! Where one run takes place: its cgroups, its pins, its scratch folder. Made together, removed
//! together.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use crate::{
    kernel::{
        bpffs::{self, Pins},
        cgroup::{self, Cgroup},
    },
    sessions::{self, SCRATCH},
    starting::Starting,
};

/// How long processes may take to die once they are killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The places of one run.
#[derive(Debug)]
pub(super) struct Site {
    /// Name of the run: its pins and cgroups carry it.
    pub(super) run: String,
    /// Where the agent's processes live.
    pub(super) agent: Cgroup,
    /// Where this process lives while it is the gateway.
    pub(super) gateway: Cgroup,
    /// Where this process came from.
    home: PathBuf,
    parent: Cgroup,
    scratch: PathBuf,
}

impl Site {
    /// Makes the places, moves this process into the gateway's, and clears away what killed runs
    /// left.
    pub(super) fn prepare() -> anyhow::Result<Self> {
        let root = bpffs::root()?;
        let runs = bpffs::runs_cgroup()?;
        let starting = Starting::begin()?;
        bpffs::sweep(&root, &runs, &starting).context("clearing away earlier runs")?;
        sweep_scratch(&runs);
        let home = cgroup::current()?;
        let id = uuid::Uuid::now_v7().simple().to_string();
        let run = format!("run-{id}");
        let parent = Cgroup::create(runs.join(&run))?;
        let scratch = Path::new(SCRATCH).join(&run);
        let site = Self {
            agent: Cgroup::adopt(parent.path().join("agent")),
            gateway: Cgroup::adopt(parent.path().join("gateway")),
            run,
            home,
            parent,
            scratch,
        };
        match site.fill(&starting) {
            Ok(()) => Ok(site),
            Err(error) => {
                site.clear();
                Err(error)
            }
        }
    }

    fn fill(&self, _starting: &Starting) -> anyhow::Result<()> {
        let gateway = Cgroup::create(self.gateway.path().to_owned())?;
        // From here on the run counts as alive, and no other run clears it away.
        gateway.enter()?;
        Cgroup::create(self.agent.path().to_owned())?;
        fs::DirBuilder::new()
            .mode(0o711)
            .recursive(true)
            .create(&self.scratch)
            .with_context(|| format!("making {}", self.scratch.display()))
    }

    /// Makes the folder of this run's pins.
    pub(super) fn pins(&self) -> anyhow::Result<Pins> {
        Ok(Pins::create(&bpffs::root()?, &self.run)?)
    }

    /// A folder of this run alone, which the agent may pass through.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Ends every process of the agent.
    pub(super) fn end_agent(&self) -> Result<(), cgroup::CgroupError> {
        self.agent.kill(KILL_PATIENCE)
    }

    /// Removes the places; this process goes back where it came from. What cannot be removed now,
    /// a later run clears away.
    pub(super) fn clear(&self) {
        let steps: [(&str, Result<(), cgroup::CgroupError>); 4] = [
            ("leaving the gateway's cgroup", cgroup::enter(&self.home)),
            ("removing the agent's cgroup", self.agent.remove_all()),
            ("removing the gateway's cgroup", self.gateway.remove()),
            ("removing the run's cgroup", self.parent.remove()),
        ];
        for (step, result) in steps {
            if let Err(error) = result {
                tracing::warn!(%error, step, "a later run will clear this away");
            }
        }
        match fs::remove_dir_all(&self.scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "removing {}", self.scratch.display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Removes the scratch folders of runs that have no cgroup any more. A run that starts makes its
/// cgroup first. What an attachment left that somebody must know of stays.
fn sweep_scratch(runs: &Path) {
    let Ok(entries) = fs::read_dir(SCRATCH) else {
        return;
    };
    for entry in entries.flatten() {
        if runs.join(entry.file_name()).exists() || sessions::still_tells(&entry.path()) {
            continue;
        }
        match fs::remove_dir_all(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "removing {}", entry.path().display());
            }
            Ok(()) | Err(_) => {}
        }
    }
}
