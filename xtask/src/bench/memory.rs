//! What a process and its children hold, as the kernel counts it.

use std::fs;

use anyhow::{Context as _, Result};

/// Bytes of the processes below and with `pid` that nobody else shares, shared ones by their part.
pub(super) fn proportional(pid: u32) -> Result<u64> {
    let mut bytes = 0;
    for pid in family(pid)? {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("memory of process {pid}"))?;
        bytes += number_after(&text, "Pss:").unwrap_or(0) * 1024;
    }
    Ok(bytes)
}

/// Bytes of the BPF maps and programs that `pid` holds descriptors of.
pub(super) fn of_bpf(pid: u32) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        // A descriptor may be gone by now.
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        if text.contains("map_id:") || text.contains("prog_id:") {
            bytes += number_after(&text, "memlock:").unwrap_or(0);
        }
    }
    Ok(bytes)
}

/// Bytes that the whole machine could still give out.
pub(super) fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kibibytes = number_after(&text, "MemAvailable:").context("no MemAvailable")?;
    Ok(kibibytes * 1024)
}

/// A process and its descendants.
fn family(pid: u32) -> Result<Vec<u32>> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|it| it.parse::<u32>().ok()),
            );
        }
    }
    Ok(found)
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(label))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
