//! The audit stream against a real kernel: killed writers and full disks.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use gateway_userspace::{
    audit::{
        Audit, AuditConfig, AuditUnavailable, GENESIS, Kind, OpenError, Outcome, Record, Subject,
    },
    identity::Assurance,
    names::{AgentId, PolicyDigest},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Long enough for the slowest machine; nothing waits that long when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

fn record(path: String) -> Record {
    let subject = Subject {
        agent: AgentId::parse("bot").unwrap(),
        assurance: Assurance::Confined,
        policy: PolicyDigest([7; 32]),
    };
    let time = jiff::Timestamp::UNIX_EPOCH;
    Record::new(&subject, time, Kind::Http, Outcome::Allow, "rule").path(path)
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::yield_now();
    }
}

/// Checks the chain over the very bytes of the file, and calls back with each record.
fn for_each_chained(path: &Path, mut look: impl FnMut(&Value)) -> u64 {
    let mut prev = GENESIS.to_owned();
    let mut count = 0;
    for line in BufReader::new(File::open(path).unwrap()).lines() {
        let line = line.unwrap();
        let record: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&record["seq"], &record["prev"]),
            (&count.into(), &prev.into())
        );
        prev = Sha256::digest(&line)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        look(&record);
        count += 1;
    }
    count
}

/// Kills and reaps, also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may be dead already; reaping says so too.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_killed_writer_leaves_a_file_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let size = || fs::metadata(&path).map_or(0, |found| found.len());
    for _ in 0..5 {
        let before = size();
        let mut writer = Command::new(env!("CARGO_BIN_EXE_audit-writer"));
        let writer = Killed(writer.arg(&path).spawn().unwrap());
        wait_for("records of the child", || size() > before + 100_000);
        let held = Audit::open(AuditConfig::path(&path)).map(|_| ());
        assert!(
            matches!(held, Err(OpenError::Locked { holder: Some(pid), .. }) if pid == writer.0.id()),
            "{held:?}"
        );
        drop(writer);
    }
    let audit = Audit::open(AuditConfig::path(&path)).unwrap();
    audit
        .try_reserve()
        .unwrap()
        .write(record("last".to_owned()));
    assert_eq!(audit.close().written, 1);
    let mut last = Value::Null;
    assert!(for_each_chained(&path, |record| last = record.clone()) > 500);
    assert_eq!(last["path"], "last");
}

/// Runs in a thread of its own with a small file system that nobody else sees.
fn on_a_small_disk(test: impl FnOnce(&Path) + Send) {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "needs root to mount a small file system"
        );
        eprintln!("skipped: needs root to mount a small file system");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            let small = Some("size=256k");
            mount(none, folder.path(), Some("tmpfs"), MsFlags::empty(), small).unwrap();
            test(folder.path());
        });
    });
}

#[test]
fn a_full_disk_refuses_requests_and_loses_nothing() {
    on_a_small_disk(|folder| {
        let path = folder.join("audit.jsonl");
        let ballast = folder.join("ballast");
        fs::write(&ballast, vec![0; 128 * 1024]).unwrap();
        let audit = Audit::open(AuditConfig {
            // What waits while the disk is full fits in the ballast's place.
            capacity: 64,
            ..AuditConfig::path(&path)
        })
        .unwrap();

        let mut accepted = 0;
        let mut errno = 0;
        wait_for("the disk to run full", || match audit.try_reserve() {
            Ok(slot) => {
                slot.write(record(accepted.to_string()));
                accepted += 1;
                false
            }
            Err(AuditUnavailable::Full { .. }) => false,
            Err(AuditUnavailable::Failing { errno: found }) => {
                errno = found;
                true
            }
            Err(AuditUnavailable::Closed) => panic!("nobody closed it"),
        });
        assert_eq!(errno, rustix::io::Errno::NOSPC.raw_os_error());
        assert!(!audit.offer(record("dropped".to_owned())));

        fs::remove_file(&ballast).unwrap();
        wait_for("the writer to come back", || audit.try_reserve().is_ok());
        let summary = audit.close();
        assert_eq!((summary.written, summary.lost), (accepted, 1));

        let (mut next, mut losses) = (0, Vec::new());
        for_each_chained(&path, |record| {
            if record["kind"] == "loss" {
                losses.push((record["reason"].clone(), record["repeated"].clone()));
            } else {
                assert_eq!(record["path"], next.to_string());
                next += 1;
            }
        });
        assert_eq!(next, accepted);
        assert_eq!(losses, [("audit_no_slot".into(), 1.into())]);
    });
}
