//! What an agent sees of the file system: its mounts are its own, and what leads out of the
//! boundary is taken away.
//!
//! Rules rather than lists: every mount of a kind that administers the kernel is detached
//! wherever it lies, and `/run`, where services put their sockets, is empty but for what policy
//! names.

use std::{
    fs, io,
    os::{fd::AsRawFd as _, unix::fs::symlink},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
};
use rustix::fs::{OFlags, open};

use super::order::Order;

/// Kinds of file system by which the kernel is administered.
const ADMINISTRATION: [&str; 12] = [
    "cgroup",
    "cgroup2",
    "bpf",
    "tracefs",
    "debugfs",
    "securityfs",
    "configfs",
    "pstore",
    "efivarfs",
    "fusectl",
    "binfmt_misc",
    "nfsd",
];

/// Parts of `/proc` that a uid of 0 could change the host by, without any capability.
const READ_ONLY: [&str; 5] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
];

/// Parts of `/proc` that tell of others.
const COVERED: [&str; 4] = ["/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/key-users"];

/// Why the view could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub(super) struct ViewError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed<E: Into<io::Error>>(
    action: &'static str,
    path: impl AsRef<Path>,
) -> impl FnOnce(E) -> ViewError {
    let path = path.as_ref().to_owned();
    move |source| ViewError {
        action,
        path,
        source: source.into(),
    }
}

/// Makes it, in the mount namespace that this process has to itself. Answers with what could not
/// be taken out of sight.
pub(super) fn make(order: &Order) -> Result<Vec<String>, ViewError> {
    let cwd = std::env::current_dir().map_err(failed("finding", "the working folder"))?;
    mount_at(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let in_sight = detach_administration()?;
    processes()?;
    for point in mounts_of(&["sysfs"])? {
        read_only(&point)?;
    }
    terminals()?;
    if Path::new("/dev/shm").is_dir() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount_at(
            Some("tmpfs"),
            "/dev/shm",
            Some("tmpfs"),
            flags,
            Some("mode=1777"),
        )?;
    }
    if Path::new("/dev/mqueue").is_dir() {
        mount_at(
            Some("mqueue"),
            "/dev/mqueue",
            Some("mqueue"),
            MsFlags::empty(),
            None,
        )?;
    }
    empty_run(order)?;
    order.hide.iter().try_for_each(|path| cover(path))?;
    // The old working folder leads under what was covered; the path leads over it.
    std::env::set_current_dir(&cwd).map_err(failed(
        "the agent does not see the working folder; name it in `run` of [process], or start \
         elsewhere:",
        &cwd,
    ))?;
    Ok(in_sight)
}

fn mount_at(
    source: Option<&str>,
    target: impl AsRef<Path>,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), ViewError> {
    let target = target.as_ref();
    mount(source, target, kind, flags, data).map_err(failed("mounting", target))
}

/// Where file systems of these kinds are mounted, the last one first.
fn mounts_of(kinds: &[&str]) -> Result<Vec<PathBuf>, ViewError> {
    let path = "/proc/self/mountinfo";
    let text = fs::read_to_string(path).map_err(failed("reading", path))?;
    let of_kind = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        kinds
            .contains(&after.split(' ').next()?)
            .then(|| before.split(' ').nth(4))
            .flatten()
            .map(|point| PathBuf::from(crate::kernel::cgroup::unescape(point)))
    };
    Ok(text.lines().rev().filter_map(of_kind).collect())
}

fn detach_administration() -> Result<Vec<String>, ViewError> {
    let mut in_sight = Vec::new();
    for point in mounts_of(&ADMINISTRATION)? {
        // Something else may lie over it by now, which is as good.
        let gone = umount2(&point, MntFlags::MNT_DETACH).is_ok();
        // The folder underneath is the host's, and uid 0 could leave things there.
        let covered = !point.is_dir() || cover(&point).is_ok();
        if !gone && !covered {
            in_sight.push(point.display().to_string());
        }
    }
    Ok(in_sight)
}

/// A `/proc` of the agent's own processes.
fn processes() -> Result<(), ViewError> {
    for point in mounts_of(&["proc"])? {
        if point != Path::new("/proc") && umount2(&point, MntFlags::MNT_DETACH).is_err() {
            cover(&point)?;
        }
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Nobody sees processes that it may not look into, the init among them.
    let hidden = Some("hidepid=2");
    mount_at(Some("proc"), "/proc", Some("proc"), flags, hidden)?;
    for path in READ_ONLY.map(Path::new) {
        if path.exists() {
            mount(
                Some(path),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(failed("binding", path))?;
            read_only(path)?;
        }
    }
    COVERED.map(Path::new).into_iter().try_for_each(cover)
}

/// Makes a mount read-only and keeps its other flags.
fn read_only(point: &Path) -> Result<(), ViewError> {
    let flags = MsFlags::MS_BIND
        | MsFlags::MS_REMOUNT
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount_at(None, point, None, flags, None)
}

/// Terminals of its own: those of others can't even be named.
fn terminals() -> Result<(), ViewError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount_at(Some("devpts"), "/dev/pts", Some("devpts"), flags, options)?;
    let master = Path::new("/dev/ptmx");
    if master.is_symlink() {
        return Ok(());
    }
    let source = Some("/dev/pts/ptmx");
    mount_at(source, master, None, MsFlags::MS_BIND, None)
}

/// Hides a folder or file behind an empty one; one that is not there is hidden already.
fn cover(path: &Path) -> Result<(), ViewError> {
    let Ok(metadata) = fs::metadata(path) else {
        return Ok(());
    };
    if metadata.is_dir() {
        let flags =
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        return mount_at(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            flags,
            Some("mode=0555,size=4k"),
        );
    }
    mount_at(Some("/dev/null"), path, None, MsFlags::MS_BIND, None)
}

/// Most that a home of the run's own holds. It goes with the run, whatever was put there: a tree
/// that is too deep to be removed, say.
const HOME: &str = "size=25%,nr_inodes=200k";

/// Replaces `/run`: what it keeps are links, what policy names, a home of the run's own and the
/// file that `/etc/resolv.conf` leads to.
fn empty_run(order: &Order) -> Result<(), ViewError> {
    let run = Path::new("/run");
    let mut kept = Vec::new();
    let home = Some(order.scratch.join("home")).filter(|path| path.exists());
    for path in &order.run {
        let descriptor = open(
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(failed("opening what `run` of [process] names:", path))?;
        kept.push((path.clone(), descriptor, path.is_dir()));
    }
    let resolver = fs::canonicalize("/etc/resolv.conf")
        .ok()
        .filter(|path| path.starts_with(run))
        .and_then(|path| Some((fs::read(&path).ok()?, path)));
    let links: Vec<_> = fs::read_dir(run)
        .map_err(failed("reading", run))?
        .flatten()
        .filter_map(|entry| Some((fs::read_link(entry.path()).ok()?, entry.path())))
        .collect();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_at(Some("tmpfs"), run, Some("tmpfs"), flags, Some("mode=0755"))?;
    for (target, path) in links {
        symlink(target, &path).map_err(failed("linking", &path))?;
    }
    let lock = run.join("lock");
    if !lock.is_symlink() {
        nix::unistd::mkdir(&lock, Mode::from_bits_truncate(0o755))
            .map_err(failed("making", &lock))?;
    }
    if let Some((text, path)) = resolver {
        write_below(&path, &text)?;
    }
    for (path, descriptor, is_folder) in kept {
        if is_folder {
            fs::create_dir_all(&path).map_err(failed("making", &path))?;
        } else {
            write_below(&path, b"")?;
        }
        let source = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount_at(Some(&source), &path, None, flags, None)?;
    }
    if let Some(home) = home {
        fs::create_dir_all(&home).map_err(failed("making", &home))?;
        let options = format!("mode=0700,uid={},gid={},{HOME}", order.uid, order.gid);
        mount_at(Some("tmpfs"), &home, Some("tmpfs"), flags, Some(&options))?;
    }
    // Where it is a folder of its own rather than a link to the other.
    let old = Path::new("/var/run");
    if old.is_dir() && !old.is_symlink() {
        cover(old)?;
    }
    Ok(())
}

fn write_below(path: &Path, text: &[u8]) -> Result<(), ViewError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("making", folder))?;
    }
    fs::write(path, text).map_err(failed("writing", path))
}
