//! Rules of this repository's sources that no lint knows.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    process::{self, Run as _},
    workspace,
};

/// Lines at which a file must have been split, tests included.
const LINES_MAX: usize = 800;
/// What the line limit holds for.
const CODE: &[&str] = &["rs", "py", "sh", "js", "css", "html"];
/// Folders that are the same on every machine, so that naming them gives nothing away.
const COMMON: &[&str] = &[
    "/", "/home", "/root", "/tmp", "/srv", "/opt", "/usr/src", "/src",
];

/// Checks each file that git tracks or would track, and reports all that is wrong.
pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let listed = process::command("git")
        .arg("-c")
        .arg(format!("safe.directory={}", root.display()))
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .read()?;
    let places = own_places(root, env::home_dir().as_deref());
    let mut faults = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let path = root.join(name);
        if !path.is_file() {
            continue; // Removed in the work tree, not yet in the index.
        }
        let bytes = fs::read(&path).with_context(|| format!("reading {name}"))?;
        faults.extend(faults_of(name, &String::from_utf8_lossy(&bytes), &places));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// What is wrong with one file.
fn faults_of(name: &str, text: &str, places: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let path = Path::new(name);
    if path.file_name().is_some_and(|file| file == "mod.rs") {
        faults.push(format!(
            "{name}: name it after its folder, beside it, not mod.rs"
        ));
    }
    let extension = path.extension().and_then(|extension| extension.to_str());
    let lines = text.lines().count();
    if extension.is_some_and(|extension| CODE.contains(&extension)) && lines > LINES_MAX {
        faults.push(format!(
            "{name}: {lines} lines; split it before {LINES_MAX}"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for place in places.iter().filter(|place| names(line, place)) {
            faults.push(format!(
                "{name}:{}: names {place}, a place of this machine",
                number + 1
            ));
        }
    }
    faults
}

/// Whether `line` names `place`, as itself or as the start of a longer path.
fn names(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + place.len()..].chars().next();
        let in_a_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | ')');
        !before.is_some_and(in_a_word) && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// The places that would tell on which machine somebody worked.
fn own_places(root: &Path, home: Option<&Path>) -> Vec<String> {
    [Some(root), root.parent(), home]
        .into_iter()
        .flatten()
        .filter_map(Path::to_str)
        .filter(|place| !COMMON.contains(place))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{LINES_MAX, faults_of, own_places};

    fn faults(name: &str, text: &str) -> Vec<String> {
        faults_of(name, text, &["/data/anna".to_owned()])
    }

    #[test]
    fn a_file_at_the_limit_is_fine_and_one_past_it_is_not() {
        assert_eq!(faults("a/b.rs", &"x\n".repeat(LINES_MAX)), [""; 0]);
        let past = faults("a/b.rs", &"x\n".repeat(LINES_MAX + 1));
        assert_eq!(past, ["a/b.rs: 801 lines; split it before 800"]);
    }

    #[test]
    fn lock_files_may_be_long() {
        assert_eq!(faults("Cargo.lock", &"x\n".repeat(LINES_MAX + 1)), [""; 0]);
    }

    #[test]
    fn mod_rs_is_refused() {
        assert_eq!(faults("a/mod.rs", "").len(), 1);
        assert_eq!(faults("a/model.rs", ""), [""; 0]);
    }

    #[test]
    fn a_place_is_found_as_a_path_and_not_within_one() {
        let found = faults("a.md", "fine\nsee /data/anna/sluice\n");
        assert_eq!(found, ["a.md:2: names /data/anna, a place of this machine"]);
        assert_eq!(faults("a.md", "`/data/anna`").len(), 1);
        assert_eq!(faults("a.md", "/big/data/anna"), [""; 0]);
        assert_eq!(faults("a.md", "/data/annabel"), [""; 0]);
    }

    #[test]
    fn common_folders_are_nobodys_own() {
        let own = own_places(Path::new("/tmp/sluice"), Some(Path::new("/root")));
        assert_eq!(own, ["/tmp/sluice"]);
        let own = own_places(
            Path::new("/data/anna/sluice"),
            Some(Path::new("/home/anna")),
        );
        assert_eq!(own, ["/data/anna/sluice", "/data/anna", "/home/anna"]);
    }
}
