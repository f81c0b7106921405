//! What runs on this node: one small file for each session, in its scratch folder.
//!
//! The file says what a session is; whether it still is, is asked of the system. A session writes
//! to it every few seconds, so that one that stands still shows.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Folder of scratch folders, each of one session.
pub const SCRATCH: &str = "/run/sluice";

/// Name of the file in a scratch folder.
const FILE: &str = "session.json";

/// How often a session says that it is there.
pub const BEAT: Duration = Duration::from_secs(2);

/// How long a session may be silent before it counts as standing still.
const SILENCE: Duration = Duration::from_secs(10);

/// Most bytes of a session's file that are read.
const FILE_MAX: u64 = 256 << 10;

/// How an agent came to be confined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// `sluice run` started it.
    Run,
    /// It ran before, and `sluice attach` confined it.
    Attach,
}

/// One session, as it describes itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Its name, which pins and cgroups carry.
    pub run: String,
    /// How it came about.
    pub origin: Origin,
    /// The agent.
    pub agent: String,
    /// The agent's cgroup.
    pub cgroup: PathBuf,
    /// Its id: a cgroup that was removed and made again has another.
    pub cgroup_id: u64,
    /// The assurance level.
    pub assurance: String,
    /// What is open.
    pub open: Vec<String>,
    /// Digest of the policy.
    pub policy: String,
    /// The gateway's port.
    pub port: u16,
    /// The supervisor's process.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
}

/// Whether a session is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It serves.
    Serving,
    /// Its supervisor is there and does not answer: the agent is shut in, and nothing gets out.
    Silent,
    /// Its supervisor is gone: the agent is shut in, and nothing gets out.
    Abandoned,
}

impl Health {
    /// In words.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Silent => "gateway not answering",
            Self::Abandoned => "gateway gone",
        }
    }
}

/// The file of a session of this process.
#[derive(Debug)]
pub struct Entry {
    file: File,
}

impl Entry {
    /// Writes it, readable by root alone.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(scratch: &Path, session: &Session) -> io::Result<Self> {
        let path = scratch.join(FILE);
        let new = scratch.join(format!(".{FILE}"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        serde_json::to_writer_pretty(&mut file, session)?;
        file.flush()?;
        fs::rename(new, path)?;
        Ok(Self { file })
    }

    /// Says that the session is there.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn beat(&self) -> io::Result<()> {
        self.file.set_modified(SystemTime::now())
    }

    /// Says so every [`BEAT`], for as long as the future is polled.
    pub async fn keep_beating(&self) {
        let mut every = tokio::time::interval(BEAT);
        loop {
            every.tick().await;
            if let Err(error) = self.beat() {
                tracing::warn!(%error, "the session's file cannot be touched");
            }
        }
    }
}

/// A session that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// What it says of itself.
    pub session: Session,
    /// Whether it is there.
    pub health: Health,
    /// Its scratch folder.
    pub scratch: PathBuf,
}

/// All sessions of this node that can be read, by name. Whoever may not read them finds none.
///
/// # Errors
/// If the folder is there and cannot be read.
pub fn all() -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(SCRATCH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| match read(&entry.path()) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "reading {}", entry.path().display());
                None
            }
        })
        .collect();
    found.sort_by(|one, other| one.session.run.cmp(&other.session.run));
    Ok(found)
}

/// The session of a scratch folder; none if it has no file, as one that is just starting, or if
/// it has ended for good.
fn read(scratch: &Path) -> io::Result<Option<Found>> {
    let path = scratch.join(FILE);
    let file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata()?;
    // Only root's own word counts.
    if metadata.uid() != 0 {
        return Ok(None);
    }
    let beat = metadata.modified()?;
    let session: Session = serde_json::from_reader(io::Read::take(file, FILE_MAX))?;
    let health = health(&session, beat);
    let over = health == Health::Abandoned && !is_same_cgroup(&session);
    Ok((!over).then(|| Found {
        session,
        health,
        scratch: scratch.to_owned(),
    }))
}

/// Whether the session's cgroup is still the one that it was.
#[must_use]
pub fn is_same_cgroup(session: &Session) -> bool {
    fs::metadata(&session.cgroup).is_ok_and(|metadata| metadata.ino() == session.cgroup_id)
}

fn health(session: &Session, beat: SystemTime) -> Health {
    if !is_supervisor(session) {
        return Health::Abandoned;
    }
    match beat.elapsed() {
        Ok(silent) if silent > SILENCE => Health::Silent,
        // A beat in the future: the clock was set back.
        Ok(_) | Err(_) => Health::Serving,
    }
}

/// Whether the process of that number is still the session's supervisor: it is in the cgroup that
/// bears the session's name.
#[must_use]
pub fn is_supervisor(session: &Session) -> bool {
    let cgroup = crate::kernel::cgroup::of_process(&session.pid.to_string());
    let expected = format!("/{}/gateway", session.run);
    cgroup.is_ok_and(|path| path.is_some_and(|path| path.ends_with(&expected)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: u32) -> Session {
        Session {
            run: "run-x".to_owned(),
            origin: Origin::Run,
            agent: "a".to_owned(),
            cgroup: PathBuf::from("/no/such/cgroup"),
            cgroup_id: 1,
            assurance: "sealed".to_owned(),
            open: Vec::new(),
            policy: "sha256:0".to_owned(),
            port: 9,
            pid,
            started: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_process_that_is_no_supervisor_makes_a_session_abandoned() {
        let own = session(std::process::id());
        assert_eq!(health(&own, SystemTime::now()), Health::Abandoned);
    }

    #[test]
    fn what_is_written_is_read_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let entry = Entry::write(folder.path(), &session(1)).expect("written");
        entry.beat().expect("touched");
        let path = folder.path().join(FILE);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(path).expect("read");
        let read: Session = serde_json::from_str(&text).expect("a session");
        assert_eq!(read, session(1));
    }
}
