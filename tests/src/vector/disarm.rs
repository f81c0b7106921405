//! Taking the boundary away, or getting out from under it; what is then sent is the proof.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{Failed, Outcome, Target, call, failed, udp};

/// Where BPF objects are pinned.
const PINS: &str = "/sys/fs/bpf";
/// What the gateway's process is called.
const GATEWAY: &str = "sluice";
/// `BPF_OBJ_GET`, `BPF_PROG_DETACH`, `BPF_LINK_GET_FD_BY_ID`, `BPF_LINK_GET_NEXT_ID`,
/// `BPF_LINK_DETACH`.
const OBJECT_GET: libc::c_long = 7;
const PROGRAM_DETACH: libc::c_long = 9;
const LINK_BY_ID: libc::c_long = 30;
const LINK_NEXT: libc::c_long = 31;
const LINK_DETACH: libc::c_long = 34;
/// `BPF_PROG_GET_FD_BY_ID`, `BPF_PROG_GET_NEXT_ID`.
const PROGRAM_BY_ID: libc::c_long = 13;
const PROGRAM_NEXT: libc::c_long = 11;

/// What a process sends that believes itself free.
fn sent(target: &Target) -> Outcome {
    udp::send_to(target)
}

pub(super) fn to_root(target: &Target) -> Outcome {
    move_to(&target.stage.cgroups, "cgroup.procs")?;
    sent(target)
}

pub(super) fn to_parent(target: &Target) -> Outcome {
    let own = own_cgroup(target)?;
    move_to(own.parent().unwrap_or(&own), "cgroup.procs")?;
    sent(target)
}

pub(super) fn to_sibling(target: &Target) -> Outcome {
    move_to(&outside(target), "cgroup.procs")?;
    sent(target)
}

/// One thread only.
pub(super) fn thread_to_sibling(target: &Target) -> Outcome {
    move_to(&outside(target), "cgroup.threads")?;
    sent(target)
}

/// Is born there.
pub(super) fn born_outside(target: &Target) -> Outcome {
    let there = File::open(outside(target)).map_err(failed("open"))?;
    match call::fork_into(&OwnedFd::from(there)).map_err(failed("clone3"))? {
        0 => {
            let errno = match sent(target) {
                Ok(_) => 0,
                Err(error) => error.errno(),
            };
            std::process::exit(errno);
        }
        child => ended(child),
    }
}

/// A cgroup of its own below.
pub(super) fn to_child(target: &Target) -> Outcome {
    let child = own_cgroup(target)?.join(format!("child-{}", target.port));
    fs::create_dir(&child).map_err(failed("mkdir"))?;
    let moved = move_to(&child, "cgroup.procs").and_then(|()| sent(target));
    // Empty only once this process is gone: whoever started it clears away.
    moved
}

/// A threaded one.
pub(super) fn to_threaded(target: &Target) -> Outcome {
    let child = own_cgroup(target)?.join(format!("threaded-{}", target.port));
    fs::create_dir(&child).map_err(failed("mkdir"))?;
    fs::write(child.join("cgroup.type"), "threaded").map_err(failed("threaded"))?;
    move_to(&child, "cgroup.threads")?;
    sent(target)
}

pub(super) fn remove_cgroup(target: &Target) -> Outcome {
    fs::remove_dir(own_cgroup(target)?).map_err(failed("rmdir"))?;
    sent(target)
}

/// Opens the file that would freeze or kill all in the gateway's cgroup.
pub(super) fn freeze_gateway(target: &Target) -> Outcome {
    let own = own_cgroup(target)?;
    let theirs = own.parent().unwrap_or(&own).join("gateway");
    let place = if theirs.is_dir() {
        theirs
    } else {
        outside(target)
    };
    open(&place.join("cgroup.freeze"))
}

/// This folder, if it is a cgroup. Where none is in sight, its path may lead to a plain folder
/// that root may write to.
fn cgroup(folder: PathBuf) -> Result<PathBuf, Failed> {
    let found = nix::sys::statfs::statfs(&folder).map_err(io::Error::from);
    let kind = found.map_err(failed("statfs"))?.filesystem_type();
    if kind == nix::sys::statfs::CGROUP2_SUPER_MAGIC {
        return Ok(folder);
    }
    Err(failed("statfs")(io::Error::from_raw_os_error(libc::ENOENT)))
}

fn outside(target: &Target) -> PathBuf {
    target.stage.cgroups.join(&target.stage.outside)
}

/// Where this process is, as the kernel tells it.
fn own_cgroup(target: &Target) -> Result<PathBuf, Failed> {
    let text = fs::read_to_string("/proc/self/cgroup").map_err(failed("cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| failed("cgroup")(io::ErrorKind::NotFound.into()))?;
    cgroup(target.stage.cgroups.join(path))
}

fn move_to(cgroup: &Path, file: &str) -> Result<(), Failed> {
    let folder = self::cgroup(cgroup.to_owned())?;
    let file = OpenOptions::new().write(true).open(folder.join(file));
    file.map_err(failed("open"))?
        .write_all(b"0")
        .map_err(failed("move"))
}

fn ended(child: i32) -> Outcome {
    let error = match waitpid(Pid::from_raw(child), None) {
        Ok(WaitStatus::Exited(_, 0)) => return Ok(None),
        Ok(WaitStatus::Exited(_, errno)) => io::Error::from_raw_os_error(errno),
        Ok(_) => io::Error::from_raw_os_error(libc::EINTR),
        Err(error) => error.into(),
    };
    Err(failed("child")(error))
}

pub(super) fn user_namespace(target: &Target) -> Outcome {
    namespace(CloneFlags::CLONE_NEWUSER)?;
    sent(target)
}

pub(super) fn mount_namespace(target: &Target) -> Outcome {
    namespace(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    sent(target)
}

pub(super) fn cgroup_namespace(target: &Target) -> Outcome {
    namespace(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWCGROUP)?;
    sent(target)
}

/// Nothing leads out of it: making it is what is looked at.
pub(super) fn network_namespace(_: &Target) -> Outcome {
    namespace(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    Ok(None)
}

fn namespace(kinds: CloneFlags) -> Result<(), Failed> {
    unshare(kinds).map_err(|error| failed("unshare")(error.into()))
}

/// Detaches every link that is pinned.
pub(super) fn pinned_links(target: &Target) -> Outcome {
    let mut found = Vec::new();
    search(Path::new(PINS), &mut found).map_err(failed("readdir"))?;
    let own = own_run(target)?;
    for path in found.iter().filter(|path| {
        path.components()
            .any(|part| part.as_os_str() == own.as_str())
    }) {
        let mut text = path.as_os_str().as_bytes().to_vec();
        text.push(0);
        let [low, high] = halves(text.as_ptr() as u64);
        let link = call::bpf_descriptor(OBJECT_GET, [low, high, 0, 0, 0, 0]);
        let link = link.map_err(failed("BPF_OBJ_GET"))?;
        detach(&link)?;
    }
    sent(target)
}

/// Removes the pins of the own boundary.
pub(super) fn unpin(target: &Target) -> Outcome {
    let mut found = Vec::new();
    search(Path::new(PINS), &mut found).map_err(failed("readdir"))?;
    let own = own_run(target)?;
    for path in found.iter().filter(|path| {
        path.components()
            .any(|part| part.as_os_str() == own.as_str())
    }) {
        fs::remove_file(path).map_err(failed("unlink"))?;
    }
    sent(target)
}

/// The name of the run that this process belongs to: its boundary, and nobody else's.
fn own_run(target: &Target) -> Result<String, Failed> {
    let own = own_cgroup(target)?;
    own.components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .find(|part| part.starts_with("run-"))
        .ok_or_else(|| failed("cgroup")(io::ErrorKind::NotFound.into()))
}

fn search(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            search(&entry.path(), found)?;
        } else if entry
            .path()
            .components()
            .any(|part| part.as_os_str() == "links")
        {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Asks for the links there are, by number.
pub(super) fn links_by_id(_: &Target) -> Outcome {
    let first = call::bpf_next(LINK_NEXT, 0).map_err(failed("BPF_LINK_GET_NEXT_ID"))?;
    call::bpf_descriptor(LINK_BY_ID, [first, 0, 0, 0, 0, 0])
        .map(|_| None)
        .map_err(failed("BPF_LINK_GET_FD_BY_ID"))
}

/// Asks for the programs there are, by number.
pub(super) fn programs_by_id(_: &Target) -> Outcome {
    let first = call::bpf_next(PROGRAM_NEXT, 0).map_err(failed("BPF_PROG_GET_NEXT_ID"))?;
    call::bpf_descriptor(PROGRAM_BY_ID, [first, 0, 0, 0, 0, 0])
        .map(|_| None)
        .map_err(failed("BPF_PROG_GET_FD_BY_ID"))
}

/// Detaches whatever is attached for packets that leave.
pub(super) fn detach_program(target: &Target) -> Outcome {
    /// `BPF_CGROUP_INET_EGRESS`.
    const EGRESS: u32 = 1;
    let cgroup = File::open(own_cgroup(target)?).map_err(failed("open"))?;
    let number = cgroup.as_raw_fd() as u32;
    call::bpf(PROGRAM_DETACH, [number, 0, EGRESS, 0, 0, 0]).map_err(failed("BPF_PROG_DETACH"))?;
    sent(target)
}

fn detach(link: &OwnedFd) -> Result<(), Failed> {
    let number = link.as_raw_fd() as u32;
    call::bpf(LINK_DETACH, [number, 0, 0, 0, 0, 0])
        .map(drop)
        .map_err(failed("BPF_LINK_DETACH"))
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// Only ever in a mount namespace of the test's own: the host keeps its file system.
pub(super) fn unmount(target: &Target) -> Outcome {
    let here = fs::read_link("/proc/self/ns/mnt").map_err(failed("readlink"))?;
    if fs::read_link("/proc/1/ns/mnt").is_ok_and(|there| there == here) {
        return Err(failed("stage")(io::ErrorKind::Unsupported.into()));
    }
    umount2(PINS, MntFlags::MNT_DETACH).map_err(|error| failed("umount2")(error.into()))?;
    if target.stage.gateway.is_some() {
        return Ok(None);
    }
    sent(target)
}

pub(super) fn signal_gateway(target: &Target) -> Outcome {
    // Ignored by whoever does not wait for it, and as forbidden as any other.
    kill(gateway(target)?, Signal::SIGURG).map_err(|error| failed("kill")(error.into()))?;
    Ok(None)
}

pub(super) fn trace_gateway(target: &Target) -> Outcome {
    // Does not stop it, and ends with this process.
    ptrace::seize(gateway(target)?, ptrace::Options::empty())
        .map_err(|error| failed("ptrace")(error.into()))?;
    Ok(None)
}

pub(super) fn gateway_memory(target: &Target) -> Outcome {
    open(Path::new(&format!("/proc/{}/mem", gateway(target)?)))
}

pub(super) fn gateway_descriptor(target: &Target) -> Outcome {
    let process = call::pidfd_open(gateway(target)?.as_raw()).map_err(failed("pidfd_open"))?;
    call::pidfd_getfd(&process, 0).map_err(failed("pidfd_getfd"))?;
    Ok(None)
}

/// The gateway's process, found from inside.
fn gateway(target: &Target) -> Result<Pid, Failed> {
    if let Some(pid) = target.stage.gateway {
        return Ok(Pid::from_raw(pid));
    }
    let entries = fs::read_dir("/proc").map_err(failed("readdir"))?;
    let is_gateway = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        name.is_ok_and(|name| name.trim_end() == GATEWAY)
            && own_run(target).is_ok_and(|run| cgroup.is_ok_and(|path| path.contains(&run)))
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(is_gateway)
        .map(Pid::from_raw)
        .ok_or_else(|| failed("gateway")(io::Error::from_raw_os_error(libc::ESRCH)))
}

pub(super) fn audit(target: &Target) -> Outcome {
    let missing = || failed("stage")(io::ErrorKind::NotFound.into());
    let path = target.stage.audit.as_ref().ok_or_else(missing)?;
    let file = OpenOptions::new().append(true).open(path);
    file.map_err(failed("open"))?
        .write_all(&target.marker)
        .map_err(failed("write"))?;
    Ok(None)
}

pub(super) fn magic_key(_: &Target) -> Outcome {
    open(Path::new("/proc/sysrq-trigger"))
}

/// Whoever writes here names a program that the kernel runs for him, in the host's namespaces.
pub(super) fn core_pattern(_: &Target) -> Outcome {
    open(Path::new("/proc/sys/kernel/core_pattern"))
}

/// Opens for writing; nothing is written.
fn open(path: &Path) -> Outcome {
    let file = OpenOptions::new().write(true).open(path);
    file.map(|_| None).map_err(failed("open"))
}
