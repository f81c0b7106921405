use std::os::unix::fs::symlink;

use super::*;

const BASE: &str = "schema = 1\nagent = \"a\"\n";

fn watch(path: &Path) -> Watch {
    let source = Source {
        policy: Some(path.to_owned()),
        ..Source::default()
    };
    Watch {
        taken: source.looks(),
        source,
        pending: None,
    }
}

/// Looks until it settles: what was seen, of so many looks.
fn seen(watch: &mut Watch) -> Vec<Option<Cause>> {
    (0..3).map(|_| watch.look()).collect()
}

const ONCE: [Option<Cause>; 3] = [None, Some(Cause::Changed), None];

#[test]
fn each_way_to_change_a_file_is_seen_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, BASE).unwrap();
    let mut watch = watch(&path);
    assert_eq!(seen(&mut watch), [None; 3]);
    // In place, of the same length.
    fs::write(&path, BASE.replace("\"a\"", "\"b\"")).unwrap();
    assert_eq!(seen(&mut watch), ONCE);
    // By renaming, as editors do.
    let other = folder.path().join("other");
    fs::write(&other, BASE).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(seen(&mut watch), ONCE);
    // Gone, and there again.
    fs::remove_file(&path).unwrap();
    assert_eq!(seen(&mut watch), ONCE);
    fs::write(&path, BASE).unwrap();
    assert_eq!(seen(&mut watch), ONCE);
}

#[test]
fn a_link_that_leads_elsewhere_is_a_change() {
    // As a Kubernetes config map: the file is a link, by way of a folder that is one too.
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for version in ["one", "two"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("policy.toml"), BASE).unwrap();
    }
    symlink("one", at("data")).unwrap();
    symlink("data/policy.toml", at("policy.toml")).unwrap();
    let mut watch = watch(&at("policy.toml"));
    assert_eq!(seen(&mut watch), [None; 3]);
    symlink("two", at("swap")).unwrap();
    fs::rename(at("swap"), at("data")).unwrap();
    assert_eq!(seen(&mut watch), ONCE);
}

#[test]
fn one_that_is_being_written_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, BASE).unwrap();
    let mut watch = watch(&path);
    for end in 0..BASE.len() {
        fs::write(&path, &BASE[..end]).unwrap();
        assert_eq!(watch.look(), None, "{end}");
    }
    // And one that becomes what it was is no change, unless it was written again.
    assert_eq!(watch.look(), Some(Cause::Changed));
}

#[test]
fn what_others_were_told_cannot_change() {
    let parse = |more: &str| Policy::parse("a.toml", &format!("{BASE}{more}")).unwrap();
    let old = parse("");
    let none: Vec<&str> = Vec::new();
    for (more, gateway, kernel) in [
        (
            "[[egress]]\nid = \"x\"\nhosts = [\"x.example\"]\n",
            none.clone(),
            none.clone(),
        ),
        ("[dns]\nmode = \"any\"\n", vec![], vec![]),
        (
            "[dns]\nmode = \"off\"\n",
            vec![],
            vec!["mode = \"off\" in [dns]"],
        ),
        ("mode = \"observe\"\n", vec![], vec!["mode"]),
        ("assurance = \"sealed\"\n", vec![], vec!["assurance"]),
        ("[network]\ndirect = \"deny\"\n", vec![], vec!["[network]"]),
        ("[process]\nptrace = true\n", vec![], vec!["[process]"]),
    ] {
        let new = parse(more);
        assert_eq!(Bounds::Gateway.fixed(&old, &new), gateway, "{more}");
        assert_eq!(Bounds::Kernel.fixed(&old, &new), kernel, "{more}");
    }
    let other = Policy::parse("a.toml", &BASE.replace("\"a\"", "\"b\"")).unwrap();
    assert_eq!(Bounds::Gateway.fixed(&old, &other), ["agent"]);
}
