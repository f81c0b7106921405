//! The limit on open files: a gateway needs two for each connection, and the usual soft limit
//! of 1,024 is less than one agent may have.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit to the hard one. Answers with the soft limit as it was, for
/// programs that are started from here: some have no room for descriptors over 1,023.
///
/// # Errors
/// When the system refuses.
pub fn raise() -> io::Result<Option<u64>> {
    let limit = getrlimit(Resource::Nofile);
    set(limit.maximum)?;
    Ok(limit.current)
}

/// Sets this process's soft limit; none is no limit.
///
/// # Errors
/// When the system refuses.
pub fn set(soft: Option<u64>) -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: soft,
        maximum,
    };
    Ok(setrlimit(Resource::Nofile, limit)?)
}
