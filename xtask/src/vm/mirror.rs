//! A root file system for a machine, as a cpio archive: files of this host at the very paths that
//! they have here, with the libraries that they need, and a few that are made up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use cpio::newc::{Builder, ModeFileType};

use crate::process::{self, Run as _};

/// What is at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Entry {
    Folder(u32),
    Link(PathBuf),
    /// Content from a file of this host.
    File(PathBuf, u32),
    /// Content made up.
    Text(String),
    /// A character device.
    Device(u32, u32),
}

/// The file system as it grows.
#[derive(Default)]
pub(super) struct Mirror {
    entries: BTreeMap<PathBuf, Entry>,
    /// Programs whose libraries are in it.
    linked: BTreeSet<PathBuf>,
}

impl Mirror {
    /// Adds a folder that is writable for everybody, or not.
    pub(super) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.parents(Path::new(path))?;
        self.entries.insert(path.into(), Entry::Folder(mode));
        Ok(())
    }

    /// Adds a file that this host does not have.
    pub(super) fn text(&mut self, path: &str, text: &str) -> Result<()> {
        self.parents(Path::new(path))?;
        self.entries
            .insert(path.into(), Entry::Text(text.to_owned()));
        Ok(())
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.parents(Path::new(path))?;
        self.entries
            .insert(path.into(), Entry::Device(major, minor));
        Ok(())
    }

    /// Adds a file or a whole folder of this host, and the links that lead there.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub(super) fn host(&mut self, path: &Path) -> Result<()> {
        let place = self.follow(path)?;
        let about =
            fs::metadata(&place).with_context(|| format!("looking at {}", path.display()))?;
        if about.is_dir() {
            self.entries.insert(
                place.clone(),
                Entry::Folder(about.permissions().mode() & 0o7777),
            );
            let entries =
                fs::read_dir(&place).with_context(|| format!("reading {}", path.display()))?;
            for entry in entries {
                let entry = entry?.path();
                // A link that leads nowhere is of no use there either.
                if entry.exists() && !is_waste(&entry) {
                    self.host(&entry)?;
                }
            }
        } else {
            let mode = about.permissions().mode() & 0o7777;
            self.entries.insert(place.clone(), Entry::File(place, mode));
        }
        Ok(())
    }

    /// Adds a program or library with all the libraries that it is linked with.
    ///
    /// # Errors
    /// It is not there, or is linked with something that is not.
    pub(super) fn program(&mut self, path: &Path) -> Result<()> {
        self.host(path)?;
        self.libraries(path)
    }

    /// Adds a program at `path` with the content of another file, such as a stripped copy.
    ///
    /// # Errors
    /// As for [`Mirror::program`].
    pub(super) fn program_as(&mut self, path: &Path, content: &Path) -> Result<()> {
        let place = self.follow(path)?;
        self.entries
            .insert(place, Entry::File(content.to_owned(), 0o755));
        self.libraries(path)
    }

    /// Adds a file of this host at another path.
    ///
    /// # Errors
    /// A parent of `path` is something else.
    pub(super) fn file_as(&mut self, path: &Path, content: &Path) -> Result<()> {
        self.parents(path)?;
        self.entries
            .insert(path.to_owned(), Entry::File(content.to_owned(), 0o644));
        Ok(())
    }

    /// Adds the libraries of a program.
    fn libraries(&mut self, path: &Path) -> Result<()> {
        if !self.linked.insert(path.to_owned()) {
            return Ok(());
        }
        let output = process::command("ldd").arg(path).capture()?;
        // A script, or linked with nothing.
        if !output.status.success() {
            return Ok(());
        }
        for library in libraries(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| path.display().to_string())?
        {
            self.host(&library)?;
        }
        Ok(())
    }

    /// Walks along a path, adding folders and links, to where it really is.
    fn follow(&mut self, path: &Path) -> Result<PathBuf> {
        const LINKS: usize = 40;
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            match self.first_link(&path)? {
                Some(target) => path = target,
                None => return Ok(path),
            }
        }
        bail!("{} goes in circles", path.display())
    }

    /// Adds what lies on the way up to the first link, and answers where that leads.
    fn first_link(&mut self, path: &Path) -> Result<Option<PathBuf>> {
        let mut here = PathBuf::new();
        let mut components = path.components();
        while let Some(component) = components.next() {
            match component {
                Component::ParentDir => {
                    here.pop();
                    continue;
                }
                Component::CurDir => continue,
                _ => here.push(component),
            }
            let about = fs::symlink_metadata(&here)
                .with_context(|| format!("looking at {}", here.display()))?;
            if about.is_symlink() {
                let target = fs::read_link(&here)?;
                let rest = components.as_path();
                let parent = here.parent().context("the root is no link")?;
                let mut leads = parent.join(&target);
                if !rest.as_os_str().is_empty() {
                    leads.push(rest);
                }
                self.entries.insert(here, Entry::Link(target));
                return Ok(Some(leads));
            }
            if about.is_dir() && here != Path::new("/") {
                let mode = about.permissions().mode() & 0o7777;
                self.entries
                    .entry(here.clone())
                    .or_insert(Entry::Folder(mode));
            }
        }
        Ok(None)
    }

    /// Adds the folders above a path.
    fn parents(&mut self, path: &Path) -> Result<()> {
        for parent in path.ancestors().skip(1) {
            if parent == Path::new("/") {
                break;
            }
            let entry = self.entries.entry(parent.to_owned());
            match entry.or_insert(Entry::Folder(0o755)) {
                Entry::Folder(_) => {}
                other => bail!("{} is {other:?}", parent.display()),
            }
        }
        Ok(())
    }

    /// Writes the archive, folders before what is in them.
    ///
    /// # Errors
    /// A file cannot be read, or the archive not be written.
    pub(super) fn write(&self, archive: &Path) -> Result<()> {
        let file =
            File::create(archive).with_context(|| format!("making {}", archive.display()))?;
        let mut out = BufWriter::new(file);
        for (number, (path, entry)) in (1_u32..).zip(&self.entries) {
            write_entry(&mut out, number, path, entry)
                .with_context(|| format!("archiving {}", path.display()))?;
        }
        cpio::newc::trailer(&mut out).context("ending the archive")?;
        out.flush().context("writing the archive")
    }
}

fn write_entry(out: &mut impl Write, number: u32, path: &Path, entry: &Entry) -> Result<()> {
    let name = path.strip_prefix("/").unwrap_or(path);
    let name = name.to_str().context("not UTF-8")?;
    let (kind, mode, bytes) = match entry {
        Entry::Folder(mode) => (ModeFileType::Directory, *mode, Vec::new()),
        Entry::Link(target) => {
            let target = target.as_os_str().as_bytes().to_vec();
            (ModeFileType::Symlink, 0o777, target)
        }
        Entry::Text(text) => (ModeFileType::Regular, 0o644, text.clone().into_bytes()),
        Entry::Device(..) => (ModeFileType::Char, 0o666, Vec::new()),
        Entry::File(content, mode) => {
            let bytes = fs::read(content);
            let bytes = bytes.with_context(|| format!("reading {}", content.display()))?;
            (ModeFileType::Regular, *mode, bytes)
        }
    };
    let mut builder = Builder::new(name)
        .ino(number)
        .nlink(1)
        .mode(mode)
        .set_mode_file_type(kind);
    if let Entry::Device(major, minor) = entry {
        builder = builder.rdev_major(*major).rdev_minor(*minor);
    }
    let size = u32::try_from(bytes.len()).context("too large for cpio")?;
    let mut writer = builder.write(out, size);
    writer.write_all(&bytes)?;
    writer.finish()?;
    Ok(())
}

/// Whether a file only takes room: caches, and Python's own tests and editors.
fn is_waste(path: &Path) -> bool {
    const WASTE: &[&str] = &[
        "__pycache__",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "pydoc_data",
        "tkinter",
        "turtledemo",
        "distutils",
    ];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    WASTE.contains(&&*name) || name.starts_with("config-3") || name.ends_with(".a")
}

/// The files that `ldd` names.
///
/// # Errors
/// One is missing.
fn libraries(said: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in said.lines().map(str::trim) {
        if line.ends_with("=> not found") {
            bail!("needs {line}");
        }
        let place = line.split_once("=> ").map_or(line, |(_, place)| place);
        let place = place.split(" (").next().unwrap_or_default();
        if place.starts_with('/') {
            found.push(place.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _, os::unix::fs::symlink, path::Path};

    use super::{Mirror, libraries};

    #[test]
    fn what_a_program_is_linked_with_is_read() {
        let said = "\tlinux-vdso.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries(said).expect("libraries");
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries("\tlibgone.so.1 => not found\n").is_err());
        assert_eq!(
            libraries("\tstatically linked\n").expect("none"),
            [""; 0].map(Path::new)
        );
    }

    /// Reads an archive: name, mode, content.
    fn read(archive: &Path) -> Vec<(String, u32, String)> {
        let mut input = fs::File::open(archive).expect("an archive");
        let mut found = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(input).expect("an entry");
            if reader.entry().is_trailer() {
                return found;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("content");
            found.push((name, mode, text));
            input = reader.finish().expect("the next");
        }
    }

    #[test]
    fn links_are_kept_and_what_they_lead_to_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::canonicalize(folder.path()).expect("where it is");
        fs::create_dir(root.join("real")).expect("a folder");
        fs::write(root.join("real/file"), "content").expect("a file");
        symlink("real", root.join("alias")).expect("a link");
        symlink("../alias/file", root.join("real/again")).expect("a link");
        let mut mirror = Mirror::default();
        mirror.host(&root.join("alias/again")).expect("it is there");
        mirror.device("/dev/null", 1, 3).expect("a device");
        let archive = root.join("archive");
        mirror.write(&archive).expect("written");

        let entries = read(&archive);
        let at = |name: &str| {
            let name = root.join(name);
            let name = name
                .strip_prefix("/")
                .expect("absolute")
                .to_str()
                .expect("text");
            entries.iter().find(|(own, ..)| own == name).cloned()
        };
        let link = at("alias").expect("the link");
        assert_eq!((link.1 & 0o170_000, link.2.as_str()), (0o120_000, "real"));
        assert_eq!(at("real/again").expect("the second").2, "../alias/file");
        let file = at("real/file").expect("the file");
        assert_eq!(
            (file.1 & 0o170_000, file.2.as_str()),
            (0o100_000, "content")
        );
        let null = entries.iter().find(|(name, ..)| name == "dev/null");
        assert_eq!(null.expect("a device").1, 0o020_666);
        let place = |name: &str| entries.iter().position(|(own, ..)| own == name);
        assert!(place("dev") < place("dev/null"), "{entries:?}");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        assert!(
            Mirror::default()
                .host(Path::new("/nowhere/at/all"))
                .is_err()
        );
    }
}
