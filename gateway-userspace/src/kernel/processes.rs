//! Names the agent's processes: joins what a hook saw of a task with the events of the
//! tracepoints.

mod table;

use std::{
    fmt, fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::maps::{HashMap, MapData, RingBuf};
use gateway_common::{
    ABI_VERSION,
    flow::Task,
    process::{MEMBER_INSIDE, Member, PROCESS_ENTER, ProcessEvent},
};
use nix::libc;
use rustix::fs::{Mode, OFlags};
use zerocopy::{FromBytes as _, FromZeros as _};

use self::table::Table;
use super::{
    abi::Wire,
    boundary::{BoundaryError, map_error},
    cgroup::Cgroup,
    denials::Gaps,
    exe,
};
use crate::identity::{Executable, ExecutableSource, Process};

/// How often the ring is looked through for an event that must be in it: one of another CPU may
/// not be complete yet.
const TRIES: u32 = 64;

/// The kernel half's account of them.
pub(super) type Members = HashMap<MapData, u32, Wire<Member>>;

/// The processes of one agent, shared by all who name them.
pub(super) struct Processes {
    inner: Mutex<Inner>,
    /// The ring's descriptor once more, to be waited on.
    descriptor: OwnedFd,
    /// Of this boot: ids of another one must not be the same.
    boot: String,
}

struct Inner {
    ring: RingBuf<MapData>,
    table: Table,
    gaps: Gaps,
    malformed: u64,
}

impl fmt::Debug for Processes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boot = &self.boot;
        out.debug_struct("Processes")
            .field("boot", boot)
            .finish_non_exhaustive()
    }
}

impl Processes {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Arc<Self>, BoundaryError> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        let boot = fs::read_to_string(BOOT).map_err(BoundaryError::Poll)?;
        Ok(Arc::new(Self {
            descriptor: ring
                .as_fd()
                .try_clone_to_owned()
                .map_err(BoundaryError::Poll)?,
            inner: Mutex::new(Inner {
                ring,
                table: Table::default(),
                gaps: Gaps::default(),
                malformed: 0,
            }),
            boot: boot.chars().take(8).collect(),
        }))
    }

    /// Enters what lives in the cgroup already, which no event told of. Whoever is forked
    /// meanwhile is entered by the kernel half.
    pub(super) fn adopt(&self, agent: &Cgroup, members: &mut Members) -> Result<(), BoundaryError> {
        /// `BPF_NOEXIST`: what the kernel half has entered by now it knows better.
        const ONLY_NEW: u64 = 1;
        for tgid in agent.processes()? {
            let Some(started_ns) = exe::began(tgid) else {
                continue;
            };
            let member = Member {
                since_ns: started_ns,
                started_ns,
                state: MEMBER_INSIDE,
                zero: 0,
            };
            match members.insert(tgid, Wire(member), ONLY_NEW) {
                Ok(()) => {}
                Err(_) if members.get(&tgid, 0).is_ok() => continue,
                Err(error) => return Err(map_error("MEMBERS")(error)),
            }
            if exe::began(tgid) != Some(started_ns) {
                // It ended meanwhile, perhaps before it was entered: nobody would remove it.
                drop(members.remove(&tgid));
                continue;
            }
            let mut event = ProcessEvent::new_zeroed();
            (event.kind, event.tgid, event.since_ns) = (PROCESS_ENTER, tgid, started_ns);
            self.lock().table.note(&event, |_| {
                let path = fs::read_link(format!("/proc/{tgid}/exe")).ok()?;
                Some(Executable {
                    path: path.to_string_lossy().into_owned(),
                    source: ExecutableSource::Later,
                })
            });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The table is whole between any two events.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when there is something to take in.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Takes in what the ring holds.
    pub(super) fn drain(&self) {
        self.lock().drain();
    }

    /// Events that were lost since the last time, and entries that found no room.
    pub(super) fn take_lost(&self) -> u64 {
        let mut inner = self.lock();
        let malformed = std::mem::take(&mut inner.malformed);
        inner.gaps.lost() + inner.table.take_refused() + malformed
    }

    /// Adds what is known of this process: the id of what it runs, the path, the parents.
    fn describe(&self, tgid: u32, since_ns: u64, process: &mut Process) {
        let key = (tgid, since_ns);
        let mut inner = self.lock();
        // The event was written before the call that is to be named was made.
        for _ in 0..TRIES {
            if inner.table.knows(key) {
                break;
            }
            inner.drain();
        }
        process.exec_id = Some(self.id(key));
        process.parents = inner.table.ancestors(key, |key| self.id(key));
        if let Some(executable) = inner.table.executable(key) {
            process.exe = Some(executable.path.clone());
            process.exe_source = Some(executable.source);
        }
    }

    /// An id that no other exec or fork has, in this boot or another.
    fn id(&self, (tgid, since_ns): (u32, u64)) -> String {
        format!("{}-{since_ns:x}-{tgid}", self.boot)
    }
}

impl Inner {
    fn drain(&mut self) {
        while let Some(item) = self.ring.next() {
            let event = ProcessEvent::read_from_bytes(&item)
                .ok()
                .filter(|event| event.abi == ABI_VERSION);
            drop(item);
            match event {
                Some(event) => {
                    self.gaps.note(event.cpu, event.sequence);
                    self.table.note(&event, executable);
                }
                None => self.malformed += 1,
            }
        }
    }
}

/// What an exec ran: the file that `/proc` shows, if that is the same file by inode and device,
/// else the name that was given to `execve(2)`.
fn executable(event: &ProcessEvent) -> Option<Executable> {
    if let Ok(path) = same_file(event) {
        return Some(Executable {
            path: path.to_string_lossy().into_owned(),
            source: ExecutableSource::File,
        });
    }
    let end = event.name.iter().position(|byte| *byte == 0)?;
    let name = event.name.get(..end).filter(|name| !name.is_empty())?;
    let mut path = String::from_utf8_lossy(name).into_owned();
    if end + 1 == event.name.len() {
        path.push('…');
    }
    Some(Executable {
        path,
        source: ExecutableSource::Execve,
    })
}

fn same_file(event: &ProcessEvent) -> io::Result<PathBuf> {
    let link = PathBuf::from(format!("/proc/{}/exe", event.tgid));
    let file = rustix::fs::open(&link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let own = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let metadata = fs::metadata(&own)?;
    // The kernel keeps the major number in twelve bits above twenty of the minor.
    let device = libc::makedev(event.device >> 20, event.device & 0xf_ffff);
    if event.inode == 0 || metadata.ino() != event.inode || metadata.dev() != device {
        return Err(io::ErrorKind::NotFound.into());
    }
    fs::read_link(own)
}

/// Names tasks, with the tracepoints' help where they are attached.
#[derive(Debug)]
pub(super) struct Names {
    processes: Option<Arc<Processes>>,
    /// Path of the agent's cgroup within the hierarchy.
    cgroup: String,
}

impl Names {
    pub(super) const fn new(processes: Option<Arc<Processes>>, cgroup: String) -> Self {
        Self { processes, cgroup }
    }

    /// A task as the kernel saw it, with what is known of its process.
    pub(super) fn process(&self, task: &Task, cookie: u64, time_ns: u64) -> Process {
        let end = task.comm.iter().position(|byte| *byte == 0);
        let comm = task.comm.get(..end.unwrap_or(task.comm.len()));
        let mut process = Process {
            pid: task.tgid,
            tid: task.pid,
            uid: task.uid,
            comm: String::from_utf8_lossy(comm.unwrap_or_default()).into_owned(),
            exe: None,
            exe_source: None,
            exec_id: None,
            parents: Vec::new(),
            cgroup: task.cgroup,
            cookie,
        };
        match &self.processes {
            Some(processes) if task.since_ns != 0 => {
                processes.describe(task.tgid, task.since_ns, &mut process);
            }
            // Nothing to join by.
            Some(_) => {}
            None => {
                process.exe = exe::path(task.tgid, time_ns, &self.cgroup);
                process.exe_source = process.exe.is_some().then_some(ExecutableSource::Later);
            }
        }
        process
    }

    /// See [`Processes::take_lost`].
    pub(super) fn take_lost(&self) -> u64 {
        self.processes.as_ref().map_or(0, |it| it.take_lost())
    }
}
