//! Files that are there already: continued, repaired, or refused.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use super::*;
use crate::audit::{MAX_LINE, NotAudit};

fn write(path: &Path, names: &[&str]) -> Summary {
    let audit = Audit::open(AuditConfig::path(path)).unwrap();
    for name in names {
        audit.try_reserve().unwrap().write(record(*name));
    }
    audit.close()
}

/// A file of mode 0600 with this content.
fn place(path: &Path, content: &[u8]) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).unwrap().write_all(content).unwrap();
}

fn refusal(path: &Path) -> OpenError {
    let before = fs::read(path).ok();
    let error = Audit::open(AuditConfig::path(path))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(fs::read(path).ok(), before, "a refused file is left alone");
    error
}

#[test]
fn the_chain_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/the/way/audit.jsonl");
    for names in [&["a", "b"][..], &[], &["c"]] {
        assert_eq!(write(&path, names).written, names.len() as u64);
    }
    assert_eq!(
        paths(&chained(&fs::read_to_string(&path).unwrap())),
        ["a", "b", "c"]
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn an_unfinished_line_is_moved_aside_and_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let aside = folder.path().join("audit.jsonl.torn-2");
    let _counts = write(&path, &["a", "b"]);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(br#"{"seq":2,"prev":"#).unwrap();

    let _counts = write(&path, &["c"]);
    let records = chained(&fs::read_to_string(&path).unwrap());
    assert_eq!(paths(&records), ["a", "b", "c"]);
    let loss = &records[2];
    assert_eq!(
        (&loss["kind"], &loss["reason"]),
        (&"loss".into(), &"audit_torn_line".into())
    );
    let hint = loss["hint"].as_str().unwrap();
    assert!(
        hint.contains("16 bytes") && hint.contains("audit.jsonl.torn-2"),
        "{hint}"
    );
    assert_eq!(fs::read(&aside).unwrap(), br#"{"seq":2,"prev":"#);

    // It is told of once.
    let _counts = write(&path, &["d"]);
    assert_eq!(chained(&fs::read_to_string(&path).unwrap()).len(), 5);
}

#[test]
fn a_crash_between_moving_and_telling_is_told_of_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let _counts = write(&path, &["a"]);
    place(&folder.path().join("audit.jsonl.torn-1"), b"moved");
    let _counts = write(&path, &["b"]);
    let records = chained(&fs::read_to_string(&path).unwrap());
    assert_eq!(records[1]["reason"], "audit_torn_line");
    assert_eq!(paths(&records), ["a", "b"]);
}

#[test]
fn a_file_that_is_only_an_unfinished_line_starts_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    place(&path, &vec![b'x'; MAX_LINE]);
    let _counts = write(&path, &["a"]);
    let records = chained(&fs::read_to_string(&path).unwrap());
    assert_eq!((records.len(), paths(&records)), (2, vec!["a"]));
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    // The longest line there may be, and one byte more.
    let padded = |length: usize| {
        let frame = r#"{"seq":4,"x":""}"#.len();
        format!("{{\"seq\":4,\"x\":\"{}\"}}\n", "x".repeat(length - frame))
    };
    let cases: [(Vec<u8>, NotAudit); 7] = [
        (b"hello\n".to_vec(), NotAudit::NotARecord),
        (b"{\"seq\":-1}\n".to_vec(), NotAudit::NotARecord),
        (b"{}\n".to_vec(), NotAudit::NotARecord),
        (b"\n".to_vec(), NotAudit::NotARecord),
        (
            format!("{{\"seq\":{}}}\n", u64::MAX).into_bytes(),
            NotAudit::Exhausted,
        ),
        (padded(MAX_LINE + 1).into_bytes(), NotAudit::TooLong),
        (vec![b'x'; MAX_LINE + 1], NotAudit::TooLong),
    ];
    for (content, expected) in cases {
        place(&path, &content);
        match refusal(&path) {
            OpenError::NotAudit { reason, .. } => assert_eq!(reason, expected),
            other => panic!("{expected:?}: {other}"),
        }
    }
    for before in ["", &padded(MAX_LINE), &"{}\n".repeat(MAX_LINE)] {
        place(&path, format!("{before}{}", padded(MAX_LINE)).as_bytes());
        assert_eq!(write(&path, &["a"]).written, 1);
    }
}

#[test]
fn a_file_that_others_reach_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    for (mode, fits) in [(0o600, true), (0o640, true), (0o620, false), (0o602, false)] {
        place(&path, b"");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        match Audit::open(AuditConfig::path(&path)) {
            Ok(_) => assert!(fits, "{mode:o}"),
            Err(OpenError::NotOurs { .. }) => assert!(!fits, "{mode:o}"),
            Err(other) => panic!("{mode:o}: {other}"),
        }
    }
    let link = folder.path().join("link.jsonl");
    symlink(&path, &link).unwrap();
    assert!(matches!(
        refusal(&link),
        OpenError::File {
            action: "opening",
            ..
        }
    ));
    let device = Audit::open(AuditConfig::path("/dev/null")).map(|_| ());
    assert!(matches!(device, Err(OpenError::NotRegular { .. })));
}

#[test]
fn a_second_writer_is_refused_and_told_who_the_first_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let first = Audit::open(AuditConfig::path(&path)).unwrap();
    let error = refusal(&path).to_string();
    assert!(
        error.contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    let _counts = first.close();
    drop(first);
    assert!(Audit::open(AuditConfig::path(&path)).is_ok());
}

#[test]
fn text_that_an_agent_chose_is_inert_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let hostile = "/\u{9b}2J\x1b[1A\u{202e}\n{\"seq\":9}\n";
    let _counts = write(&path, &[hostile]);
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        !text
            .trim_end_matches('\n')
            .contains(crate::sanitize::is_hostile),
        "{text}"
    );
    assert_eq!(paths(&chained(&text)), [hostile]);
}
