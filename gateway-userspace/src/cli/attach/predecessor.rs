//! The attachment that confined this cgroup before: killed, stopped, or still serving.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::site;
use crate::{
    kernel::{
        bpffs::{self, Pins},
        cgroup::Cgroup,
    },
    sessions::{self, Health, Origin, Session},
};

/// How long it may take to let its connections end, and go.
const PATIENCE: Duration = Duration::from_secs(10);

/// The word that another has taken over.
pub(super) const HAND_OVER: Signal = Signal::SIGUSR1;

/// What is there of it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    /// As it described itself.
    pub(crate) session: Session,
    /// Its pins.
    pub(crate) pins: Pins,
    scratch: PathBuf,
    /// Others that are gone, of take-overs that ended half-way. They may hold some of its links.
    halves: Vec<Self>,
}

impl Predecessor {
    /// The attachment to this very cgroup, if there is one: the one that serves, else the last.
    pub(crate) fn of(cgroup: &Path) -> anyhow::Result<Option<Self>> {
        let id = fs::metadata(cgroup)
            .with_context(|| format!("reading {}", cgroup.display()))?
            .ino();
        let mut all = Self::all_of(id)?;
        let alive = all.iter().filter(|one| one.is_alive()).count();
        anyhow::ensure!(
            alive <= 1,
            "another `sluice attach` takes over {} right now; try again when one of them serves",
            cgroup.display()
        );
        all.sort_by_key(|one| (one.is_alive(), one.session.started));
        let Some(last) = all.pop() else {
            return Ok(None);
        };
        Ok(Some(Self {
            halves: all,
            ..last
        }))
    }

    /// All attachments to the cgroup of this id.
    pub(crate) fn all_of(id: u64) -> anyhow::Result<Vec<Self>> {
        let found = sessions::all().context("reading the sessions of this node")?;
        found
            .into_iter()
            .filter(|found| found.session.origin == Origin::Attach)
            .filter(|found| found.session.cgroup_id == id)
            .map(Self::new)
            .collect()
    }

    /// Takes up the links that other take-overs had, and left when they ended half-way.
    pub(super) fn gather(&mut self) -> anyhow::Result<()> {
        for half in std::mem::take(&mut self.halves) {
            self.pins.gather(&half.pins)?;
            half.end()?;
        }
        Ok(())
    }

    /// Ends the attachments to cgroups that were removed, and had this one's path: nobody needs to
    /// be told any more that they hold nothing.
    pub(crate) fn forget_unheld(cgroup: &Path) -> anyhow::Result<()> {
        let found = sessions::all().context("reading the sessions of this node")?;
        found
            .into_iter()
            .filter(|found| found.session.origin == Origin::Attach)
            .filter(|found| found.health == Health::Unheld && found.session.cgroup == cgroup)
            .try_for_each(|found| Self::new(found)?.end())
    }

    /// What is there of a session that was found.
    pub(crate) fn new(found: sessions::Found) -> anyhow::Result<Self> {
        let pins = Pins::adopt(&bpffs::root()?, &found.session.run);
        Ok(Self {
            session: found.session,
            pins,
            scratch: found.scratch,
            halves: Vec::new(),
        })
    }

    /// Whether another session holds this one's cgroup, by links of its own.
    pub(super) fn has_successor(session: &Session) -> anyhow::Result<bool> {
        let root = bpffs::root()?;
        let found = sessions::all().context("reading the sessions of this node")?;
        Ok(found.iter().any(|found| {
            found.session.run != session.run
                && found.session.cgroup_id == session.cgroup_id
                && Pins::adopt(&root, &found.session.run).cgroup_of("egress")
                    == Some(session.cgroup_id)
        }))
    }

    /// Whether it still serves, or might.
    pub(crate) fn is_alive(&self) -> bool {
        sessions::is_supervisor(&self.session)
    }

    /// Tells its process that another has its sockets now. Comes back when it accepts no more; it
    /// then lets what is open go on, and clears away after itself. One that does not do so is
    /// ended.
    pub(crate) fn hand_over(self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.session.pid)?);
        let deadline = Instant::now() + PATIENCE;
        if self.is_alive() {
            kill(pid, HAND_OVER).context("telling the process that served this agent")?;
        }
        while self.is_alive() && Instant::now() < deadline {
            if !sessions::is_listed(&self.scratch) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.end()
    }

    /// Ends its process, and removes what is left of it but for pins that moved on.
    pub(crate) fn end(self) -> anyhow::Result<()> {
        self.stop()?;
        self.pins.remove()?;
        let parent = bpffs::runs_cgroup()?.join(&self.session.run);
        site::remove(&Cgroup::adopt(parent), &self.scratch);
        Ok(())
    }

    /// Asks its process to end, and insists when it does not: one that stands still hears nothing.
    fn stop(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.session.pid)?);
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.is_alive() {
                return Ok(());
            }
            kill(pid, signal).context("ending the process that served this agent")?;
            let deadline = Instant::now() + PATIENCE;
            while self.is_alive() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        anyhow::ensure!(!self.is_alive(), "process {pid} does not end");
        Ok(())
    }
}
