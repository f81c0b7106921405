//! What the new process does before it becomes the agent. It has one thread, and it is still
//! root.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};

use caps::CapSet;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::stdio;
use crate::{kernel::cgroup, open_files};

/// The hidden command's arguments.
#[derive(clap::Args, Debug)]
pub struct EnterCommand {
    /// Cgroup to join.
    #[arg(long)]
    cgroup: PathBuf,
    /// User id to become.
    #[arg(long)]
    uid: u32,
    /// Group id to become.
    #[arg(long)]
    gid: u32,
    /// Soft limit on open files to have; as inherited if it is not given.
    #[arg(long)]
    open_files: Option<u64>,
    /// The agent's command.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Exit status when Sluice itself failed and the command was not run.
pub const FAILED: u8 = 125;
/// Exit status when the command is there and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit status when the command is not there.
pub const NOT_FOUND: u8 = 127;

/// Why the agent was not started.
#[derive(Debug, thiserror::Error)]
enum EnterError {
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    #[error("the kernel put this process into {0:?} instead of the agent's cgroup")]
    Elsewhere(Option<String>),
    #[error(transparent)]
    Stdio(#[from] stdio::OpenDoor),
    #[error("becoming uid {uid}, gid {gid}")]
    Identity {
        uid: u32,
        gid: u32,
        #[source]
        source: nix::Error,
    },
    #[error("giving up capabilities")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("setting the limit on open files")]
    OpenFiles(#[source] io::Error),
    #[error("setting no_new_privs")]
    NoNewPrivileges(#[source] nix::Error),
}

impl EnterCommand {
    /// Joins the cgroup, gives up everything else, and becomes the command. Comes back only if
    /// that failed.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Err(error) = self.confine() {
            let error = anyhow::Error::from(error);
            crate::cli::say::error(format_args!("{error:#}; nothing was run"));
            return FAILED.into();
        }
        let Some((program, arguments)) = self.command.split_first() else {
            return FAILED.into();
        };
        let error = Command::new(program).args(arguments).exec();
        crate::cli::say::error(format_args!("cannot run {}: {error}", program.display()));
        match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND.into(),
            _ => NOT_EXECUTABLE.into(),
        }
    }

    fn confine(&self) -> Result<(), EnterError> {
        stdio::check()?;
        cgroup::enter(&self.cgroup)?;
        let now_in = cgroup::of_process("self")?;
        let mount = cgroup::mount_point()?;
        let expected = self.cgroup.strip_prefix(&mount).ok();
        if now_in.as_deref().map(|path| path.trim_start_matches('/'))
            != expected.and_then(|path| path.to_str())
        {
            return Err(EnterError::Elsewhere(now_in));
        }
        // Whatever the caller left open stays behind: a socket made outside is a way out.
        close_fds::set_fds_cloexec(3, &[]);
        if let Some(limit) = self.open_files {
            open_files::set(Some(limit)).map_err(EnterError::OpenFiles)?;
        }
        self.drop_privileges()
    }

    /// Order matters: the bounding set goes while capabilities are there to do it, the rest goes
    /// with the uid, and what a uid of 0 would keep goes last.
    fn drop_privileges(&self) -> Result<(), EnterError> {
        let failed = |source| EnterError::Identity {
            uid: self.uid,
            gid: self.gid,
            source,
        };
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Bounding)?;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        setgroups(&[gid]).map_err(failed)?;
        setresgid(gid, gid, gid).map_err(failed)?;
        setresuid(uid, uid, uid).map_err(failed)?;
        caps::clear(None, CapSet::Inheritable)?;
        caps::clear(None, CapSet::Effective)?;
        caps::clear(None, CapSet::Permitted)?;
        nix::sys::prctl::set_no_new_privs().map_err(EnterError::NoNewPrivileges)
    }
}
