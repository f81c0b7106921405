//! What runs on this node: one small file for each session, in its scratch folder.
//!
//! The file says what a session is; whether it still is, is asked of the system. A session writes
//! to it every few seconds, so that one that stands still shows, and says there when its worker
//! does.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::kernel::bpffs;

/// Folder of scratch folders, each of one session.
pub const SCRATCH: &str = "/run/sluice";

/// Name of the file in a scratch folder.
const FILE: &str = "session.json";

/// How often a session says that it is there.
pub const BEAT: Duration = Duration::from_secs(2);

/// How long a session may be silent before it counts as standing still.
const SILENCE: Duration = Duration::from_secs(10);

/// How long it is remembered that a cgroup was held which is gone: one that comes back later, as
/// that of a unit which is started again, is shown as not held.
const REMEMBERED: Duration = Duration::from_hours(24);

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
    /// The gateway's sockets, as descriptors of that process, for whoever takes over; none until
    /// it serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<i32>,
}

/// Whether a session is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It serves.
    Serving,
    /// Its supervisor or its worker is there and does not answer: the agent is shut in, and nothing
    /// gets out.
    Silent,
    /// Its supervisor is gone: the agent is shut in, and nothing gets out.
    Abandoned,
    /// Its cgroup was removed, and whatever is in one made again in its place is **not** confined;
    /// or its supervisor is gone and its programs are too, and its agent is not either.
    Unheld,
}

impl Health {
    /// In words.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Silent => "gateway not answering",
            Self::Abandoned => "gateway gone",
            Self::Unheld => "NOT HELD: its cgroup or its programs were removed, attach to it again",
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

    /// Says that it is there, and that what serves it stands still: the file then looks as if
    /// nobody had touched it for too long.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn stall(&self) -> io::Result<()> {
        let silent = SILENCE + BEAT;
        self.file.set_modified(SystemTime::now() - silent)
    }

    /// Says one or the other every [`BEAT`], for as long as the future is polled.
    pub async fn keep_beating(&self, answers: impl Fn() -> bool) {
        let mut every = tokio::time::interval(BEAT);
        loop {
            every.tick().await;
            let told = if answers() { self.beat() } else { self.stall() };
            if let Err(error) = told {
                tracing::warn!(%error, "the session's file cannot be touched");
            }
        }
    }
}

/// Takes a session off the list: another has taken over from it.
///
/// # Errors
/// If the file cannot be removed.
pub fn withdraw(scratch: &Path) -> io::Result<()> {
    fs::remove_file(scratch.join(FILE))
}

/// Whether the session of this folder is on the list.
#[must_use]
pub fn is_listed(scratch: &Path) -> bool {
    scratch.join(FILE).exists()
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
    let Some((session, beat)) = read_file(scratch)? else {
        return Ok(None);
    };
    let place = Place::of(&session);
    let supervised = is_supervisor(&session);
    let place = match place {
        Place::Same if !supervised && !bpffs::holds_links(&session.run) => Place::Bare,
        place => place,
    };
    let over = place == Place::Gone && !supervised;
    Ok((!over).then(|| Found {
        health: health(place, supervised, beat),
        session,
        scratch: scratch.to_owned(),
    }))
}

/// A session's file, and when it was last touched.
fn read_file(scratch: &Path) -> io::Result<Option<(Session, SystemTime)>> {
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
    let session = serde_json::from_reader(io::Read::take(file, FILE_MAX))?;
    Ok(Some((session, beat)))
}

/// Whether the file in this folder, of a session that has nothing else left, still has something
/// to tell: that whatever is in its cgroup is not held, or will be if the cgroup comes back soon.
#[must_use]
pub fn still_tells(scratch: &Path) -> bool {
    match read_file(scratch) {
        Ok(Some((session, beat))) if session.origin == Origin::Attach => {
            Place::of(&session) != Place::Gone
                || beat.elapsed().map_or(true, |silent| silent < REMEMBERED)
        }
        Ok(Some(_) | None) => false,
        // What cannot be read is left to look at.
        Err(_) => true,
    }
}

/// What is where a session's cgroup was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// That cgroup.
    Same,
    /// That cgroup, and no program on it any more.
    Bare,
    /// Another of the same path: links to the one before hold nothing in it.
    Remade,
    /// Nothing.
    Gone,
}

impl Place {
    fn of(session: &Session) -> Self {
        match fs::metadata(&session.cgroup) {
            Ok(metadata) if metadata.ino() == session.cgroup_id => Self::Same,
            Ok(_) => Self::Remade,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Gone,
            // It cannot be told: no word that it holds.
            Err(_) => Self::Remade,
        }
    }
}

fn health(place: Place, supervised: bool, beat: SystemTime) -> Health {
    match place {
        Place::Bare | Place::Remade | Place::Gone => Health::Unheld,
        Place::Same if !supervised => Health::Abandoned,
        Place::Same => match beat.elapsed() {
            Ok(silent) if silent > SILENCE => Health::Silent,
            // A beat in the future: the clock was set back.
            Ok(_) | Err(_) => Health::Serving,
        },
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
            sockets: Vec::new(),
        }
    }

    #[test]
    fn a_process_that_is_no_supervisor_makes_a_session_abandoned() {
        let supervised = is_supervisor(&session(std::process::id()));
        let found = health(Place::Same, supervised, SystemTime::now());
        assert_eq!(found, Health::Abandoned);
    }

    #[test]
    fn nothing_is_held_where_the_cgroup_is_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut one = session(1);
        assert_eq!(Place::of(&one), Place::Gone);
        one.cgroup = folder.path().to_owned();
        assert_eq!(Place::of(&one), Place::Remade);
        for supervised in [true, false] {
            let found = health(Place::of(&one), supervised, SystemTime::now());
            assert_eq!(found, Health::Unheld);
        }
        one.cgroup_id = fs::metadata(folder.path()).expect("there").ino();
        assert_eq!(Place::of(&one), Place::Same);
        let now = SystemTime::now();
        assert_eq!(health(Place::Same, true, now), Health::Serving);
        let silent = now - SILENCE - BEAT;
        assert_eq!(health(Place::Same, true, silent), Health::Silent);
    }

    #[test]
    fn that_a_cgroup_was_held_is_remembered_for_a_day() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(!still_tells(folder.path()), "no file");
        let mut one = session(1);
        let write = |session: &Session, age: Duration| {
            let entry = Entry::write(folder.path(), session).expect("written");
            let then = SystemTime::now() - age;
            entry.file.set_modified(then).expect("touched");
        };
        write(&one, Duration::ZERO);
        assert!(!still_tells(folder.path()), "a run's cgroup is its own");
        one.origin = Origin::Attach;
        write(&one, Duration::ZERO);
        assert!(still_tells(folder.path()));
        write(&one, REMEMBERED + BEAT);
        assert!(!still_tells(folder.path()));
        one.cgroup = folder.path().to_owned();
        write(&one, REMEMBERED + BEAT);
        assert!(still_tells(folder.path()), "it is back");
    }

    #[test]
    fn what_is_written_is_read_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let entry = Entry::write(folder.path(), &session(1)).expect("written");
        entry.stall().expect("touched");
        let (_, beat) = read_file(folder.path()).expect("read").expect("there");
        assert_eq!(health(Place::Same, true, beat), Health::Silent);
        entry.beat().expect("touched");
        let (_, beat) = read_file(folder.path()).expect("read").expect("there");
        assert_eq!(health(Place::Same, true, beat), Health::Serving);
        let path = folder.path().join(FILE);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(path).expect("read");
        let read: Session = serde_json::from_str(&text).expect("a session");
        assert_eq!(read, session(1));
    }
}
