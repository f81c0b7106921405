//! Where bytes go: a file, standard output, or memory.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use super::MemoryLog;

/// An open target.
#[derive(Debug)]
pub(super) enum Sink {
    /// A file of ours.
    File(File),
    /// A pipe or terminal: nothing to force to a disk.
    Stream(File),
    /// Memory.
    Memory(MemoryLog),
    /// The supervisor, which numbers and chains anew.
    Supervisor(OwnedFd),
}

impl Sink {
    /// This process's standard output.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::Stream(File::from(
            io::stdout().as_fd().try_clone_to_owned()?,
        )))
    }

    /// Writes some of the bytes, at least one.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self {
                Self::File(file) | Self::Stream(file) => file.write(bytes),
                Self::Memory(log) => log.write(bytes),
                Self::Supervisor(socket) => super::remote::send_lines(socket, bytes),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    /// Forces what was written to the disk, where there is one.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_data(),
            Self::Stream(_) | Self::Memory(_) | Self::Supervisor(_) => Ok(()),
        }
    }
}
