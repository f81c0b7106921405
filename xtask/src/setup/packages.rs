//! The distribution's packages: which program comes from which, and how to install them.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use super::{Look, Scope, Step};
use crate::{
    process::{self, Run as _},
    workspace,
};

/// What the demo's namespaces, certificates and agent need.
pub(super) const DEMO: Step = Step {
    name: "programs of the demo",
    scope: Scope::Demo,
    look: || look(FOR_DEMO),
    install: || install(FOR_DEMO),
    by_hand: || by_hand(FOR_DEMO),
};

/// What the tests' clients and servers are.
pub(super) const TEST: Step = Step {
    name: "programs of the tests",
    scope: Scope::Test,
    look: || look(FOR_TEST),
    install: || install(FOR_TEST),
    by_hand: || by_hand(FOR_TEST),
};

/// How one can tell that something is there.
enum Sign {
    /// A program on the search path.
    Program(&'static str),
    /// Any of these files.
    File(&'static [&'static str]),
    /// A module of the system's Python, which the agent's unprivileged user can read.
    Python(&'static str),
}

/// Something that a package brings, and the package's name on Debian, Fedora and Arch.
struct Need {
    sign: Sign,
    debian: &'static str,
    fedora: &'static str,
    arch: &'static str,
}

/// The interpreter that agents run under: not one in somebody's home.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

const FOR_DEMO: &[Need] = &[
    Need {
        sign: Sign::Program("ip"),
        debian: "iproute2",
        fedora: "iproute",
        arch: "iproute2",
    },
    Need {
        sign: Sign::Program("openssl"),
        debian: "openssl",
        fedora: "openssl",
        arch: "openssl",
    },
    Need {
        sign: Sign::File(&[PYTHON]),
        debian: "python3",
        fedora: "python3",
        arch: "python",
    },
    Need {
        sign: Sign::Python("requests"),
        debian: "python3-requests",
        fedora: "python3-requests",
        arch: "python-requests",
    },
];

const FOR_TEST: &[Need] = &[
    Need {
        sign: Sign::Program("curl"),
        debian: "curl",
        fedora: "curl",
        arch: "curl",
    },
    Need {
        sign: Sign::File(&["/usr/bin/git"]),
        debian: "git",
        fedora: "git-core",
        arch: "git",
    },
    Need {
        sign: Sign::File(&[
            "/usr/lib/git-core/git-http-backend",
            "/usr/libexec/git-core/git-http-backend",
        ]),
        debian: "git",
        fedora: "git-core",
        arch: "git",
    },
    Need {
        sign: Sign::Python("httpx"),
        debian: "python3-httpx",
        fedora: "python3-httpx",
        arch: "python-httpx",
    },
    Need {
        sign: Sign::Python("h2"),
        debian: "python3-h2",
        fedora: "python3-h2",
        arch: "python-h2",
    },
    Need {
        sign: Sign::Python("grpc"),
        debian: "python3-grpcio",
        fedora: "python3-grpcio",
        arch: "python-grpcio",
    },
    Need {
        sign: Sign::Python("websockets"),
        debian: "python3-websockets",
        fedora: "python3-websockets",
        arch: "python-websockets",
    },
    Need {
        sign: Sign::Python("aiohttp"),
        debian: "python3-aiohttp",
        fedora: "python3-aiohttp",
        arch: "python-aiohttp",
    },
    Need {
        sign: Sign::Python("pip"),
        debian: "python3-pip",
        fedora: "python3-pip",
        arch: "python-pip",
    },
    Need {
        sign: Sign::Program("npm"),
        debian: "npm",
        fedora: "nodejs-npm",
        arch: "npm",
    },
    // With its compiler, so that a test can be one file of source.
    Need {
        sign: Sign::Program("javac"),
        debian: "default-jdk-headless",
        fedora: "java-latest-openjdk-devel",
        arch: "jdk-openjdk",
    },
    // The fuzzer is written in it.
    Need {
        sign: Sign::Program("g++"),
        debian: "g++",
        fedora: "gcc-c++",
        arch: "gcc",
    },
    Need {
        sign: Sign::Program("dig"),
        debian: "bind9-dnsutils",
        fedora: "bind-utils",
        arch: "bind",
    },
];

fn look(needs: &[Need]) -> Result<Look> {
    let missing = missing(needs)?;
    if missing.is_empty() {
        let all: Vec<_> = needs.iter().map(|need| need.sign.name()).collect();
        return Ok(Look::Present(all.join(", ")));
    }
    let names: Vec<_> = missing.iter().map(|need| need.sign.name()).collect();
    Ok(Look::Missing(format!("no {}", names.join(", no "))))
}

fn missing(needs: &[Need]) -> Result<Vec<&Need>> {
    let mut missing = Vec::new();
    for need in needs {
        if !need.sign.is_there()? {
            missing.push(need);
        }
    }
    Ok(missing)
}

fn install(needs: &[Need]) -> Result<()> {
    let mut packages: Vec<_> = missing(needs)?.iter().map(|need| need.debian).collect();
    packages.dedup();
    apt_install(&packages)
}

fn by_hand(needs: &[Need]) -> String {
    let missing = missing(needs).unwrap_or_else(|_| needs.iter().collect());
    let names = |of: fn(&Need) -> &'static str| {
        let mut names: Vec<_> = missing.iter().map(|need| of(need)).collect();
        names.dedup();
        names
    };
    install_command(
        &names(|need| need.debian),
        &names(|need| need.fedora),
        &names(|need| need.arch),
    )
}

impl Sign {
    const fn name(&self) -> &'static str {
        match self {
            Self::Program(name) | Self::Python(name) => name,
            Self::File(paths) => match paths {
                [first, ..] => first,
                [] => "nothing",
            },
        }
    }

    fn is_there(&self) -> Result<bool> {
        match self {
            Self::Program(name) => Ok(workspace::find_program(name).is_some()),
            Self::File(paths) => Ok(paths.iter().any(|path| Path::new(path).exists())),
            Self::Python(_) if !Path::new(PYTHON).exists() => Ok(false),
            Self::Python(module) => {
                // Isolated (-I), so that no module of the user's own answers in its place.
                let look = format!(
                    "import importlib.util, sys; sys.exit(not importlib.util.find_spec('{module}'))"
                );
                let found = process::command(PYTHON)
                    .args(["-I", "-c", &look])
                    .capture()?;
                Ok(found.status.success())
            }
        }
    }
}

/// Installs Debian packages; the lists are brought up to date once per run. Never removes one.
pub(super) fn apt_install(packages: &[&str]) -> Result<()> {
    apt_update()?;
    process::as_root("apt-get")?
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--quiet=2", "--yes"])
        .args(["--no-install-recommends", "--no-remove", "--no-upgrade"])
        // Somebody else may be installing; and no progress bars, they fill a log.
        .args(["-oDPkg::Lock::Timeout=300", "-oDpkg::Use-Pty=0"])
        .args(packages)
        .run()
}

/// Whether apt knows a package.
pub(super) fn apt_offers(package: &str) -> Result<bool> {
    apt_update()?;
    let policy = process::command("apt-cache")
        .args(["policy", package])
        .read()?;
    Ok(policy.contains("Candidate:") && !policy.contains("Candidate: (none)"))
}

fn apt_update() -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if workspace::find_program("apt-get").is_none() {
        bail!("this is not a Debian, and only there does setup install packages itself");
    }
    if !DONE.swap(true, Ordering::Relaxed) {
        process::as_root("apt-get")?
            .args(["update", "--quiet=2"])
            .run()?;
    }
    Ok(())
}

/// What a person types to install packages, in the words of their distribution.
pub(super) fn install_command(debian: &[&str], fedora: &[&str], arch: &[&str]) -> String {
    let release = fs::read_to_string("/etc/os-release")
        .context("no /etc/os-release")
        .unwrap_or_default();
    let (words, packages) = match Distribution::of(&release) {
        Distribution::Debian => ("apt-get install --no-install-recommends", debian),
        Distribution::Fedora => ("dnf install", fedora),
        Distribution::Arch => ("pacman -S --needed", arch),
    };
    format!("sudo {words} {}", packages.join(" "))
}

/// Whose packages a system uses; what is not known counts as Debian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Distribution {
    Debian,
    Fedora,
    Arch,
}

impl Distribution {
    fn of(release: &str) -> Self {
        let ids: Vec<_> = release
            .lines()
            .filter_map(|line| {
                line.strip_prefix("ID=")
                    .or_else(|| line.strip_prefix("ID_LIKE="))
            })
            .flat_map(|value| value.trim_matches('"').split_whitespace())
            .collect();
        if ids
            .iter()
            .any(|id| matches!(*id, "fedora" | "rhel" | "centos"))
        {
            Self::Fedora
        } else if ids.contains(&"arch") {
            Self::Arch
        } else {
            Self::Debian
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Distribution;

    #[test]
    fn a_distribution_is_known_by_itself_or_by_what_it_is_like() {
        let table = [
            ("ID=debian\nVERSION_ID=\"12\"\n", Distribution::Debian),
            (
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Distribution::Debian,
            ),
            ("ID=fedora\n", Distribution::Fedora),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Distribution::Fedora,
            ),
            ("ID=endeavouros\nID_LIKE=arch\n", Distribution::Arch),
            ("", Distribution::Debian),
        ];
        for (release, expected) in table {
            assert_eq!(Distribution::of(release), expected, "{release:?}");
        }
    }
}
