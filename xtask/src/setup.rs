//! What building, demo and tests need: a list of steps, each of which looks, and only installs
//! what it misses. Every look is a real one each time; nothing is remembered between runs.

mod kernel;
mod linker;
mod nginx;
mod node;
pub(crate) mod packages;
pub(crate) mod toolchain;

use anyhow::{Context as _, Result};

/// How much is needed; each includes what stands before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Scope {
    /// Building `sluice` and running it.
    Build,
    /// Format, lints and documentation.
    Check,
    /// The demo's upstream and agent.
    Demo,
    /// The clients and servers of the tests.
    Test,
}

/// What a step found.
enum Look {
    /// There, in this version or place.
    Present(String),
    /// Not there, or not fit, and why.
    Missing(String),
}

/// One thing that is needed.
struct Step {
    /// What it is called in what setup prints.
    name: &'static str,
    /// From which scope on it is needed.
    scope: Scope,
    /// Looks, and changes nothing.
    look: fn() -> Result<Look>,
    /// Installs it, having said how.
    install: fn() -> Result<()>,
    /// What a person would type where `install` cannot help.
    by_hand: fn() -> String,
}

/// All steps, in the order in which they build on each other.
const STEPS: &[Step] = &[
    kernel::PRIVILEGE,
    kernel::CGROUP2,
    kernel::BPFFS,
    kernel::BTF,
    toolchain::BPF_TOOLCHAIN,
    linker::BPF_LINKER,
    toolchain::LINTS,
    toolchain::BPF_LINTS,
    packages::DEMO,
    nginx::NGINX,
    packages::TEST,
    node::NODE,
];

/// Sees to it that everything in `scope` is there.
///
/// # Errors
/// Something is missing and could not be installed; the error ends with what to type.
pub(crate) fn run(scope: Scope) -> Result<()> {
    for step in STEPS.iter().filter(|step| step.scope <= scope) {
        step.carry_out()
            .with_context(|| format!("setting up: {}", step.name))?;
    }
    Ok(())
}

impl Step {
    fn carry_out(&self) -> Result<()> {
        match (self.look)()? {
            Look::Present(what) => {
                eprintln!("xtask: {}: {what}", self.name);
                return Ok(());
            }
            Look::Missing(why) => eprintln!("xtask: {}: {why}", self.name),
        }
        (self.install)().with_context(|| format!("do it by hand:\n  {}", (self.by_hand)()))?;
        match (self.look)()? {
            Look::Present(what) => {
                eprintln!("xtask: {}: {what}, now installed", self.name);
                Ok(())
            }
            Look::Missing(why) => Err(anyhow::anyhow!("{why}, even after installing")
                .context(format!("do it by hand:\n  {}", (self.by_hand)()))),
        }
    }
}
