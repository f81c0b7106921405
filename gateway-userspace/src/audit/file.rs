//! Opens an audit file: makes it, or proves that an existing one is ours and can be continued.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::Deserialize;

use super::{MAX_LINE, NotAudit, OpenError, line::Chain, loss::Loss, sink::Sink};

/// An open target and where its chain stands.
pub(super) struct Opened {
    pub(super) sink: Sink,
    pub(super) chain: Chain,
    /// The loss of an unfinished last line, to be written first.
    pub(super) torn: Option<Loss>,
}

impl Opened {
    /// A target that begins a chain.
    pub(super) fn new(sink: Sink) -> Self {
        Self {
            sink,
            chain: Chain::start(),
            torn: None,
        }
    }
}

/// Opens this file for appending: checked, locked and repaired.
pub(super) fn open(path: &Path) -> Result<Opened, OpenError> {
    let failed = |action| {
        move |source| OpenError::File {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let refused = |reason| OpenError::NotAudit {
        path: path.to_owned(),
        reason,
    };
    create_folder(path).map_err(failed("making the folder of"))?;
    let file = open_or_create(path).map_err(failed("opening"))?;
    check_owner(&file, path)?;
    lock(&file, path)?;

    let end = End::read(&file)
        .map_err(failed("reading"))?
        .map_err(refused)?;
    let chain = match &end.line {
        Some(line) => continued(line).map_err(refused)?,
        None => Chain::start(),
    };
    if end.line.is_none() {
        sync_folder(path);
    }
    let torn = set_aside(&file, path, &end.unfinished, chain.next());
    Ok(Opened {
        torn: torn.map_err(failed("repairing"))?,
        sink: Sink::File(file),
        chain,
    })
}

fn create_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    })
}

fn open_or_create(path: &Path) -> io::Result<File> {
    // Readable, because the end of an existing file is read; also, a pipe does not block then.
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o600);
    Ok(rustix::fs::open(path, flags | OFlags::CREATE, mode)?.into())
}

/// Makes the name of a new file durable, where the file system can; without that, a power cut
/// may take the whole file.
fn sync_folder(path: &Path) {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
        tracing::debug!(%error, "audit: syncing the folder of the file");
    }
}

/// A file that somebody else can write proves nothing.
fn check_owner(file: &File, path: &Path) -> Result<(), OpenError> {
    let found = file.metadata().map_err(|source| OpenError::File {
        action: "examining",
        path: path.to_owned(),
        source,
    })?;
    if !found.is_file() {
        return Err(OpenError::NotRegular {
            path: path.to_owned(),
        });
    }
    let ours = rustix::process::geteuid().as_raw();
    if found.uid() != ours || found.mode() & 0o022 != 0 {
        return Err(OpenError::NotOurs {
            path: path.to_owned(),
            uid: found.uid(),
            mode: found.mode() & 0o7777,
            ours,
        });
    }
    Ok(())
}

/// Two writers would interleave and break the chain. The lock goes with the descriptor.
fn lock(file: &File, path: &Path) -> Result<(), OpenError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: path.to_owned(),
            holder: holder(file),
        }),
        Err(errno) => Err(OpenError::File {
            action: "locking",
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Who holds the lock, as far as `/proc/locks` tells: `1: FLOCK ADVISORY WRITE PID MAJ:MIN:INODE`.
fn holder(file: &File) -> Option<u32> {
    let found = file.metadata().ok()?;
    let (major, minor) = (
        rustix::fs::major(found.dev()),
        rustix::fs::minor(found.dev()),
    );
    let wanted = format!("{major:02x}:{minor:02x}:{}", found.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, pid, inode) = (fields.next()?, fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && inode == wanted).then(|| pid.parse().ok())?
    })
}

/// What a file ends with.
struct End {
    /// The last complete line, without its newline; none in an empty file.
    line: Option<Vec<u8>>,
    /// What comes after it: empty unless the writer was cut off.
    unfinished: Vec<u8>,
}

impl End {
    /// Reads backwards no further than two of our lines reach.
    fn read(file: &File) -> io::Result<Result<Self, NotAudit>> {
        const WINDOW: usize = 2 * (MAX_LINE + 1);
        let length = file.metadata()?.len();
        let start = length.saturating_sub(WINDOW as u64);
        let mut window = vec![0; usize::try_from(length - start).unwrap_or(WINDOW)];
        file.read_exact_at(&mut window, start)?;
        Ok(Self::split(window, start == 0))
    }

    /// `whole`: the window is the whole file, so that its start is the start of a line.
    fn split(mut window: Vec<u8>, whole: bool) -> Result<Self, NotAudit> {
        let complete = memchr::memrchr(b'\n', &window).map_or(0, |newline| newline + 1);
        let unfinished = window.split_off(complete);
        if unfinished.len() > MAX_LINE || (complete == 0 && !whole) {
            return Err(NotAudit::TooLong);
        }
        if window.pop().is_none() {
            return Ok(Self {
                line: None,
                unfinished,
            });
        }
        let line = match memchr::memrchr(b'\n', &window) {
            Some(newline) => window.split_off(newline + 1),
            None if whole => window,
            None => return Err(NotAudit::TooLong),
        };
        if line.len() > MAX_LINE {
            return Err(NotAudit::TooLong);
        }
        Ok(Self {
            line: Some(line),
            unfinished,
        })
    }
}

/// The chain after this line.
fn continued(line: &[u8]) -> Result<Chain, NotAudit> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let Numbered { seq } = serde_json::from_slice(line).map_err(|_| NotAudit::NotARecord)?;
    Chain::after(line, seq).ok_or(NotAudit::Exhausted)
}

/// Moves an unfinished line into a file of its own, `NAME.torn-SEQ`, named after the number of
/// the record that will tell of it.
///
/// A crash after the move and before that record leaves the file without the line but with the
/// moved one beside it: then the next start still tells of it.
fn set_aside(file: &File, path: &Path, unfinished: &[u8], seq: u64) -> io::Result<Option<Loss>> {
    let aside = aside_path(path, seq);
    if !unfinished.is_empty() {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut copy = File::from(rustix::fs::open(&aside, flags, Mode::from_raw_mode(0o600))?);
        copy.write_all(unfinished)?;
        copy.sync_all()?;
        file.set_len(file.metadata()?.len() - unfinished.len() as u64)?;
        file.sync_data()?;
    }
    let moved = match aside.symlink_metadata() {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = aside.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some(Loss::torn(format!(
        "the writer was cut off: {moved} bytes of an unfinished record were moved to {name}; \
         what was still in memory is gone and not counted"
    ))))
}

fn aside_path(path: &Path, seq: u64) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".torn-{seq}"));
    PathBuf::from(name)
}
