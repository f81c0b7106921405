//! What became of a file while its end was awaited.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::lines::Lines;

/// How the file changed besides growing.
#[derive(Debug)]
pub(super) enum Change {
    /// Not at all.
    None,
    /// It is shorter than what was read of it.
    Cut,
    /// Another file has its name.
    Replaced(File),
}

/// A file that is followed by its name.
#[derive(Debug)]
pub(super) struct Followed {
    path: PathBuf,
}

impl Followed {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Looks whether the name still means the file that is read.
    pub(super) fn change(&self, lines: &Lines) -> io::Result<Change> {
        let read = lines.file().metadata()?;
        match File::open(&self.path) {
            Ok(file) => {
                let named = file.metadata()?;
                if (named.dev(), named.ino()) != (read.dev(), read.ino()) {
                    return Ok(Change::Replaced(file));
                }
            }
            // Moved away, and the next one is not there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(if read.len() < lines.position() {
            Change::Cut
        } else {
            Change::None
        })
    }
}
