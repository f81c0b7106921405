//! `sluice policy test`: runs the `[[test]]`s of a policy, and tells which rules none reached.

use std::{path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{print, rendered};
use crate::{
    names::RuleId,
    policy::{Action, Coverage, DenyReason, Expectation, Finding, Policy, TestRun, Word as _},
};

/// Arguments of `sluice policy test`.
#[derive(Debug, clap::Args)]
pub(super) struct Test {
    /// Policy file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write a JSON object.
    #[arg(long)]
    json: bool,
}

/// The run, as scripts get it.
#[derive(Serialize)]
struct Report<'a> {
    passed: usize,
    failed: usize,
    tests: Vec<Line<'a>>,
    coverage: &'a [Coverage],
    uncovered: Vec<&'a RuleId>,
}

/// One test.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    passed: bool,
    expected: &'a Expectation,
    found: &'a Finding,
}

impl Test {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let policy = match Policy::load(&self.file) {
            Ok(policy) => policy,
            Err(errors) => {
                eprint!("{}", rendered(&errors, false));
                return Ok(ExitCode::FAILURE);
            }
        };
        let run = policy.run_tests();
        let report = report(&run);
        print(&if self.json {
            serde_json::to_string_pretty(&report)? + "\n"
        } else {
            described(&report)
        })?;
        Ok(if run.passed() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn report<'a>(run: &'a TestRun<'_>) -> Report<'a> {
    let tests: Vec<_> = run
        .results
        .iter()
        .map(|result| Line {
            name: &result.test.name,
            passed: result.passed(),
            expected: &result.test.expect,
            found: &result.found,
        })
        .collect();
    let passed = tests.iter().filter(|test| test.passed).count();
    Report {
        passed,
        failed: tests.len() - passed,
        tests,
        coverage: &run.coverage,
        uncovered: run.uncovered().collect(),
    }
}

fn described(report: &Report<'_>) -> String {
    let mut out = String::new();
    for test in &report.tests {
        let word = if test.passed { "pass" } else { "FAIL" };
        out += &format!("{word}  {}\n", test.name);
        if !test.passed {
            let Line {
                expected, found, ..
            } = test;
            let verdict = |action, rule, reason| verdict(action, rule, reason);
            out += &format!(
                "      expected {}\n      got      {}\n",
                verdict(expected.action, expected.rule.as_ref(), expected.reason),
                verdict(found.action, found.rule.as_ref(), found.reason),
            );
            if let Some(hint) = &found.hint {
                out += &format!("      hint     {hint}\n");
            }
        }
    }
    out += &format!("{} passed, {} failed\n", report.passed, report.failed);
    let (rules, never) = (report.coverage.len(), report.uncovered.len());
    out += &format!("rules reached by tests: {} of {rules}\n", rules - never);
    for rule in &report.uncovered {
        out += &format!("  never  {rule}\n");
    }
    out
}

fn verdict(action: Action, rule: Option<&RuleId>, reason: Option<DenyReason>) -> String {
    let mut text = action.word().to_owned();
    if let Some(rule) = rule {
        text += &format!(", rule {rule}");
    }
    if let Some(reason) = reason {
        text += &format!(", reason {}", reason.label());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        schema = 1
        agent = "a"

        [[egress]]
        id = "reads"
        hosts = ["api.example.net"]
        ports = [80]
        methods = ["GET"]

        [[egress]]
        id = "unused"
        hosts = ["other.example.net"]

        [[test]]
        name = "reads pass"
        input = { http = "http://api.example.net/x" }
        expect = { action = "allow", rule = "reads" }

        [[test]]
        name = "so do writes"
        input = { http = { url = "http://api.example.net/x", method = "POST" } }
        expect = { action = "allow" }
    "#;

    #[test]
    fn each_failure_says_what_was_expected_and_what_came() {
        let policy = Policy::parse("a.toml", POLICY).expect("a policy");
        let run = policy.run_tests();
        insta::assert_snapshot!(described(&report(&run)));
    }

    #[test]
    fn scripts_get_the_same() {
        let policy = Policy::parse("a.toml", POLICY).expect("a policy");
        let run = policy.run_tests();
        let json = serde_json::to_value(report(&run)).expect("plain data");
        assert_eq!((&json["passed"], &json["failed"]), (&1.into(), &1.into()));
        assert_eq!(json["tests"][1]["passed"], false);
        assert_eq!(json["tests"][1]["expected"]["action"], "allow");
        assert_eq!(json["tests"][1]["found"]["reason"], "method_not_allowed");
        assert_eq!(json["uncovered"], serde_json::json!(["unused"]));
    }
}
