//! `[process]`.

use std::path::{Component, Path, PathBuf};

use toml::Spanned;

use super::{reader::Section, sections};
use crate::policy::{Fault, ProcessPolicy, report::Problems, settings::PLACES_MAX};

pub(super) fn process(mut section: Section<'_>, problems: &mut Problems) -> ProcessPolicy {
    let mut switch = |key| {
        section
            .take::<bool>(key, problems)
            .is_some_and(|value| *value.get_ref())
    };
    let (ptrace, user_namespaces, io_uring) = (
        switch("ptrace"),
        switch("user_namespaces"),
        switch("io_uring"),
    );
    let devices = sections::devices(&mut section, problems);
    let run = places("run", &mut section, problems).unwrap_or_default();
    ProcessPolicy {
        ptrace,
        user_namespaces,
        io_uring,
        devices,
        run,
        read: places("read", &mut section, problems),
        write: places("write", &mut section, problems),
    }
}

fn places(
    key: &'static str,
    section: &mut Section<'_>,
    problems: &mut Problems,
) -> Option<Vec<PathBuf>> {
    let list = section.take::<Vec<Spanned<String>>>(key, problems)?;
    if list.get_ref().len() > PLACES_MAX {
        problems.add(Fault::TooManyPlaces(key), list.span());
    }
    let mut places = Vec::with_capacity(list.get_ref().len());
    for entry in list.get_ref() {
        let path = PathBuf::from(entry.get_ref());
        match flaw(key, &path) {
            Some(why) => {
                let text = entry.get_ref().clone();
                problems.add(Fault::Place { key, text, why }, entry.span());
            }
            None => places.push(path),
        }
    }
    Some(places)
}

/// What keeps a path from meaning one place.
fn flaw(key: &str, path: &Path) -> Option<&'static str> {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() {
        return Some("is not absolute");
    }
    if !path.components().all(plain) {
        return Some("has `..` in it");
    }
    let below_run = path.starts_with("/run") && path != Path::new("/run");
    (key == "run" && !below_run).then_some("is not below /run")
}
