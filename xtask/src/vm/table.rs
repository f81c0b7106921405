//! The table in `docs/KERNELS.md`: what each kernel gives, as `sluice doctor` found it inside.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::report::Report;
use crate::workspace;

const BEGIN: &str = "<!-- table: `cargo xtask vm --table` writes this -->";
const END: &str = "<!-- end of table -->";

/// One column of one kernel.
type Cell = (String, String);

/// Writes the table from the last run of each kernel.
///
/// # Errors
/// There was none, or the file cannot be written.
pub(super) fn write() -> Result<()> {
    let mut reports = Report::last()?;
    if reports.is_empty() {
        bail!("no kernel has been run yet: `cargo xtask vm` first");
    }
    reports.sort_by_key(order);
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (before, _, after) = parts(&text)?;
    let columns: Vec<_> = reports
        .iter()
        .map(|report| (heading(report), cells(report)))
        .collect();
    let table = render(&columns);
    fs::write(&path, format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
        .with_context(|| format!("writing {}", path.display()))
}

/// Whether the table says what these runs found.
///
/// # Errors
/// There is none.
pub(super) fn check(reports: &[Report]) -> Result<bool> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (_, table, _) = parts(&text)?;
    let mut good = true;
    for report in reports {
        for wrong in differences(table, &heading(report), &cells(report)) {
            println!("docs/KERNELS.md: {wrong}");
            good = false;
        }
    }
    if !good {
        println!("docs/KERNELS.md: where that is right, `cargo xtask vm --table` writes it");
    }
    Ok(good)
}

fn path() -> std::path::PathBuf {
    workspace::root().join("docs/KERNELS.md")
}

/// What is before the table, the table, and what is after it.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let (before, rest) = text
        .split_once(BEGIN)
        .context("no mark where the table begins")?;
    let (table, after) = rest
        .split_once(END)
        .context("no mark where the table ends")?;
    Ok((before, table, after))
}

/// By version, and the full one first.
fn order(report: &Report) -> (Vec<u64>, bool) {
    let numbers = report
        .kernel
        .split('.')
        .filter_map(|part| part.parse().ok());
    (numbers.collect(), !report.lsm)
}

fn heading(report: &Report) -> String {
    let without = if report.lsm {
        ""
    } else {
        ", no `bpf` in `lsm=`"
    };
    format!("{}{without}", report.kernel)
}

/// Each thing that `sluice doctor` looked at, and what it found.
fn cells(report: &Report) -> Vec<Cell> {
    let doctor = report.doctor();
    let findings = doctor.and_then(|report| report.get("findings")?.as_array());
    let mut cells: Vec<Cell> = findings
        .into_iter()
        .flatten()
        .filter_map(|finding| {
            let check = finding.get("check")?.as_str()?.to_owned();
            let ok = finding.get("ok")?.as_bool()?;
            let required = finding.get("required").and_then(Value::as_bool);
            let mark = match (ok, required) {
                (true, _) => "yes",
                (false, Some(false)) => "no",
                (false, _) => "**missing**",
            };
            Some((check, mark.to_owned()))
        })
        .collect();
    for (key, row) in [
        ("assurance", "**level**, `sluice run`"),
        ("attached", "**level**, `sluice attach`, at best"),
    ] {
        let level = doctor.and_then(|report| report.get(key)?.as_str());
        if let Some(level) = level {
            cells.push((row.to_owned(), format!("`{level}`")));
        }
    }
    let can = doctor.and_then(|report| report.get("healthy")?.as_bool());
    let can = if can == Some(true) { "yes" } else { "no" };
    cells.push(("**an agent can be confined**".to_owned(), can.to_owned()));
    cells
}

/// A row for each feature, a column for each kernel.
fn render(columns: &[(String, Vec<Cell>)]) -> String {
    let mut features: Vec<&str> = Vec::new();
    for (feature, _) in columns.iter().flat_map(|(_, cells)| cells) {
        if !features.contains(&feature.as_str()) {
            features.push(feature);
        }
    }
    let mut table = String::from("| feature |");
    for (heading, _) in columns {
        table.push_str(&format!(" {heading} |"));
    }
    table.push_str("\n| --- |");
    table.push_str(&" --- |".repeat(columns.len()));
    table.push('\n');
    for feature in features {
        table.push_str(&format!("| {feature} |"));
        for (_, cells) in columns {
            let cell = cells.iter().find(|(name, _)| name == feature);
            let cell = cell.map_or("not looked at", |(_, mark)| mark);
            table.push_str(&format!(" {cell} |"));
        }
        table.push('\n');
    }
    table
}

/// In what a column of the table differs from what was found; all of it, if there is no column.
fn differences(table: &str, heading: &str, found: &[Cell]) -> Vec<String> {
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let Some(column) = rows
        .first()
        .and_then(|row| row.iter().position(|cell| *cell == heading))
    else {
        return vec![format!("no column for {heading}")];
    };
    let told = |feature: &str| {
        let row = rows.iter().find(|row| row.first() == Some(&feature))?;
        row.get(column).copied()
    };
    let mut wrong: Vec<_> = found
        .iter()
        .filter(|(feature, mark)| told(feature) != Some(mark))
        .map(|(feature, mark)| {
            let told = told(feature).unwrap_or("nothing");
            format!("{heading}: {feature}: says {told}, found {mark}")
        })
        .collect();
    for row in rows.iter().skip(2) {
        let feature = row.first().copied().unwrap_or_default();
        let mark = row.get(column).copied().unwrap_or_default();
        if mark != "not looked at" && !found.iter().any(|(name, _)| name == feature) {
            wrong.push(format!("{heading}: {feature}: says {mark}, found nothing"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::{Cell, differences, render};

    fn cells(pairs: &[(&str, &str)]) -> Vec<Cell> {
        let own = |(name, mark): &(&str, &str)| ((*name).to_owned(), (*mark).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn a_table_agrees_with_what_it_was_made_of() {
        let old = cells(&[("canary", "yes"), ("unix", "no")]);
        let new = cells(&[("canary", "yes"), ("unix", "yes"), ("tokens", "yes")]);
        let columns = [
            ("6.1".to_owned(), old.clone()),
            ("6.12".to_owned(), new.clone()),
        ];
        let table = render(&columns);
        assert!(
            table.contains("| tokens | not looked at | yes |"),
            "{table}"
        );
        assert_eq!(differences(&table, "6.1", &old), [""; 0]);
        assert_eq!(differences(&table, "6.12", &new), [""; 0]);
    }

    #[test]
    fn every_difference_is_named() {
        let told = cells(&[("canary", "yes"), ("gone", "yes")]);
        let table = render(&[("6.1".to_owned(), told)]);
        let found = cells(&[("canary", "no"), ("new", "yes")]);
        assert_eq!(
            differences(&table, "6.1", &found),
            [
                "6.1: canary: says yes, found no",
                "6.1: new: says nothing, found yes",
                "6.1: gone: says yes, found nothing",
            ]
        );
        assert_eq!(differences(&table, "7.3", &found), ["no column for 7.3"]);
    }
}
