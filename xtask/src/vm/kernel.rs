//! Debian's kernels: downloaded, unpacked, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{apt::Apt, folder, vmlinux};
use crate::process::{self, Run as _};

/// One row of the matrix.
pub(super) struct Version {
    /// What the user calls it.
    pub(super) version: &'static str,
    /// How its package's name starts; the newest that fits is taken.
    prefix: &'static str,
    /// Where it is to be had.
    suite: &'static str,
    /// Whether it is an error that it is not.
    pub(super) required: bool,
    /// Whether it is also started without `bpf` among its security modules.
    pub(super) also_without_lsm: bool,
}

/// All kernels. The cloud flavour boots without modules and is small.
pub(super) const MATRIX: &[Version] = &[
    Version {
        version: "6.1",
        prefix: "linux-image-6.1.",
        suite: "bookworm-security",
        required: true,
        also_without_lsm: false,
    },
    Version {
        version: "6.12",
        prefix: "linux-image-6.12.",
        suite: "bookworm-security",
        required: true,
        also_without_lsm: true,
    },
    Version {
        version: "6.18",
        prefix: "linux-image-6.18.",
        suite: "trixie-backports",
        required: false,
        also_without_lsm: false,
    },
    Version {
        version: "7",
        prefix: "linux-image-7.",
        suite: "trixie-backports",
        required: false,
        also_without_lsm: false,
    },
];

/// How packages' names end.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel that is there.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    /// Major and minor version.
    pub(super) label: String,
    /// What `uname -r` will say.
    pub(super) release: String,
    /// To be started.
    pub(super) image: PathBuf,
    /// Holds `lib/modules`.
    pub(super) modules: PathBuf,
}

/// Gets a kernel, unless it is there in its newest version; the inner error says why it is not
/// to be had.
///
/// # Errors
/// It was to be had and is broken.
pub(super) fn fetch(row: &Version) -> Result<Result<Fetched, String>> {
    let apt = match Apt::with(folder()?.join("apt").join(row.suite), &[row.suite]) {
        Ok(apt) => apt,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let Some(package) = apt.newest(row.prefix, FLAVOUR)? else {
        return Ok(Err(format!(
            "{} has no {}*{FLAVOUR}",
            row.suite, row.prefix
        )));
    };
    let (version, depends) = apt.show(&package)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let label = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let home = folder()?
        .join("kernels")
        .join(format!("{package}_{version}"));
    let fetched = Fetched {
        label,
        image: home.join("vmlinux"),
        modules: home.join("root/usr"),
        release,
    };
    if !fetched.image.is_file() {
        eprintln!("xtask: getting kernel {} {version}", fetched.release);
        // Newer ones come in parts.
        let parts =
            ["linux-binary-", "linux-modules-"].map(|part| format!("{part}{}", fetched.release));
        let parts = parts.iter().filter(|part| depends.contains(part.as_str()));
        let packages: Vec<_> = std::iter::once(&package).chain(parts).collect();
        unpack(&apt, &packages, &home, &fetched).with_context(|| format!("unpacking {package}"))?;
    }
    Ok(Ok(fetched))
}

/// Downloads and unpacks; the image is written last, and tells that all is there.
fn unpack(apt: &Apt, packages: &[&String], home: &Path, fetched: &Fetched) -> Result<()> {
    let (archives, root) = (home.join("archives"), home.join("root"));
    for stale in [&archives, &root] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("removing {}", stale.display()))?;
        }
    }
    fs::create_dir_all(&archives).context("making a folder")?;
    for package in packages {
        apt.download(package, &archives)?;
    }
    for archive in fs::read_dir(&archives).context("reading what apt downloaded")? {
        process::command("dpkg-deb")
            .arg("--extract")
            .args([archive?.path(), root.clone()])
            .run()?;
    }
    fs::remove_dir_all(&archives).context("removing archives")?;
    // Packages from before and after /lib became a link end up in one layout.
    let old = root.join("lib/modules");
    if old.is_dir() {
        fs::create_dir_all(root.join("usr/lib")).context("making a folder")?;
        fs::rename(old, root.join("usr/lib/modules")).context("moving modules")?;
    }
    process::command("depmod")
        .arg("--basedir")
        .args([&fetched.modules, Path::new(&fetched.release)])
        .run()?;
    let name = format!("vmlinuz-{}", fetched.release);
    let places = [
        root.join("boot").join(name),
        fetched
            .modules
            .join("lib/modules")
            .join(&fetched.release)
            .join("vmlinuz"),
    ];
    let place = places.iter().find(|place| place.is_file());
    let place = place.context("the package has no vmlinuz where it used to be")?;
    let compressed = fs::read(place).with_context(|| format!("reading {}", place.display()))?;
    let kernel = vmlinux::extract(&compressed)?;
    let partial = home.join("vmlinux.part");
    fs::write(&partial, kernel).context("writing vmlinux")?;
    fs::rename(&partial, &fetched.image).context("putting vmlinux in its place")
}
