//! Network namespaces: those that an agent's processes are in, and opening sockets there.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns};

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
