//! `cargo xtask fuzz`: feeds the parsers what nobody thought of, from the kept corpus on.
//!
//! libFuzzer on the stable compiler, which sees the coverage of this workspace's crates. What they
//! depend on stays as it was built for the tests.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Run as _},
    setup, workspace,
};

/// The inputs that are kept, by target.
const CORPUS: &str = "tests/fuzz/corpus";
/// Octets of the longest input: what a parser gets wrong is mostly short.
const LONGEST: u32 = 4096;
/// MiB that a run may take, and seconds that an input may.
const MEMORY: u32 = 2048;
const PATIENCE: u32 = 10;

/// What to fuzz, and for how long.
#[derive(clap::Args, Clone)]
pub(crate) struct Arguments {
    /// Seconds for each target
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Keep what reaches new code in the corpus
    #[arg(long)]
    keep: bool,
    /// The targets; all of them, if none is named
    targets: Vec<String>,
}

/// Builds the fuzzer and runs each target. Fails with the input, where something does not hold.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::run(setup::Scope::Test)?;
    let all = targets()?;
    if let Some(unknown) = arguments.targets.iter().find(|it| !all.contains(it)) {
        bail!("no target {unknown}: there are {}", all.join(", "));
    }
    let fuzzer = build()?;
    let chosen = all
        .iter()
        .filter(|it| arguments.targets.is_empty() || arguments.targets.contains(it));
    let mut failed = Vec::new();
    for target in chosen {
        let ran = process::command(&fuzzer)
            .env("SLUICE_FUZZ_TARGET", target)
            .args(options(arguments, target)?)
            .hand_over()?;
        if ran != ExitCode::SUCCESS {
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!(
        "{} failed; what failed is in {}: mend it, and keep the input in {CORPUS}",
        failed.join(", "),
        artifacts()?.display()
    )
}

/// The targets are the folders of the corpus; a test compares them with the code.
fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join(CORPUS);
    let found = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut names = found
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Options and folders of one run: what is found goes to the first folder.
fn options(arguments: &Arguments, target: &str) -> Result<Vec<String>> {
    let kept = workspace::root().join(CORPUS).join(target);
    let found = workspace::target()?.join("fuzz/found").join(target);
    for folder in [&found, &artifacts()?] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut options = vec![
        format!("-max_total_time={}", arguments.seconds),
        format!("-max_len={LONGEST}"),
        format!("-rss_limit_mb={MEMORY}"),
        format!("-timeout={PATIENCE}"),
        format!("-artifact_prefix={}/{target}-", artifacts()?.display()),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
    ];
    // What CI says of a change is not to depend on chance; everybody else's runs are.
    if std::env::var_os("CI").is_some() {
        options.push("-seed=1".to_owned());
    }
    let mut folders = [found, kept];
    if arguments.keep {
        folders.reverse();
    }
    options.extend(folders.iter().map(|it| it.display().to_string()));
    Ok(options)
}

fn artifacts() -> Result<PathBuf> {
    Ok(workspace::target()?.join("fuzz/failed"))
}

/// Builds it beside the same crates without coverage, which cargo tells apart by the wrapper.
fn build() -> Result<PathBuf> {
    let wrapper = workspace::root().join("tests/fuzz/rustc.sh");
    process::cargo()
        .args(["build", "--package", "sluice-fuzz", "--features", "fuzzer"])
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .env("SLUICE_FUZZING", "1")
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .run()?;
    Ok(workspace::target()?.join("debug/sluice-fuzz"))
}
