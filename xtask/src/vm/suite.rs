//! What runs inside a machine: the tests on the real kernel, those of them that fit.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::report::{Plan, Planned};
use crate::{
    build,
    process::{self, Run as _},
};

/// Longest that one test may take inside a machine without hardware to help, seconds.
const PATIENCE: u64 = 420;
/// How much more patient tests are there.
const SCALE: u32 = 6;

/// Tests that stay outside, by a part of their full name, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "enforced_clients::",
        "Node, git and Python's packages are not in the machine",
    ),
    (
        "enforced_inspect::",
        "what is inside TLS is the same on all of these kernels, and the clients are not in the machine",
    ),
    (
        "enforced_suggest::",
        "what a policy is made from is the same on all of these kernels",
    ),
    (
        "enforced_reload::",
        "a policy is exchanged in the same way on all of these kernels",
    ),
    ("enforced_own::a_node_server", "Node is not in the machine"),
    (
        "enforced_attribution::a_thousand",
        "a thousand connections take too long without hardware to help",
    ),
    (
        "enforced_losses::",
        "a hundred thousand refusals take too long without hardware to help",
    ),
    (
        "enforced_launcher::",
        "a hundred starts, each traced, take too long without hardware to help",
    ),
    (
        "enforced_upgrade::a_take_over_that_ends_half_way",
        "five take-overs that are cut off, with as many that mend it, take too long",
    ),
    (
        "enforced_terminal::",
        "keys take their time, and a terminal is the same on all of these kernels",
    ),
];

/// Tests that a machine may skip: a part of the full name, the kernel (or any, if empty), and
/// what the reason has in it.
const MAY_SKIP: &[(&str, &str, &str)] = &[("enforced_unix::", "6.1", "no hooks on unix sockets")];

/// What runs where `bpf` is not among the security modules, by a part of the full name: there
/// the other programs are the same as on that kernel with it.
const WITHOUT_LSM: &[&str] = &["enforced_vectors::", "enforced_observe::", "enforced_lsm"];

/// What does not run where `bpf` is among them, by a part of the full name: the LSM programs close
/// there what these tests say is open without them. `enforced_lsm` proves that.
const WITHOUT_LSM_ONLY: &[&str] = &["enforced_vectors::no_vector_gets_root_out_of_a_container"];

/// What was built, and what to do with it.
pub(super) struct Suite {
    /// What the guest is told, at most.
    plan: Plan,
    /// All programs that must be there, at their own paths.
    pub(super) programs: BTreeSet<PathBuf>,
    /// Tests that stay outside, with the reason.
    pub(super) left_out: Vec<(String, &'static str)>,
}

/// Builds `sluice` and the tests, exactly as `cargo xtask test` does, and picks.
///
/// # Errors
/// Something does not build, or nothing is left to run.
pub(super) fn build(filters: &[String]) -> Result<Suite> {
    let sluice = build::sluice()?;
    let built = process::cargo()
        .args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .args(["--test", "enforced_*"])
        .read_aloud()?;
    let mut programs = BTreeSet::from([sluice.clone()]);
    let mut tests = Vec::new();
    let mut left_out = Vec::new();
    for built in built.lines().filter_map(artifact) {
        programs.insert(built.path.clone());
        if !built.is_test {
            continue;
        }
        let listed = process::command(&built.path)
            .args(["--list", "--format", "terse"])
            .read()?;
        for name in listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
        {
            let full = format!("{}::{name}", built.name);
            let excluded = LEFT_OUT.iter().find(|(part, _)| full.contains(part));
            if let Some((_, why)) = excluded {
                left_out.push((full, *why));
            } else if filters.is_empty() || filters.iter().any(|part| full.contains(part)) {
                tests.push(Planned {
                    binary: built.path.clone(),
                    test: name.to_owned(),
                    name: full,
                    seconds: PATIENCE,
                });
            }
        }
    }
    if tests.is_empty() {
        bail!("no test fits {filters:?}");
    }
    // Binaries without a test for the machine only take room.
    programs.retain(|path| {
        let is_test = path.parent().is_some_and(|folder| folder.ends_with("deps"));
        !is_test || tests.iter().any(|test| &test.binary == path)
    });
    tests.sort_by(|one, other| one.name.cmp(&other.name));
    let plan = Plan {
        environment: vec![
            ("SLUICE_BIN".to_owned(), path_text(&sluice)?),
            ("SLUICE_TEST_PATIENCE".to_owned(), SCALE.to_string()),
            ("RUST_BACKTRACE".to_owned(), "0".to_owned()),
        ],
        sluice,
        tests,
    };
    Ok(Suite {
        plan,
        programs,
        left_out,
    })
}

impl Suite {
    /// The plan of a boot with or without `bpf` among the security modules.
    pub(super) fn plan(&self, lsm: bool) -> Plan {
        let mut plan = self.plan.clone();
        plan.tests.retain(|test| {
            let is_in = |parts: &[&str]| parts.iter().any(|part| test.name.contains(part));
            if lsm {
                !is_in(WITHOUT_LSM_ONLY)
            } else {
                is_in(WITHOUT_LSM)
            }
        });
        plan
    }
}

/// Whether a machine with this kernel may skip a test for this reason.
pub(super) fn may_skip(test: &str, kernel: &str, reason: &str) -> bool {
    MAY_SKIP.iter().any(|(part, on, why)| {
        test.contains(part) && (on.is_empty() || *on == kernel) && reason.contains(why)
    })
}

fn path_text(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .context("the target folder's name is not UTF-8")?;
    Ok(text.to_owned())
}

/// Something that cargo linked.
struct Artifact {
    name: String,
    path: PathBuf,
    is_test: bool,
}

/// One of cargo's messages, if it names a program.
fn artifact(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    Some(Artifact {
        name: message.pointer("/target/name")?.as_str()?.to_owned(),
        path: message.get("executable")?.as_str()?.into(),
        is_test: message.pointer("/profile/test")?.as_bool()?,
    })
    .filter(|built| built.name != "xtask" && built.name != "build-script-build")
}

#[cfg(test)]
mod tests {
    use super::{artifact, may_skip};

    #[test]
    fn only_what_can_be_run_counts() {
        let line = |name: &str, executable: &str, test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let found = artifact(&line("enforced_x", "\"/t/deps/enforced_x-1\"", true));
        let found = found.expect("a program");
        assert!(found.is_test);
        assert_eq!(found.path.to_str(), Some("/t/deps/enforced_x-1"));
        let vector = artifact(&line("vector", "\"/t/vector\"", false)).expect("a program");
        assert!(!vector.is_test);
        assert!(artifact(&line("gateway_common", "null", false)).is_none());
        assert!(artifact("not JSON").is_none());
    }

    #[test]
    fn a_skip_that_nobody_expects_is_not_allowed() {
        assert!(!may_skip("enforced_vectors::x", "6.1", "there is no nginx"));
        let why = "this kernel has no hooks on unix sockets (6.7 has)";
        assert!(may_skip("enforced_unix::x", "6.1", why));
        assert!(!may_skip("enforced_unix::x", "6.12", why));
    }
}
