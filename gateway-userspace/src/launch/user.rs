//! Who the agent runs as: never this process's own root by accident.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User};

/// Uids that systemd sets aside for services without an account; nobody logs in with them.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Why no user could be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The named user is not there.
    #[error("no user `{0}`; give a name or number that `getent passwd` knows, or a plain uid")]
    Unknown(String),
    /// The user database could not be read.
    #[error("reading the user database")]
    Database(#[source] nix::Error),
    /// The scratch home could not be made.
    #[error("making the home folder {}", path.display())]
    Home {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// The identity an agent runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentUser {
    /// User id.
    pub uid: Uid,
    /// Primary group id.
    pub gid: Gid,
    /// Account name; none for an id without an account.
    pub name: Option<String>,
    /// Home folder of the account; none for an id without one.
    pub home: Option<PathBuf>,
}

impl AgentUser {
    /// Chooses: the user that was asked for; else whoever called `sudo`; else, so that root's
    /// files stay out of reach, an id of its own without an account.
    ///
    /// # Errors
    /// [`UserError::Unknown`] if the user that was asked for does not exist.
    pub fn choose(asked: Option<&str>, agent: &str) -> Result<Self, UserError> {
        if let Some(asked) = asked {
            return Self::named(asked);
        }
        let sudo = std::env::var("SUDO_UID").ok().filter(|uid| uid != "0");
        match sudo {
            Some(uid) => Self::named(&uid),
            None => Self::unclaimed(agent),
        }
    }

    fn named(asked: &str) -> Result<Self, UserError> {
        let found = match asked.parse::<u32>() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(asked),
        }
        .map_err(UserError::Database)?;
        match (found, asked.parse::<u32>()) {
            (Some(user), _) => Ok(Self {
                uid: user.uid,
                gid: user.gid,
                name: Some(user.name),
                home: Some(user.dir),
            }),
            (None, Ok(id)) => Ok(Self {
                uid: Uid::from_raw(id),
                gid: Gid::from_raw(id),
                name: None,
                home: None,
            }),
            (None, Err(_)) => Err(UserError::Unknown(asked.to_owned())),
        }
    }

    /// An id without an account, the same for the same agent unless somebody has it.
    fn unclaimed(agent: &str) -> Result<Self, UserError> {
        let size = DYNAMIC.end() - DYNAMIC.start() + 1;
        // FNV-1a: any spread will do, and it is the same on every host.
        let hash = agent.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        for step in 0..size {
            let id = DYNAMIC.start() + (hash.wrapping_add(step) % size);
            let taken = User::from_uid(Uid::from_raw(id)).map_err(UserError::Database)?;
            if taken.is_none() {
                return Ok(Self {
                    uid: Uid::from_raw(id),
                    gid: Gid::from_raw(id),
                    name: None,
                    home: None,
                });
            }
        }
        Err(UserError::Unknown("an id without an account".to_owned()))
    }

    /// An id without an account under which no process runs now.
    ///
    /// # Errors
    /// If the processes or accounts cannot be read.
    pub(crate) fn unused() -> Result<Uid, UserError> {
        let used = uids_in_use();
        let first = std::process::id();
        let size = DYNAMIC.end() - DYNAMIC.start() + 1;
        for step in 0..size {
            let id = Uid::from_raw(DYNAMIC.start() + (first.wrapping_add(step) % size));
            let account = User::from_uid(id).map_err(UserError::Database)?;
            if account.is_none() && !used.contains(&id.as_raw()) {
                return Ok(id);
            }
        }
        Err(UserError::Unknown("an id that nobody uses".to_owned()))
    }

    /// Environment that names this user; makes the place of a private home below `scratch` where
    /// the user has none. What the agent sees there is a file system of its own.
    ///
    /// # Errors
    /// [`UserError::Home`] if that folder cannot be made.
    pub fn environment(&self, scratch: &Path) -> Result<Vec<(&'static str, OsString)>, UserError> {
        let home = match &self.home {
            Some(home) => home.clone(),
            None => self.make_home(scratch)?,
        };
        let name = self
            .name
            .clone()
            .unwrap_or_else(|| self.uid.as_raw().to_string());
        Ok(vec![
            ("HOME", home.into_os_string()),
            ("USER", name.clone().into()),
            ("LOGNAME", name.into()),
        ])
    }

    fn make_home(&self, scratch: &Path) -> Result<PathBuf, UserError> {
        let path = scratch.join("home");
        let made = fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .and_then(|()| chown(&path, Some(self.uid.as_raw()), Some(self.gid.as_raw())));
        match made {
            Ok(()) => Ok(path),
            Err(source) => Err(UserError::Home { path, source }),
        }
    }
}

/// All ids, real, effective, saved and of the file system, of the processes that are there.
fn uids_in_use() -> std::collections::HashSet<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
        .flat_map(|status| {
            let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            let uids = uids.unwrap_or_default().split_whitespace();
            uids.filter_map(|uid| uid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let root = AgentUser::named("root").expect("root exists");
        assert_eq!(root.uid.as_raw(), 0);
        assert_eq!(AgentUser::named("0").expect("uid 0 exists"), root);
        assert!(matches!(
            AgentUser::named("no-such-user-here"),
            Err(UserError::Unknown(name)) if name == "no-such-user-here"
        ));
    }

    #[test]
    fn an_unclaimed_id_is_stable_and_nobodys() {
        let first = AgentUser::unclaimed("a").expect("an id");
        assert_eq!(first, AgentUser::unclaimed("a").expect("an id"));
        assert!(DYNAMIC.contains(&first.uid.as_raw()));
        assert_ne!(first.uid, AgentUser::unclaimed("b").expect("an id").uid);
    }
}
