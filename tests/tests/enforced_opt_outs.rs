//! What policy or an option opens is named: where `sluice run` says what it starts, and in the
//! record of the session; and nothing starts where policy asks for more than is left.

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::{Agent, Finished, field},
    needs_root,
    world::World,
};

/// `sluice run` failed before the command started.
const FAILED: i32 = 125;
/// An id without an account, so that nothing but the policy lowers the level.
const NOBODY_IN_PARTICULAR: &str = "61999";

/// Stands for a folder below `/run`.
const FOLDER: &str = "FOLDER";

/// A section of policy, the user, the level that is left, and how what is open is called.
const OPENINGS: &[(&str, &str, &str, &str)] = &[
    (
        "[process]\nptrace = true",
        NOBODY_IN_PARTICULAR,
        "confined",
        "[process] ptrace",
    ),
    (
        "[process]\nuser_namespaces = true",
        NOBODY_IN_PARTICULAR,
        "confined",
        "[process] user_namespaces",
    ),
    (
        "[process]\nio_uring = true",
        NOBODY_IN_PARTICULAR,
        "confined",
        "[process] io_uring",
    ),
    (
        "[process]\nrun = [\"FOLDER\"]",
        NOBODY_IN_PARTICULAR,
        "confined",
        "[process] run",
    ),
    (
        "[process]\ndevices = [\"/dev/null\"]",
        NOBODY_IN_PARTICULAR,
        "confined",
        "[process] devices",
    ),
    (
        "[network]\nunix = [\"any\"]",
        NOBODY_IN_PARTICULAR,
        "partial",
        "[network] unix",
    ),
    (
        "[network]\nloopback = [5432]",
        NOBODY_IN_PARTICULAR,
        "confined",
        "[network] loopback",
    ),
    (
        "[network]\ninbound = \"allow\"",
        NOBODY_IN_PARTICULAR,
        "partial",
        "anybody may connect to it",
    ),
    ("", "0", "partial", "it runs as uid 0"),
    ("", "nobody", "confined", "it shares uid 65534"),
];

fn run(world: &World, top: &str, section: &str, user: &str) -> Result<Finished> {
    let folder = tempfile::tempdir_in("/run")?;
    let section = section.replace(FOLDER, &folder.path().display().to_string());
    let policy = format!("schema = 1\nagent = \"opened\"\n{top}{section}\n");
    let agent = Agent::new(world, &policy)?.options(["--user", user]);
    agent.run(["echo", "started"])
}

/// Levels and what is open, as the session's records have them.
fn on_record(finished: &Finished) -> Vec<(String, Vec<String>)> {
    let sessions = finished.records_with(&[("kind", "session")]).into_iter();
    sessions
        .map(|record| {
            let open = record["session"]["open"].as_array().into_iter().flatten();
            let open = open.filter_map(|text| text.as_str().map(str::to_owned));
            (field(record, "assurance"), open.collect())
        })
        .collect()
}

#[test]
fn each_is_named_and_lowers_the_level() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    for (section, user, level, name) in OPENINGS {
        let finished = run(&world, "", section, user)?;
        ensure!(finished.out() == "started\n", "{section} {finished:?}");
        let said = finished.err();
        let is_said = said.contains(&format!("assurance {level}"))
            && said.contains(&format!("sluice: open: {name}"));
        ensure!(is_said, "{section} {finished:?}");
        let records = on_record(&finished);
        ensure!(records.len() == 2, "{section}: begin and end: {finished:?}");
        for (recorded, open) in records {
            ensure!(recorded == *level, "{section} {finished:?}");
            let [open] = open.as_slice() else {
                anyhow::bail!("{section}: one thing is open: {finished:?}");
            };
            ensure!(open.starts_with(name), "{section} {finished:?}");
        }
    }
    Ok(())
}

#[test]
fn none_starts_where_policy_asks_for_all() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let sealed = "assurance = \"sealed\"\n";
    let whole = run(&world, sealed, "", NOBODY_IN_PARTICULAR)?;
    ensure!(whole.out() == "started\n", "{whole:?}");
    ensure!(on_record(&whole) == [("sealed".to_owned(), vec![]), ("sealed".to_owned(), vec![])]);
    for (section, user, level, name) in OPENINGS {
        let refused = run(&world, sealed, section, user)?;
        ensure!(refused.status == FAILED, "{section} {refused:?}");
        ensure!(refused.out().is_empty(), "{section} {refused:?}");
        let said = refused.err();
        ensure!(
            said.contains(level) && said.contains(name),
            "{section} {refused:?}"
        );
    }
    Ok(())
}
