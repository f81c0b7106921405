//! What `run` tells the process it starts: all of it in one sealed memory file, so that neither
//! arguments nor environment carry anything.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::{assurance::has_unix, user::AgentUser};
use crate::{
    kernel::KernelHeld,
    policy::{Mode, Policy},
};

/// How a command is to be started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The agent's cgroup.
    pub cgroup: PathBuf,
    /// User id to become.
    pub uid: u32,
    /// Group id to become.
    pub gid: u32,
    /// Soft limit on open files; as inherited if none.
    pub open_files: Option<u64>,
    /// The run's own folder, the only one of Sluice's that stays in sight.
    pub scratch: PathBuf,
    /// Paths below `/run` that stay in sight.
    pub run: Vec<PathBuf>,
    /// Files and folders of Sluice's that must not be seen.
    pub hide: Vec<PathBuf>,
    /// Places it may read below; none for all.
    pub read: Option<Vec<PathBuf>>,
    /// Places it may write below; none for all.
    pub write: Option<Vec<PathBuf>>,
    /// Whether processes may trace one another.
    pub ptrace: bool,
    /// Whether it may make user namespaces.
    pub user_namespaces: bool,
    /// Whether it may use `io_uring`.
    pub io_uring: bool,
    /// Whether it may make unix sockets at all.
    pub unix: bool,
    /// Whether it may reach abstract unix sockets of others, as far as the kernel half lets it.
    pub abstract_unix: bool,
    /// Which of standard input, output and error become its own terminal.
    pub terminal: [bool; 3],
    /// Whether the command begins in the foreground of that terminal, or is to ask.
    pub in_front: bool,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl Order {
    /// What a policy asks for, for this user in this cgroup. What is to be run is left to add.
    #[must_use]
    pub fn under(
        policy: &Policy,
        user: &AgentUser,
        held: KernelHeld,
        cgroup: &Path,
        scratch: &Path,
    ) -> Self {
        let process = policy.process();
        let unix = &policy.network().unix;
        let observe = policy.mode() == Mode::Observe;
        // Sockets that policy names stay in sight where `/run` would cover them.
        let named = unix.names.iter().map(PathBuf::from);
        let named = named.filter(|path| path.starts_with("/run"));
        let abstract_unix =
            observe || unix.any || unix.names.iter().any(|name| name.starts_with('@'));
        Self {
            cgroup: cgroup.to_owned(),
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            open_files: None,
            scratch: scratch.to_owned(),
            run: process.run.iter().cloned().chain(named).collect(),
            hide: Vec::new(),
            read: process.read.clone(),
            write: process.write.clone(),
            ptrace: process.ptrace,
            user_namespaces: process.user_namespaces,
            io_uring: process.io_uring,
            unix: observe || has_unix(policy, held),
            abstract_unix,
            terminal: [false; 3],
            in_front: false,
            command: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Writes it into a memory file.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn write(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("sluice-order", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// If it is not one.
    pub fn read(file: OwnedFd) -> io::Result<Self> {
        let mut text = Vec::new();
        File::from(file).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}
