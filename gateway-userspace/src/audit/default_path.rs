//! Where the audit file is when nobody says, and what else Sluice keeps.

use std::{ffi::OsString, path::PathBuf};

/// Neither `XDG_STATE_HOME` nor `HOME` names an absolute folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no place for what Sluice writes: set HOME or XDG_STATE_HOME, or name files yourself (--audit)"
)]
pub struct NoStateDirectory;

/// The default audit file: `/var/log/sluice/audit.jsonl` for root, otherwise
/// `sluice/audit.jsonl` in `$XDG_STATE_HOME` (by default `~/.local/state`).
///
/// Takes the environment as arguments: [`rustix::process::geteuid`] and [`std::env::var_os`]
/// outside tests.
///
/// # Errors
/// [`NoStateDirectory`] when the variables name no absolute folder.
pub fn default_path(
    root: bool,
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Result<PathBuf, NoStateDirectory> {
    if root {
        return Ok(PathBuf::from("/var/log/sluice/audit.jsonl"));
    }
    Ok(state_folder(variable)?.join("audit.jsonl"))
}

/// Where a user who is not root keeps what Sluice writes: `sluice` in `$XDG_STATE_HOME` (by
/// default `~/.local/state`).
///
/// # Errors
/// [`NoStateDirectory`] when the variables name no absolute folder.
pub fn state_folder(
    variable: impl Fn(&'static str) -> Option<OsString>,
) -> Result<PathBuf, NoStateDirectory> {
    // The XDG specification: relative paths are invalid and to be ignored.
    let folder = |name| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/state")))
        .ok_or(NoStateDirectory)?;
    Ok(state.join("sluice"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn follows_the_xdg_specification() {
        let system = Some("/var/log/sluice/audit.jsonl");
        let home = Some("/h/.local/state/sluice/audit.jsonl");
        let table = [
            (true, Some("/s"), Some("/root"), system),
            (false, Some("/s"), Some("/h"), Some("/s/sluice/audit.jsonl")),
            (false, None, Some("/h"), home),
            (false, Some("relative"), Some("/h"), home),
            (false, Some(""), Some(""), None),
            (false, None, None, None),
        ];
        for (root, xdg, home, expected) in table {
            let found = default_path(root, |name| match name {
                "XDG_STATE_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                other => panic!("{other} is none of its business"),
            });
            assert_eq!(
                found.ok().as_deref(),
                expected.map(Path::new),
                "{xdg:?} {home:?}"
            );
        }
    }
}
