//! What the person at the terminal is told once the command has ended: what was refused, and why.
//!
//! Only then, so that nothing is written across a program that draws on the terminal. It reads
//! what the audit file has, and adds nothing to it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::super::say;
use crate::kernel::NSCD;

/// How many different refusals are told one by one.
const TOLD: usize = 5;
/// Most bytes of an audit file that are read for a recap.
const READ_MAX: u64 = 16 << 20;

/// Where this run's records begin.
#[derive(Debug)]
pub(super) struct Recap {
    path: PathBuf,
    start: u64,
}

/// What a recap needs of a record.
#[derive(Debug, Deserialize)]
struct Line {
    agent: Option<String>,
    outcome: Option<String>,
    method: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
    reason: Option<String>,
    hint: Option<String>,
    #[serde(default)]
    repeated: u64,
}

impl Recap {
    /// Remembers where the file ends now; none for standard output.
    pub(super) fn begin(path: &Path) -> Option<Self> {
        (path != Path::new("-")).then(|| Self {
            path: path.to_owned(),
            start: path.metadata().map_or(0, |metadata| metadata.len()),
        })
    }

    /// Tells what was refused since, each sort once.
    pub(super) fn tell(&self, agent: &str) {
        let refusals = match self.refusals(agent) {
            Ok(refusals) => refusals,
            Err(error) => {
                say::line(format_args!(
                    "what was refused could not be read back: {error}"
                ));
                return;
            }
        };
        let total: u64 = refusals.values().sum();
        if total == 0 {
            return;
        }
        for (refusal, count) in refusals.iter().take(TOLD) {
            let times = if *count > 1 {
                format!(" ({count} times)")
            } else {
                String::new()
            };
            say::line(format_args!("refused: {refusal}{times}"));
        }
        let file = self.path.display();
        match refusals.len().checked_sub(TOLD) {
            Some(more) if more > 0 => say::line(format_args!(
                "refused: and {more} more sorts; all of them: sluice audit tail {file}"
            )),
            Some(_) | None => say::line(format_args!("recorded in {file}")),
        }
    }

    fn refusals(&self, agent: &str) -> io::Result<BTreeMap<String, u64>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.start))?;
        let mut refusals = BTreeMap::new();
        for line in BufReader::new(io::Read::take(file, READ_MAX)).lines() {
            // The last line may be cut off where reading stops.
            let Ok(record) = serde_json::from_str::<Line>(&line?) else {
                continue;
            };
            // Not what anybody at a terminal asked for; the audit file has it.
            let habit = record.path.as_deref() == Some(NSCD);
            let denied = record.outcome.as_deref() == Some("deny") && !habit;
            if denied && record.agent.as_deref() == Some(agent) {
                *refusals.entry(describe(&record)).or_default() += 1 + record.repeated;
            }
        }
        Ok(refusals)
    }
}

fn describe(record: &Line) -> String {
    let mut text = record.method.clone().unwrap_or_default();
    if let Some(host) = &record.host {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(host);
        if let Some(port) = record.port {
            text.push_str(&format!(":{port}"));
        }
    }
    if let Some(path) = &record.path {
        text.push_str(&format!(" {path}"));
    }
    let why = record.hint.as_deref().or(record.reason.as_deref());
    format!("{text}: {}", why.unwrap_or("no reason given"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn only_this_runs_refusals_of_this_agent_are_told() {
        let mut file = tempfile::NamedTempFile::new().expect("file");
        writeln!(file, r#"{{"agent":"a","outcome":"deny","host":"old"}}"#).expect("write");
        let recap = Recap::begin(file.path()).expect("a file");
        for line in [
            r#"{"agent":"a","outcome":"deny","method":"GET","host":"h","port":80,"path":"/x","reason":"no_rule","hint":"ask","repeated":2}"#,
            r#"{"agent":"a","outcome":"deny","method":"GET","host":"h","port":80,"path":"/x","reason":"no_rule","hint":"ask"}"#,
            r#"{"agent":"a","outcome":"deny","method":"sock_create","reason":"socket_type"}"#,
            r#"{"agent":"a","outcome":"deny","method":"unix_connect","path":"/var/run/nscd/socket"}"#,
            r#"{"agent":"b","outcome":"deny","host":"other"}"#,
            r#"{"agent":"a","outcome":"allow","host":"fine"}"#,
            r#"{"agent":"a","outco"#,
        ] {
            writeln!(file, "{line}").expect("write");
        }
        let refusals: Vec<_> = recap.refusals("a").expect("readable").into_iter().collect();
        assert_eq!(
            refusals,
            [
                ("GET h:80 /x: ask".to_owned(), 4),
                ("sock_create: socket_type".to_owned(), 1),
            ]
        );
    }

    #[test]
    fn standard_output_is_no_file() {
        assert!(Recap::begin(Path::new("-")).is_none());
    }
}
