//! Looks at the init from outside, before the command starts: what is in force, not what was
//! asked for.

use std::{fs, io, path::Path};

use crate::kernel::cgroup;

/// Namespaces that must be the agent's own.
const NAMESPACES: [&str; 5] = ["pid", "mnt", "ipc", "uts", "cgroup"];

/// Why the init is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ReadbackError {
    /// It could not be looked at.
    #[error("looking at the agent's first process")]
    Io(#[from] io::Error),
    /// Its cgroup could not be read.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    /// It is not as it must be.
    #[error("the agent's first process {0}; nothing was run")]
    Open(String),
}

/// Checks the init with this process id.
///
/// # Errors
/// [`ReadbackError::Open`] names what does not hold.
pub fn check(init: i32, (uid, gid): (u32, u32), within: &str) -> Result<(), ReadbackError> {
    let folder = Path::new("/proc").join(init.to_string());
    let status = fs::read_to_string(folder.join("status"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .unwrap_or_default()
    };
    let open = |text: String| Err(ReadbackError::Open(text));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if u64::from_str_radix(field(set), 16) != Ok(0) {
            return open(format!("has capabilities: {set} {}", field(set)));
        }
    }
    for (name, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        if field(name) != expected {
            return open(format!("has {name} {:?}", field(name)));
        }
    }
    // Real, effective, saved, and of the file system; and of all groups only its own.
    for (name, words, count, id) in [
        ("Uid", "user ids", 4, uid),
        ("Gid", "group ids", 4, gid),
        ("Groups", "groups", 1, gid),
    ] {
        let ids: Vec<_> = field(name).split_whitespace().collect();
        if ids.len() != count || ids.iter().any(|found| *found != id.to_string()) {
            return open(format!("has the {words} {}", field(name)));
        }
    }
    for name in NAMESPACES {
        let ours = fs::read_link(Path::new("/proc/self/ns").join(name))?;
        if fs::read_link(folder.join("ns").join(name))? == ours {
            return open(format!("shares this {name} namespace"));
        }
    }
    match cgroup::of_process(&init.to_string())? {
        Some(path) if path == within => Ok(()),
        other => open(format!("is in the cgroup {other:?}")),
    }
}
