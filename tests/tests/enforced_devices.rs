//! Devices: what every agent has, what policy names, and nothing else, whatever the file system
//! would allow.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sluice_tests::{
    agent::{Agent, Finished},
    needs_root,
    skip::PYTHON,
    world::World,
};
use tempfile::TempDir;

/// Opens what it is told, and says how each went; makes a node where it is told so.
const CLIENT: &str = r"
import errno, os, stat, sys
for way in sys.argv[1:]:
    try:
        if way == 'pty':
            os.openpty()
        else:
            os.close(os.open(way, os.O_RDWR | os.O_NONBLOCK))
        print(way, 'ok')
    except OSError as error:
        print(way, errno.errorcode[error.errno])
";

/// Nodes that everybody may open, by name, kind and numbers.
const NODES: [(&str, SFlag, u64, u64); 9] = [
    ("mem", SFlag::S_IFCHR, 1, 1),
    ("kmsg", SFlag::S_IFCHR, 1, 11),
    ("console", SFlag::S_IFCHR, 5, 1),
    ("serial", SFlag::S_IFCHR, 4, 64),
    ("tun", SFlag::S_IFCHR, 10, 200),
    ("fuse", SFlag::S_IFCHR, 10, 229),
    ("kvm", SFlag::S_IFCHR, 10, 232),
    ("vhost-net", SFlag::S_IFCHR, 10, 238),
    ("loop", SFlag::S_IFBLK, 7, 0),
];

struct Nodes(TempDir);

impl Nodes {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sluice-dev-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        for (name, kind, major, minor) in NODES {
            let path = folder.path().join(name);
            mknod(&path, kind, Mode::empty(), makedev(major, minor)).context(name)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        }
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn all(&self) -> Vec<String> {
        NODES.iter().map(|node| self.path(node.0)).collect()
    }
}

fn run(policy: &str, ways: &[String]) -> Result<(Vec<String>, Finished)> {
    let world = World::new()?;
    let command = [PYTHON, "-c", CLIENT].into_iter().map(str::to_owned);
    let finished = Agent::new(&world, policy)?.run(command.chain(ways.iter().cloned()))?;
    ensure!(finished.status == 0, "{finished:?}");
    let out = finished.out();
    let last = |line: &str| line.rsplit(' ').next().unwrap_or_default().to_owned();
    Ok((out.lines().map(last).collect(), finished))
}

#[test]
fn every_agent_has_the_harmless_ones() -> Result<()> {
    needs_root!();
    let mut ways: Vec<_> = ["null", "zero", "full", "random", "urandom"]
        .iter()
        .map(|name| format!("/dev/{name}"))
        .collect();
    ways.push("pty".to_owned());
    let (ends, finished) = run("schema = 1\nagent = \"devices\"\n", &ways)?;
    ensure!(ends.iter().all(|end| end == "ok"), "{finished:?}");
    Ok(())
}

#[test]
fn no_agent_has_any_other() -> Result<()> {
    needs_root!();
    let nodes = Nodes::new()?;
    let (ends, finished) = run("schema = 1\nagent = \"devices\"\n", &nodes.all())?;
    ensure!(ends.len() == NODES.len(), "{finished:?}");
    ensure!(ends.iter().all(|end| end == "EPERM"), "{finished:?}");
    for (name, kind, major, minor) in NODES {
        let letter = if kind == SFlag::S_IFBLK { 'b' } else { 'c' };
        let path = format!("{letter} {major}:{minor}");
        let records = finished.records_with(&[
            ("kind", "direct"),
            ("outcome", "deny"),
            ("method", "device"),
            ("reason", "device"),
            ("path", &path),
        ]);
        ensure!(records.len() == 1, "{name}: {finished:?}");
    }
    Ok(())
}

/// The control: a device that policy names is opened, as far as there is a driver.
#[test]
fn what_policy_names_is_opened_and_its_neighbours_are_not() -> Result<()> {
    needs_root!();
    let nodes = Nodes::new()?;
    let named = nodes.path("tun");
    let policy = format!("schema = 1\nagent = \"devices\"\n[process]\ndevices = [\"{named}\"]\n");
    let (ends, finished) = run(&policy, &nodes.all())?;
    for ((name, ..), end) in NODES.iter().zip(&ends) {
        let opened = end != "EPERM";
        ensure!(opened == (*name == "tun"), "{name}: {finished:?}");
    }
    Ok(())
}

#[test]
fn observe_mode_records_and_lets_pass() -> Result<()> {
    needs_root!();
    let nodes = Nodes::new()?;
    let policy = "schema = 1\nagent = \"devices\"\nmode = \"observe\"\n";
    let (ends, finished) = run(policy, &[nodes.path("tun")])?;
    ensure!(ends != ["EPERM"], "{finished:?}");
    let records = finished.records_with(&[("outcome", "observe"), ("path", "c 10:200")]);
    ensure!(records.len() == 1, "{finished:?}");
    Ok(())
}

#[test]
fn what_is_no_device_does_not_start() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    for (path, complaint) in [
        ("/etc/passwd", "is no device"),
        ("/dev/no-such-device", "/dev/no-such-device"),
        ("/dev/stdin", "a link is not followed"),
    ] {
        let policy = format!("schema = 1\nagent = \"d\"\n[process]\ndevices = [\"{path}\"]\n");
        let finished = Agent::new(&world, &policy)?.run(["true"])?;
        ensure!(finished.status != 0, "{path} was taken");
        ensure!(finished.err().contains(complaint), "{path}: {finished:?}");
    }
    Ok(())
}
