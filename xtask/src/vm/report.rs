//! What host and guest tell each other, and what came of a boot.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{folder, suite};

/// Where the guest finds its plan.
pub(super) const PLAN: &str = "/vm/plan.json";

/// What `sluice doctor` calls the look at the list of active security modules.
const SECURITY_MODULES: &str = "BPF among the active security modules";

/// What the guest is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Variables of every test.
    pub(super) environment: Vec<(String, String)>,
    /// Asked what the kernel can enforce, first of all.
    pub(super) sluice: PathBuf,
    /// In this order.
    pub(super) tests: Vec<Planned>,
}

/// One test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Planned {
    /// The test binary.
    pub(super) binary: PathBuf,
    /// Its name in there.
    pub(super) test: String,
    /// Its name in reports.
    pub(super) name: String,
    /// Longest that it may take.
    pub(super) seconds: u64,
}

/// A line from the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// User space is there; from here on nothing is tried again.
    Up {
        /// `uname -r`.
        release: String,
        /// Active security modules.
        modules: String,
    },
    /// What `sluice doctor --json` said.
    Doctor {
        /// Its report, if it is one.
        report: Option<Value>,
        /// What else it said.
        complaint: String,
    },
    /// A test begins.
    Began {
        /// Its name.
        name: String,
    },
    /// A test ended.
    Ended {
        /// Its name.
        name: String,
        /// How.
        outcome: Outcome,
        /// How long it took.
        seconds: f32,
        /// What it wrote, where it failed.
        output: String,
    },
    /// The guest could not go on.
    Broken {
        /// Why.
        why: String,
    },
    /// All tests are through.
    Done {
        /// Memory in use at the end, MiB.
        used: u64,
    },
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not end in time.
    TimedOut,
    /// It was not run, for these reasons.
    Skipped(Vec<String>),
}

/// Reads a line of the results, which a terminal may have ended with a carriage return.
pub(super) fn event(line: &str) -> Result<Event> {
    serde_json::from_str(line.trim_end()).with_context(|| format!("not a result: {line:?}"))
}

/// What came of a boot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Report {
    /// Name of the job.
    pub(super) name: String,
    /// Major and minor version.
    pub(super) kernel: String,
    /// Whether `bpf` was to be among the security modules.
    pub(super) lsm: bool,
    /// All that the guest said.
    pub(super) events: Vec<Event>,
    /// Why the machine did not come to its end.
    pub(super) problem: Option<String>,
    /// From power on to power off.
    pub(super) took: Duration,
    /// How many tests there were to run.
    pub(super) planned: usize,
}

impl Report {
    /// What `sluice doctor` found.
    pub(super) fn doctor(&self) -> Option<&Value> {
        self.events.iter().find_map(|event| match event {
            Event::Doctor { report, .. } => report.as_ref(),
            _ => None,
        })
    }

    /// Says all of it; whether it is as it should be.
    pub(super) fn print(&self) -> bool {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        let mut told = Vec::new();
        let mut kernel = "it did not come up".to_owned();
        for event in &self.events {
            match event {
                Event::Up { release, modules } => kernel = format!("{release}; lsm={modules}"),
                Event::Doctor {
                    report: None,
                    complaint,
                } => {
                    failed += 1;
                    told.push(format!(
                        "FAILED sluice doctor --json\n{}",
                        indent(complaint)
                    ));
                }
                Event::Ended {
                    name,
                    outcome,
                    seconds,
                    output,
                } => match outcome {
                    Outcome::Passed => passed += 1,
                    Outcome::Failed => {
                        failed += 1;
                        told.push(format!(
                            "FAILED {name} ({seconds:.0} s)\n{}",
                            indent(output)
                        ));
                    }
                    Outcome::TimedOut => {
                        failed += 1;
                        told.push(format!(
                            "TIMED OUT {name} ({seconds:.0} s)\n{}",
                            indent(output)
                        ));
                    }
                    Outcome::Skipped(reasons) => {
                        let reasons = reasons.join("; ");
                        if suite::may_skip(name, &self.kernel, &reasons) {
                            skipped += 1;
                            told.push(format!("SKIPPED {name}: {reasons}"));
                        } else {
                            failed += 1;
                            told.push(format!(
                                "SKIPPED, which was not expected: {name}: {reasons}"
                            ));
                        }
                    }
                },
                Event::Broken { why } => {
                    failed += 1;
                    told.push(format!("FAILED the guest: {why}"));
                }
                Event::Doctor { .. } | Event::Began { .. } | Event::Done { .. } => {}
            }
        }
        if let Some(problem) = &self.problem {
            failed += 1;
            told.push(format!("FAILED the machine: {problem}"));
        }
        let wrong = self.wrong();
        failed += wrong.len();
        told.extend(wrong.into_iter().map(|why| format!("FAILED {why}")));
        println!("kernel {} ({kernel})", self.name);
        for line in told {
            println!("  {line}");
        }
        println!(
            "  {passed} passed, {failed} failed, {skipped} skipped, of {} in {} s",
            self.planned,
            self.took.as_secs()
        );
        failed == 0 && passed + skipped == self.planned
    }

    /// What `sluice doctor` should have found and did not.
    fn wrong(&self) -> Vec<String> {
        let Some(report) = self.doctor() else {
            return if self.problem.is_some() {
                Vec::new()
            } else {
                vec!["no word from `sluice doctor`".to_owned()]
            };
        };
        let mut wrong = Vec::new();
        let findings = report.get("findings").and_then(Value::as_array);
        let noticed = findings.into_iter().flatten().find_map(|finding| {
            let check = finding.get("check")?.as_str()?;
            check
                .contains(SECURITY_MODULES)
                .then(|| finding.get("ok")?.as_bool())?
        });
        if noticed != Some(self.lsm) {
            wrong.push(format!(
                "sluice doctor: {SECURITY_MODULES}: says {noticed:?}, the kernel was started with {}",
                self.lsm
            ));
        }
        if report.get("healthy") != Some(&Value::Bool(true)) {
            let findings = report.get("findings").and_then(Value::as_array);
            let bad = findings.into_iter().flatten().filter(|finding| {
                finding.get("ok") == Some(&Value::Bool(false))
                    && finding.get("required") != Some(&Value::Bool(false))
            });
            wrong.extend(bad.map(|finding| format!("sluice doctor: {finding}")));
            wrong.push("agents cannot be confined here, says `sluice doctor`".to_owned());
        }
        wrong
    }

    /// Keeps it for the table.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        let folder = results()?;
        let path = folder.join(format!("{}.json", self.name));
        let text = serde_json::to_vec_pretty(self).context("a report is JSON")?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The last report of each kernel.
    ///
    /// # Errors
    /// One cannot be read.
    pub(super) fn last() -> Result<Vec<Self>> {
        let mut reports = Vec::new();
        for entry in fs::read_dir(results()?).context("reading the last results")? {
            let path = entry?.path();
            let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            let report = serde_json::from_slice(&text);
            reports.push(report.with_context(|| format!("reading {}", path.display()))?);
        }
        Ok(reports)
    }
}

fn results() -> Result<PathBuf> {
    let folder = folder()?.join("results");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Event, Outcome, Report, SECURITY_MODULES, event};

    fn doctor(healthy: bool, lsm: bool) -> serde_json::Value {
        serde_json::json!({
            "healthy": healthy,
            "findings": [{ "check": SECURITY_MODULES, "ok": lsm, "required": false }],
        })
    }

    fn report(events: Vec<Event>, planned: usize) -> Report {
        let mut all = vec![Event::Doctor {
            report: Some(doctor(true, true)),
            complaint: String::new(),
        }];
        all.extend(events);
        Report {
            name: "6.1".to_owned(),
            kernel: "6.1".to_owned(),
            lsm: true,
            events: all,
            problem: None,
            took: Duration::from_secs(1),
            planned,
        }
    }

    fn ended(outcome: Outcome) -> Event {
        Event::Ended {
            name: "enforced_x::y".to_owned(),
            outcome,
            seconds: 1.0,
            output: String::new(),
        }
    }

    #[test]
    fn a_line_from_a_terminal_is_read() {
        let sent = serde_json::to_string(&ended(Outcome::Passed)).expect("JSON");
        let read = event(&format!("{sent}\r\n")).expect("an event");
        assert!(matches!(
            read,
            Event::Ended {
                outcome: Outcome::Passed,
                ..
            }
        ));
        assert!(event("VFS: half a line of the ker").is_err());
    }

    #[test]
    fn only_all_tests_passed_is_good() {
        assert!(report(vec![ended(Outcome::Passed)], 1).print());
        let skipped = Outcome::Skipped(vec!["there is no such thing".to_owned()]);
        for (events, planned) in [
            (vec![ended(Outcome::Passed)], 2),
            (vec![ended(Outcome::Failed)], 1),
            (vec![ended(Outcome::TimedOut)], 1),
            (vec![ended(skipped)], 1),
            (vec![], 0),
        ] {
            let mut report = report(events, planned);
            if planned == 0 {
                report.problem = Some("the kernel died".to_owned());
            }
            assert!(!report.print(), "{report:?}");
        }
    }

    /// Programs of this kind load and attach without it, and do nothing.
    #[test]
    fn a_doctor_that_does_not_notice_a_missing_security_module_is_not_good() {
        let mut report = report(vec![ended(Outcome::Passed)], 1);
        report.lsm = false;
        assert!(!report.print());
        report.events[0] = Event::Doctor {
            report: Some(doctor(true, false)),
            complaint: String::new(),
        };
        assert!(report.print());
    }

    #[test]
    fn an_unhealthy_kernel_is_not_good() {
        let mut report = report(vec![ended(Outcome::Passed)], 1);
        report.events[0] = Event::Doctor {
            report: Some(doctor(false, true)),
            complaint: String::new(),
        };
        assert!(!report.print());
    }
}
