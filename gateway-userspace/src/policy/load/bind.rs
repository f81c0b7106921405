//! `[bind]`.

use std::collections::{BTreeMap, HashMap};

use toml::{Spanned, de::DeValue};

use super::{reader::Section, schema, sections::duplicate};
use crate::policy::{Bind, Fault, Kubernetes, report::Problems};

/// Entries of each list, and labels.
const ENTRIES_MAX: usize = 256;

pub(super) fn bind(mut section: Section<'_>, problems: &mut Problems) -> Bind {
    let systemd = list("systemd", &mut section, is_unit, problems);
    let cgroup = list("cgroup", &mut section, is_cgroup, problems);
    let kubernetes = section.has("kubernetes").then(|| {
        let table = section.section("kubernetes", &schema::KUBERNETES, problems);
        kubernetes(table, problems)
    });
    Bind {
        systemd,
        cgroup,
        kubernetes: kubernetes.flatten(),
    }
}

fn list(
    key: &'static str,
    section: &mut Section<'_>,
    fits: fn(&str) -> bool,
    problems: &mut Problems,
) -> Vec<String> {
    let Some(list) = section.take::<Vec<Spanned<String>>>(key, problems) else {
        return Vec::new();
    };
    if list.get_ref().is_empty() {
        problems.add(Fault::Empty(key), list.span());
    }
    if list.get_ref().len() > ENTRIES_MAX {
        problems.add(Fault::TooManyBound(key), list.span());
        return Vec::new();
    }
    let mut seen = HashMap::new();
    let mut found = Vec::with_capacity(list.get_ref().len());
    for entry in list.get_ref() {
        let text = entry.get_ref();
        if let Some(first) = seen.insert(text.clone(), entry.span()) {
            duplicate(key, text.clone(), entry.span(), first, problems);
        } else if fits(text) {
            found.push(text.clone());
        } else {
            let text = text.clone();
            problems.add(Fault::Bound { key, text }, entry.span());
        }
    }
    found
}

/// Whether systemd would take this for a unit, if the stars were letters.
fn is_unit(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@*".contains(&b);
    let named = [".service", ".scope", ".slice"]
        .iter()
        .filter_map(|kind| text.strip_suffix(kind))
        .any(|name| name.bytes().any(|b| b != b'*'));
    (1..=255).contains(&text.len()) && text.bytes().all(fits) && named
}

/// Whether this is an absolute path in its plainest form that is not all stars.
fn is_cgroup(text: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let Some(path) = text.strip_prefix('/') else {
        return false;
    };
    text.len() <= 4096
        && path.split('/').all(plain)
        && path.bytes().any(|b| !matches!(b, b'*' | b'/'))
}

fn kubernetes(mut section: Section<'_>, problems: &mut Problems) -> Option<Kubernetes> {
    let namespace = section.require::<String>("namespace", problems);
    let mut labels = BTreeMap::new();
    if let Some(value) = section.take_value("labels") {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) if table.len() <= ENTRIES_MAX => {
                for (name, value) in table {
                    let span = name.span();
                    let name = name.into_inner().into_owned();
                    match value.get_ref().as_str() {
                        Some(value) if is_label(&name) && is_label_value(value) => {
                            labels.insert(name, value.to_owned());
                        }
                        Some(_) | None => {
                            let key = "labels";
                            problems.add(Fault::Bound { key, text: name }, span);
                        }
                    }
                }
            }
            DeValue::Table(_) => problems.add(Fault::TooManyBound("labels"), span),
            other => {
                let message = super::reader::not_a("table", &other);
                problems.add(section.wrong_type("labels", &message), span);
            }
        }
    }
    let namespace = namespace?;
    if !is_namespace(namespace.get_ref()) {
        let (key, text) = ("namespace", namespace.get_ref().clone());
        problems.add(Fault::Bound { key, text }, namespace.span());
        return None;
    }
    Some(Kubernetes {
        namespace: namespace.into_inner(),
        labels,
    })
}

/// A DNS label, as Kubernetes has them.
fn is_namespace(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(fits)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_label(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').unwrap_or(("x", text));
    let in_prefix = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
    (1..=253).contains(&prefix.len())
        && prefix.bytes().all(in_prefix)
        && !name.is_empty()
        && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(fits)
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

#[cfg(test)]
mod tests {
    use crate::policy::Policy;

    fn parse(bind: &str) -> Result<Policy, String> {
        let text = format!("schema = 1\nagent = \"a\"\n[bind]\n{bind}\n");
        Policy::parse("a", &text).map_err(|errors| errors.to_string())
    }

    #[test]
    fn whom_a_policy_is_for_is_read() {
        let policy = parse(
            "systemd = [\"support-bot@*.service\"]\ncgroup = [\"/agents.slice/support-*\"]\n\
             kubernetes = { namespace = \"agents\", labels = { app = \"bot\", \"x.io/y\" = \"\" } }",
        )
        .unwrap();
        let bind = policy.bind();
        assert_eq!(bind.systemd, ["support-bot@*.service"]);
        assert_eq!(bind.cgroup, ["/agents.slice/support-*"]);
        let pods = bind.kubernetes.as_ref().unwrap();
        assert_eq!((pods.namespace.as_str(), pods.labels.len()), ("agents", 2));
        assert_eq!(parse("").unwrap().bind(), &super::Bind::default());
    }

    #[test]
    fn what_binds_nothing_or_everything_is_an_error() {
        for bad in [
            "systemd = [\"*.service\"]",
            "systemd = [\"bot\"]",
            "systemd = []",
            "systemd = [\"a.service\", \"a.service\"]",
            "cgroup = [\"agents\"]",
            "cgroup = [\"/*\"]",
            "cgroup = [\"/a/../b\"]",
            "kubernetes = {}",
            "kubernetes = { namespace = \"A\" }",
            "kubernetes = { namespace = \"a\", labels = { \"-\" = \"b\" } }",
            "kubernetes = { namespace = \"a\", labels = { a = 1 } }",
            "docker = [\"x\"]",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let many = |count: usize| {
            let list: Vec<String> = (0..count).map(|it| format!("\"/a/{it}\"")).collect();
            parse(&format!("cgroup = [{}]", list.join(", ")))
        };
        assert!(many(super::ENTRIES_MAX).is_ok());
        assert!(
            many(super::ENTRIES_MAX + 1)
                .unwrap_err()
                .contains("more than 256")
        );
    }
}
