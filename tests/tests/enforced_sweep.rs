//! What killed runs left is cleared away by the next one: cgroups without pins, too, and never
//! those of a run that is alive or just starting.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::{Agent, PINS, random, sweep},
    cgroup::{Group, mount_point},
    deadline::wait_for,
    needs_root,
    puppet::Puppet,
    world::World,
};

const SCRATCH: &str = "/run/sluice";

/// A cgroup as a run has it, by this name, and those below it.
struct Leftover {
    groups: Vec<Group>,
}

impl Leftover {
    fn new(prefix: &str) -> Result<Self> {
        let runs = mount_point()?.join("sluice");
        fs::create_dir_all(&runs)?;
        let run = Group::at(runs.join(format!("{prefix}{}", random()?)))?;
        let (gateway, agent) = (run.below("gateway")?, run.below("agent")?);
        // An agent that may write there has cgroups of its own.
        let own = agent.below("own")?;
        let deeper = own.below("deeper")?;
        // Those below go first.
        Ok(Self {
            groups: vec![deeper, own, agent, gateway, run],
        })
    }

    fn path(&self) -> Result<&Path> {
        Ok(self.groups.last().context("the run's own")?.path())
    }

    fn name(&self) -> Result<&str> {
        let name = self.path()?.file_name().and_then(|name| name.to_str());
        name.context("a name")
    }

    fn exists(&self) -> bool {
        self.groups.iter().all(|group| group.path().exists())
    }
}

/// A folder for pins, of a version that there never was. Dropped, it is gone.
struct Pinned(PathBuf);

impl Pinned {
    fn new(run: &str) -> Result<Self> {
        let version = Path::new(PINS).join(format!("v0-{}", random()?));
        fs::create_dir(&version)?;
        fs::create_dir(version.join(run))?;
        Ok(Self(version))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{}: {error}", self.0.display());
        }
    }
}

/// What whoever starts holds.
fn lock() -> Result<File> {
    let lock = File::open(SCRATCH)?;
    lock.lock()?;
    Ok(lock)
}

#[test]
fn cgroups_without_pins_are_cleared_away_once_nobody_is_inside() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    // There are pins only where Sluice has been.
    sweep(&world)?;
    for prefix in ["run-", "attach-", "doctor-"] {
        // Other tests sweep, too.
        let lock = lock()?;
        let left = Leftover::new(prefix)?;
        let pinned = Leftover::new(prefix)?;
        let pins = Pinned::new(pinned.name()?)?;
        let alive = Leftover::new(prefix)?;
        let puppet = Puppet::start_in(&world, &alive.path()?.join("agent/own"))?;
        drop(lock);
        sweep(&world)?;
        let path = left.path()?.display();
        ensure!(!left.path()?.exists(), "{path} is left");
        ensure!(pinned.exists(), "{prefix}: something is pinned to it");
        ensure!(alive.exists(), "{prefix}: somebody is inside");

        drop((puppet, pins));
        wait_for("both to go", || {
            sweep(&world)?;
            Ok((!alive.path()?.exists() && !pinned.path()?.exists()).then_some(()))
        })?;
    }
    let stranger = Leftover::new("somebody-")?;
    sweep(&world)?;
    ensure!(stranger.exists(), "it is not ours");
    Ok(())
}

/// Regression: cgroups that an agent had made below its own kept those of its run from being
/// removed for good.
#[test]
fn a_run_ends_with_the_cgroups_that_were_made_below_it() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let mut running = Agent::new(&world, "schema = 1\nagent = \"nested\"\n")?
        .prepare(|command| {
            command.stdin(std::process::Stdio::piped());
        })
        .spawn(["/bin/sh", "-c", "echo up; read line; true"])?;
    running.wait_for_output("up")?;
    let agent = running.cgroup()?;
    let name = running.name()?;
    fs::create_dir_all(agent.join("own/deeper"))?;
    let finished = running.finish()?;
    ensure!(finished.status == 0, "{finished:?}");
    let parent = agent.parent().context("the run's cgroup")?;
    ensure!(!parent.exists(), "{} is left", parent.display());
    ensure!(
        !Path::new(SCRATCH).join(name).exists(),
        "its folder is left"
    );
    Ok(())
}

/// While somebody starts, whose cgroups look like those that are left, nobody sweeps.
#[test]
fn nobody_sweeps_while_somebody_starts() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    sweep(&world)?;
    let lock = lock()?;
    let starting = Leftover::new("run-")?;
    let other = Agent::without_policy(&world)?.spawn(["true"])?;
    let descriptors = format!("/proc/{}/fd", other.pid());
    wait_for("the other to come to the lock", || {
        let held = fs::read_dir(&descriptors)?.flatten();
        let mut held = held.filter_map(|entry| fs::read_link(entry.path()).ok());
        Ok(held.any(|path| path == Path::new(SCRATCH)).then_some(()))
    })?;
    let within = fs::read_to_string(format!("/proc/{}/cgroup", other.pid()))?;
    ensure!(!within.contains("/gateway"), "it did not wait: {within}");
    ensure!(starting.exists(), "it was swept while it started");
    drop(lock);
    let finished = other.finish()?;
    ensure!(finished.status == 0, "{finished:?}");
    ensure!(!starting.path()?.exists(), "nobody started it");
    Ok(())
}
