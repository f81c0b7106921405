//! apt with more suites than the machine is set up for, and without changing how it is set up.
//!
//! Lists and downloads have a folder of their own. Servers and keys are those of the machine's
//! own configuration; none is named here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Run as _};

/// Where the machine's own configuration is.
const CONFIGURED: &str = "/etc/apt";
/// The key of Debian's archives, where a source does not name one.
const KEY: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Some suites, in a folder of their own.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

/// One source as the machine is configured.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Source {
    uri: String,
    suites: Vec<String>,
    key: Option<String>,
}

impl Apt {
    /// Downloads the lists of these suites, and of the release that the machine runs.
    ///
    /// # Errors
    /// The machine's configuration names no Debian server, or that does not have a suite.
    pub(crate) fn with(folder: PathBuf, suites: &[&str]) -> Result<Self> {
        let sources = configured()?;
        let release = codename()?;
        let mut lines = Vec::new();
        let own = [release.clone(), format!("{release}-security")];
        let own = own.iter().map(String::as_str);
        for suite in own.chain(suites.iter().copied()) {
            let line = line(&sources, &release, suite)?;
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
        }
        fs::write(folder.join("sources.list"), lines.concat()).context("writing sources")?;
        fs::write(folder.join("apt.conf"), configuration(&folder)).context("writing apt.conf")?;
        let apt = Self { folder };
        apt.get().args(["update", "--quiet=2"]).run()?;
        Ok(apt)
    }

    /// `apt-get`, knowing these suites.
    pub(crate) fn get(&self) -> Command {
        self.configured("apt-get")
    }

    /// The newest package whose name these fit; names that nothing but a dependency has are none.
    ///
    /// # Errors
    /// apt fails.
    pub(crate) fn newest(&self, prefix: &str, suffix: &str) -> Result<Option<String>> {
        let mut cache = self.configured("apt-cache");
        let names = cache.args(["pkgnames", prefix]).read()?;
        let mut found: Vec<_> = names
            .lines()
            .filter(|name| name.ends_with(suffix))
            .filter(|name| !name.contains("unsigned") && !name.contains("-dbg"))
            .collect();
        found.sort_by_key(|name| numbers(name));
        for name in found.into_iter().rev() {
            let mut cache = self.configured("apt-cache");
            let said = cache.args(["policy", name]).read()?;
            if said.contains("Candidate:") && !said.contains("Candidate: (none)") {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Version of a package, and what it depends on.
    ///
    /// # Errors
    /// apt fails, or knows no such package.
    pub(crate) fn show(&self, package: &str) -> Result<(String, String)> {
        let mut cache = self.configured("apt-cache");
        let said = cache.args(["show", "--no-all-versions", package]).read()?;
        let field = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        Ok((field("Version:"), field("Depends:")))
    }

    /// Downloads a package into a folder, where it is not installed.
    ///
    /// # Errors
    /// apt fails.
    pub(crate) fn download(&self, package: &str, into: &Path) -> Result<()> {
        self.get()
            .current_dir(into)
            .args(["download", "--quiet=2", package])
            .run()
    }

    fn configured(&self, program: &str) -> Command {
        let mut command = process::command(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command
    }
}

/// What apt is told in this folder: to use its lists and nobody else's.
fn configuration(folder: &Path) -> String {
    let at = |part: &str| folder.join(part).display().to_string();
    let (sources, lists, cache) = (at("sources.list"), at("lists"), at("cache"));
    [
        ("Dir::Etc::sourcelist", sources.as_str()),
        ("Dir::Etc::sourceparts", "/dev/null"),
        ("Dir::State::lists", &lists),
        ("Dir::Cache", &cache),
        ("Dir::Cache::pkgcache", ""),
        ("Dir::Cache::srcpkgcache", ""),
        ("APT::Sandbox::User", "root"),
        ("Acquire::Languages", "none"),
        ("Acquire::Retries", "3"),
        (
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
            "false",
        ),
        ("DPkg::Lock::Timeout", "300"),
        ("DPkg::Use-Pty", "0"),
    ]
    .map(|(key, value)| format!("{key} \"{value}\";\n"))
    .concat()
}

/// The release that the machine runs, such as `bookworm`.
pub(crate) fn codename() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release has no codename")?.to_owned())
}

/// What apt is told about one suite.
fn line(sources: &[Source], release: &str, suite: &str) -> Result<String> {
    let has = |wanted: &str| {
        let wanted = wanted.to_owned();
        sources
            .iter()
            .find(|source| source.suites.contains(&wanted))
    };
    let (own, security) = (has(release), has(&format!("{release}-security")));
    let Some(own) = own else {
        bail!("apt is set up with no server for {release}");
    };
    let source = has(suite).cloned().unwrap_or_else(|| {
        if !suite.ends_with("-security") {
            return own.clone();
        }
        // Security updates have a server, or at least an archive, of their own.
        security.cloned().unwrap_or_else(|| Source {
            uri: format!("{}-security", own.uri.trim_end_matches('/')),
            ..own.clone()
        })
    });
    let key = source.key.as_deref().unwrap_or(KEY);
    Ok(format!(
        "deb [signed-by={key}] {} {suite} main\n",
        source.uri
    ))
}

/// All sources of the machine.
fn configured() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut files = vec![Path::new(CONFIGURED).join("sources.list")];
    let parts = Path::new(CONFIGURED).join("sources.list.d");
    if let Ok(entries) = fs::read_dir(parts) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files {
        // One that is not there, or not readable, is none.
        let text = fs::read_to_string(&file).unwrap_or_default();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(stanzas(&text)),
            Some("list") => sources.extend(lines(&text)),
            _ => {}
        }
    }
    Ok(sources)
}

/// Sources in the format of `.sources`.
fn stanzas(text: &str) -> Vec<Source> {
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty())
        .filter_map(|stanza| {
            let field = |name: &str| {
                let line = stanza.iter().find_map(|line| line.strip_prefix(name));
                line.map(str::trim)
            };
            if field("Enabled:") == Some("no") {
                return None;
            }
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
            Some(Source {
                uri: field("URIs:")?.split_whitespace().next()?.to_owned(),
                suites: words(field("Suites:")?),
                // A key may also be written out in the file, which starts with an empty line.
                key: field("Signed-By:")
                    .filter(|key| key.starts_with('/'))
                    .map(str::to_owned),
            })
        })
        .collect()
}

/// Sources with one on each line.
fn lines(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim_start();
            let (options, rest) = match rest.strip_prefix('[') {
                Some(rest) => rest.split_once(']')?,
                None => ("", rest),
            };
            let key = options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="));
            let mut words = rest.split_whitespace();
            Some(Source {
                uri: words.next()?.to_owned(),
                suites: vec![words.next()?.to_owned()],
                key: key.map(str::to_owned),
            })
        })
        .collect()
}

/// The numbers in a name, by which versions are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Source, line, lines, numbers, stanzas};

    const STANZAS: &str = "\
Types: deb
# where it came from
URIs: http://debian.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/one.gpg

Types: deb
URIs: http://debian.example/security
Suites: bookworm-security
Components: main

Enabled: no
URIs: http://off.example/
Suites: bookworm
";

    fn told(suite: &str, sources: &[Source]) -> String {
        line(sources, "bookworm", suite).expect("a line")
    }

    #[test]
    fn suites_come_from_the_servers_that_the_machine_uses() {
        let sources = stanzas(STANZAS);
        assert_eq!(sources.len(), 2, "one is switched off");
        for (suite, expected) in [
            (
                "bookworm",
                "deb [signed-by=/usr/share/keyrings/one.gpg] http://debian.example/debian bookworm main\n",
            ),
            (
                "trixie-backports",
                "deb [signed-by=/usr/share/keyrings/one.gpg] http://debian.example/debian trixie-backports main\n",
            ),
            (
                "trixie-security",
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://debian.example/security trixie-security main\n",
            ),
        ] {
            assert_eq!(told(suite, &sources), expected);
        }
    }

    #[test]
    fn the_older_format_is_read_as_well() {
        let sources = lines(
            "# deb http://off.example/ bookworm main\n\
             deb-src http://debian.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/key.gpg] http://debian.example/debian bookworm main\n",
        );
        assert_eq!(sources.len(), 1);
        assert_eq!(
            told("bookworm-security", &sources),
            "deb [signed-by=/key.gpg] http://debian.example/debian-security bookworm-security main\n"
        );
    }

    #[test]
    fn another_distribution_has_no_such_server() {
        let sources = lines("deb http://other.example/ubuntu noble main\n");
        let error = line(&sources, "bookworm", "bookworm").expect_err("no server");
        assert!(error.to_string().contains("bookworm"), "{error}");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        let mut names = [
            "linux-image-6.12.9",
            "linux-image-6.12.117",
            "linux-image-6.2.200",
        ];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(
            names,
            [
                "linux-image-6.2.200",
                "linux-image-6.12.9",
                "linux-image-6.12.117"
            ]
        );
    }
}
