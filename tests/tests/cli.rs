//! The command line as a person and a script see it.
//!
//! Goldens are kept by insta: after a change that is meant, run this test with
//! `INSTA_UPDATE=always` and read the difference.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "cli/tail.rs"]
mod tail;

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// The binary under test: the one that `cargo xtask test` built, or else the one beside us.
fn sluice() -> Command {
    let binary = env::var_os("SLUICE_BIN").map_or_else(beside_us, PathBuf::from);
    assert!(
        binary.exists(),
        "no {}: `cargo xtask test` builds it",
        binary.display()
    );
    let mut command = Command::new(binary);
    command.env_clear().stdin(Stdio::null());
    command
}

fn beside_us() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("sluice")
}

/// What came of it, as goldens keep it.
fn told(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let code = output
        .status
        .code()
        .map_or("killed".to_owned(), |code| code.to_string());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    format!("status: {code}\n--- stdout\n{out}--- stderr\n{err}")
}

fn outcome<A: AsRef<OsStr>>(arguments: &[A]) -> String {
    told(&sluice().args(arguments).output().unwrap())
}

#[test]
fn help() {
    for command in [
        "",
        "run",
        "gateway",
        "doctor",
        "policy",
        "audit",
        "audit tail",
    ] {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let name = ["help", &command.replace(' ', "-")].join("-");
        insta::assert_snapshot!(name.trim_end_matches('-'), outcome(&arguments));
    }
}

#[test]
fn version() {
    let version = format!("sluice {}\n", env!("CARGO_PKG_VERSION"));
    let expected = format!("status: 0\n--- stdout\n{version}--- stderr\n");
    assert_eq!(outcome(&["--version"]), expected);
}

#[test]
fn wrong_usage() {
    insta::assert_snapshot!("usage-unknown-command", outcome(&["frobnicate"]));
    insta::assert_snapshot!(
        "usage-log-filter",
        outcome(&["--log", "warn=loud", "audit", "tail"])
    );
    insta::assert_snapshot!("usage-run-without-command", outcome(&["run"]));
}

#[test]
fn wrong_usage_of_run_cannot_be_mistaken_for_the_commands_status() {
    for arguments in [
        &["run"][..],
        &["run", "--no-such-flag", "--", "true"],
        &["--log", "warn=loud", "run", "--", "true"],
        &["--log=debug", "run", "--policy"],
    ] {
        let output = sluice().args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(125),
            "{arguments:?}: {}",
            told(&output)
        );
        assert!(output.stdout.is_empty());
    }
    let filter = sluice()
        .env("SLUICE_LOG", "warn=loud")
        .args(["run", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(filter.status.code(), Some(125));
    // A command that is merely called `run` is another matter.
    let other = sluice().args(["audit", "run"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2));
}

#[test]
fn errors_tell_their_causes() {
    insta::assert_snapshot!(
        "error-with-cause",
        outcome(&["audit", "tail", "/nonexistent/audit.jsonl"])
    );
}
