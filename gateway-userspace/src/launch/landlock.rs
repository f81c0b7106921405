//! Landlock: no signals to processes outside, no abstract unix sockets of theirs, and files only
//! where policy says.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, PathFdError,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::order::Order;

/// The newest version that was judged: abstract sockets and signals (kernel 6.12).
const NEWEST: ABI = ABI::V6;

/// What every program needs to read and write, whatever policy names.
const COMMON: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// Why Landlock is not in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum LandlockError {
    #[error("`{key}` of [process]: {}", path.display())]
    Place {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: PathFdError,
    },
    #[error("`read` and `write` of [process] need Landlock, which this kernel does not have")]
    Missing,
    #[error("restricting by Landlock")]
    Rules(#[from] RulesetError),
}

/// Restricts this process and all that it starts; answers with the version in force, 0 for none.
pub(super) fn restrict(order: &Order) -> Result<u8, LandlockError> {
    let mut handled = landlock::BitFlags::empty();
    if order.read.is_some() {
        handled |= AccessFs::from_read(NEWEST);
    }
    if order.write.is_some() {
        handled |= AccessFs::from_write(NEWEST);
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(NEWEST))?;
    if !handled.is_empty() {
        ruleset = ruleset.handle_access(handled)?;
    }
    let mut ruleset = ruleset.create()?;
    let mut allow = |key, path: &Path, access| -> Result<(), LandlockError> {
        let place = PathFd::new(path).map_err(|source| LandlockError::Place {
            key,
            path: path.to_owned(),
            source,
        })?;
        // A file has fewer ways of access than a folder.
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(NEWEST)
        };
        (&mut ruleset).add_rule(PathBeneath::new(place, access))?;
        Ok(())
    };
    let home = order.scratch.join("home");
    let common = COMMON.iter().map(Path::new).chain([home.as_path()]);
    for (key, places, access) in [
        ("read", &order.read, AccessFs::from_read(NEWEST)),
        ("write", &order.write, AccessFs::from_write(NEWEST)),
    ] {
        let Some(places) = places else { continue };
        for path in places.iter().map(PathBuf::as_path) {
            allow(key, path, access)?;
        }
        for path in common.clone().filter(|path| path.exists()) {
            allow(key, path, access)?;
        }
    }
    let status = ruleset.restrict_self()?;
    let in_force = status.ruleset != RulesetStatus::NotEnforced;
    if !in_force && !handled.is_empty() {
        return Err(LandlockError::Missing);
    }
    let version = match status.landlock {
        landlock::LandlockStatus::Available { effective_abi, .. } if in_force => {
            effective_abi as u8
        }
        _ => 0,
    };
    Ok(version)
}
