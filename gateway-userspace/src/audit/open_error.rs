//! Why an audit stream cannot be opened, with the mend where there is one.

use std::{io, path::PathBuf};

use super::MAX_CAPACITY;

/// Why an audit stream cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A system call failed.
    #[error("{action} the audit file {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another process writes to it.
    #[error("the audit file {path} is being written by {}; two writers would break its chain",
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who holds the lock, where the kernel tells.
        holder: Option<u32>,
    },
    /// It is a folder, pipe or device.
    #[error("{path} is no regular file; use `-` for standard output")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could have written it, or still can.
    #[error(
        "the audit file {path} belongs to uid {uid} with mode {mode:03o}: it must belong to uid \
         {ours} and be writable by nobody else"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
        /// Who we are.
        ours: u32,
    },
    /// Its end is not what an audit writer leaves behind.
    #[error("{path} cannot be continued: {reason}; move it away to start a new one")]
    NotAudit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: NotAudit,
    },
    /// Standard output is not open.
    #[error("opening standard output for the audit stream")]
    Stdout(#[source] io::Error),
    /// The capacity is zero or over [`MAX_CAPACITY`].
    #[error("an audit queue holds 1 to {MAX_CAPACITY} records, not {capacity}")]
    Capacity {
        /// What was asked for.
        capacity: usize,
    },
    /// The writer thread did not start.
    #[error("starting the audit writer")]
    Thread(#[source] io::Error),
}

/// What is wrong with the end of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAudit {
    /// Not JSON, or without a number.
    #[error("its last line is no audit record")]
    NotARecord,
    /// Longer than any line of ours.
    #[error("its last line is longer than any audit record")]
    TooLong,
    /// The number of its last line is the highest there is.
    #[error("its last line has the highest number there is")]
    Exhausted,
}
