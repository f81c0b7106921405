//! What building, demo and tests need: a list of steps, each of which looks, and only installs
//! what it misses. Every look is a real one each time; nothing is remembered between runs.

mod kernel;
mod linker;
mod nginx;
mod node;
mod node_packages;
pub(crate) mod packages;
mod python_packages;
mod qemu;
pub(crate) mod toolchain;

use anyhow::{Context as _, Result};

/// What something is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// Building `sluice` and running it, which all else includes.
    Build,
    /// The demo's upstream and agent.
    Demo,
    /// The clients and servers of the tests, and of the demo.
    Test,
    /// Format, lints and documentation.
    Check,
    /// Virtual machines, and the tests that run in them.
    Vm,
    /// Everything.
    All,
}

impl Scope {
    /// Whether what is needed for `other` is needed for this.
    const fn includes(self, other: Self) -> bool {
        match self {
            Self::Build | Self::Demo | Self::Check => {
                matches!(other, Self::Build) || self as u8 == other as u8
            }
            Self::Test => !matches!(other, Self::Check | Self::Vm),
            Self::Vm => !matches!(other, Self::Check),
            Self::All => true,
        }
    }
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
    /// What it is needed for.
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
    node_packages::NODE_PACKAGES,
    python_packages::PYTHON_PACKAGES,
    qemu::QEMU,
];

/// Sees to it that everything in `scope` is there.
///
/// # Errors
/// Something is missing and could not be installed; the error ends with what to type.
pub(crate) fn run(scope: Scope) -> Result<()> {
    for step in STEPS.iter().filter(|step| scope.includes(step.scope)) {
        step.carry_out(scope == Scope::All)
            .with_context(|| format!("setting up: {}", step.name))?;
    }
    Ok(())
}

impl Step {
    /// Looks, and installs; `tell` says what was found, too, where nothing was amiss.
    fn carry_out(&self, tell: bool) -> Result<()> {
        match (self.look)()? {
            Look::Present(what) => {
                if tell {
                    eprintln!("xtask: {}: {what}", self.name);
                }
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
