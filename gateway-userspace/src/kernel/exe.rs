//! Which executable a task runs, as far as `/proc` can still tell: where the tracepoints that
//! know it are not attached.
//!
//! The kernel half names the task; the path is looked up afterwards and is left out when the
//! process is gone, has left the agent's cgroup, or began after the call it is to explain, that
//! is, when its number was used again. An exec between the call and the look-up shows the newer
//! path.

use std::{fs, path::Path};

use super::cgroup;

/// Path of the executable of process `pid`, which made a call `call_ns` after boot.
pub(super) fn path(pid: u32, call_ns: u64, agent_cgroup: &str) -> Option<String> {
    if pid == 0 {
        return None;
    }
    let folder = Path::new("/proc").join(pid.to_string());
    let exe = fs::read_link(folder.join("exe")).ok()?;
    // Checked after the read: only then does the answer speak of the same process.
    let member = cgroup::of_process(&pid.to_string()).ok().flatten()?;
    let within = member == agent_cgroup
        || member
            .strip_prefix(agent_cgroup)
            .is_some_and(|rest| rest.starts_with('/'));
    let older = started_ns_of(&folder)? <= call_ns;
    (within && older).then(|| exe.to_string_lossy().into_owned())
}

/// When the process with this number began, nanoseconds since boot, to the clock tick; none if
/// there is none.
pub(super) fn began(pid: u32) -> Option<u64> {
    started_ns_of(&Path::new("/proc").join(pid.to_string()))
}

/// Whether the process that has this number now began then, to the clock tick.
pub(super) fn began_at(pid: u32, started_ns: u64) -> bool {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    began(pid).is_some_and(|began| began == started_ns - started_ns % tick)
}

/// When a process began, nanoseconds since boot, rounded down to a clock tick.
fn started_ns_of(folder: &Path) -> Option<u64> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // The command name may hold anything, but it ends at the last parenthesis.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    ticks.checked_mul(1_000_000_000u64.checked_div(per_second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_told_and_the_future_is_not() {
        let pid = std::process::id();
        let cgroup = cgroup::of_process("self").expect("proc").expect("cgroup2");
        let own = fs::read_link("/proc/self/exe").expect("exe");
        assert_eq!(
            path(pid, u64::MAX, &cgroup),
            Some(own.to_string_lossy().into_owned())
        );
        assert_eq!(path(pid, 0, &cgroup), None);
        assert_eq!(path(pid, u64::MAX, "/no/such/cgroup"), None);
        assert_eq!(path(0, u64::MAX, &cgroup), None);
    }
}
