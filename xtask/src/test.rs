//! All tests, in one command.

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    build,
    process::{self, Run as _},
    setup, workspace,
};

/// Where the tests find the binary that was built for them.
const BINARY: &str = "SLUICE_BIN";

/// Sets up, builds, and runs the tests: with nextest where it is installed, else with cargo's
/// own runner (building nextest takes longer than it saves).
pub(crate) fn run(arguments: &[OsString]) -> Result<ExitCode> {
    setup::run(setup::Scope::Test)?;
    let binary = build::sluice()?;
    let runner = runner()?;

    if arguments.is_empty() {
        // First, since what closes a run of tests is its last line, and there are few of these.
        let mut documented = process::cargo();
        documented.args(["test", "--doc"]).args(&runner);
        let documented = documented.env(BINARY, &binary).hand_over()?;
        if documented != ExitCode::SUCCESS {
            return Ok(documented);
        }
    }
    let mut tests = process::cargo();
    if workspace::find_program("cargo-nextest").is_some() {
        tests.args(["nextest", "run", "--no-fail-fast"]);
    } else {
        tests.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    tests.args(&runner).args(arguments).env(BINARY, &binary);
    tests.hand_over()
}

/// How cargo starts a test binary: as root and with mounts of its own. Without root the tests
/// that need it skip themselves, and say so; under CI that is a failure.
fn runner() -> Result<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    if !process::is_root() {
        if workspace::find_program("sudo").is_none() {
            if std::env::var_os("CI").is_some() {
                bail!("neither root nor sudo: the tests on the real kernel cannot run");
            }
            eprintln!(
                "xtask: neither root nor sudo: NOT RUN are the tests that attach programs to a \
                 cgroup or make network namespaces (tests/tests/enforced*)"
            );
            return Ok(Vec::new());
        }
        words.extend(["sudo", "--preserve-env", "env"].map(str::to_owned));
        words.push(format!("PATH={}", utf8(workspace::search_path())?));
    }
    let own = std::env::current_exe().context("finding xtask's own executable")?;
    words.push(utf8(own.into())?);
    words.push("isolated".to_owned());
    let key = format!("target.{}.runner", workspace::host()?);
    let value = toml::Value::from(words);
    Ok(vec!["--config".to_owned(), format!("{key}={value}")])
}

/// What goes into cargo's configuration must be text.
fn utf8(text: OsString) -> Result<String> {
    text.into_string()
        .map_err(|text| anyhow!("not UTF-8: {}", text.display()))
}
