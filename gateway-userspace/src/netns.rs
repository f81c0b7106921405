//! Network namespaces: those that an agent's processes are in, and opening sockets there.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::Arc,
    thread,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket},
};
use zerocopy::{Immutable, IntoBytes};

/// A network namespace, held open.
#[derive(Clone, Debug)]
pub struct NetworkNamespace {
    descriptor: Arc<OwnedFd>,
    inode: u64,
}

impl NetworkNamespace {
    /// The namespace of a process, by its number here.
    ///
    /// # Errors
    /// If the process is gone, or belongs to somebody else.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        Self::open(&Path::new("/proc").join(pid.to_string()).join("ns/net"))
    }

    /// The namespace of this thread.
    ///
    /// # Errors
    /// If `/proc` is not mounted.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// One that nobody is in, with its loopback interface up.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn fresh() -> io::Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            raise_loopback()?;
            Self::own()
        };
        thread::scope(|scope| scope.spawn(make).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        Ok(Self {
            descriptor: Arc::new(file.into()),
            inode,
        })
    }

    /// Runs `work` on a thread inside. Sockets that it opens stay inside.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let inside = || {
            setns(self.descriptor.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// `RTM_NEWLINK`: a `struct nlmsghdr`, then a `struct ifinfomsg`.
#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct LinkRequest {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u16,
    link: u16,
    index: u32,
    state: u32,
    change: u32,
}

/// Raises the loopback interface of this thread's namespace.
fn raise_loopback() -> io::Result<()> {
    const NEWLINK: u16 = 16;
    const REQUEST_AND_ANSWER: u16 = 1 | 4;
    const LOOPBACK: u32 = 1;
    const UP: u32 = 1;
    /// Where in the answer its error number is, negative.
    const ERROR: std::ops::Range<usize> = 16..20;
    let request = LinkRequest {
        length: u32::try_from(size_of::<LinkRequest>()).map_err(io::Error::other)?,
        kind: NEWLINK,
        flags: REQUEST_AND_ANSWER,
        sequence: 1,
        port: 0,
        family: 0,
        link: 0,
        index: LOOPBACK,
        state: UP,
        change: UP,
    };
    let route = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(route.as_raw_fd(), request.as_bytes(), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer.get(..length).and_then(|answer| answer.get(ERROR));
    let error = error.and_then(|error| <[u8; 4]>::try_from(error).ok());
    match i32::from_ne_bytes(error.ok_or(io::ErrorKind::InvalidData)?) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

impl PartialEq for NetworkNamespace {
    /// Both are held open, so that the number belongs to one namespace.
    fn eq(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

impl Eq for NetworkNamespace {}

/// The namespaces of all processes in a cgroup and below it, but for this process's own.
///
/// # Errors
/// If the cgroup cannot be read. A process that ends meanwhile is none.
pub fn of_cgroup(path: &Path) -> io::Result<Vec<NetworkNamespace>> {
    let own = NetworkNamespace::own()?;
    let mut seen = HashSet::from([own.inode]);
    let mut found = Vec::new();
    for pid in processes(path)? {
        if let Ok(namespace) = NetworkNamespace::of_process(pid)
            && seen.insert(namespace.inode)
        {
            found.push(namespace);
        }
    }
    Ok(found)
}

/// The processes in a cgroup and below it. Those of another pid namespace, which have no number
/// here, are left out.
///
/// # Errors
/// If the cgroup itself cannot be read.
pub fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let mut found = read_processes(&cgroup.join("cgroup.procs"))?;
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that is removed meanwhile has no processes.
            found.extend(processes(&entry.path()).unwrap_or_default());
        }
    }
    Ok(found)
}

fn read_processes(path: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid != 0)
            .collect()),
        // A threaded cgroup tells its processes at its root only.
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
