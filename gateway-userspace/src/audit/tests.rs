//! The stream as its users see it: what goes in comes out, once, in a chain.

mod failing;
mod reopening;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Audit, AuditConfig, AuditUnavailable, GENESIS, Kind, MAX_CAPACITY, MemoryLog, OpenError,
    Outcome, Record, Subject, Summary, SyncPolicy,
};
use crate::{
    identity::Assurance,
    names::{AgentId, PolicyDigest},
};

/// A record that can be told from others by its path.
fn record(path: impl Into<String>) -> Record {
    let subject = Subject {
        agent: AgentId::parse("bot").unwrap(),
        assurance: Assurance::Confined,
        policy: PolicyDigest([7; 32]),
    };
    let reason = "no_rule";
    Record::new(
        &subject,
        Timestamp::UNIX_EPOCH,
        Kind::Http,
        Outcome::Deny,
        reason,
    )
    .path(path)
}

/// The records, after recomputing the chain over the very bytes.
fn chained(text: &str) -> Vec<Value> {
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "unfinished: {text}"
    );
    let mut prev = GENESIS.to_owned();
    let mut records = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["seq"], number, "{line}");
        assert_eq!(record["prev"], prev.as_str(), "{line}");
        prev = Sha256::digest(line)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        records.push(record);
    }
    records
}

fn paths(records: &[Value]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|record| record["path"].as_str())
        .collect()
}

/// A config that never waits long, so that a test of refusals is quick.
fn impatient(config: AuditConfig) -> AuditConfig {
    AuditConfig {
        patience: Duration::from_millis(1),
        ..config
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_producers_lose_and_repeat_nothing() {
    const TASKS: usize = 64;
    const RECORDS: usize = 1000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::open(AuditConfig {
        // Far fewer than are written: producers must wait for room.
        capacity: 16,
        patience: Duration::from_secs(60),
        ..AuditConfig::path(&path)
    })
    .unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let audit = audit.clone();
        tasks.spawn(async move {
            for number in 0..RECORDS {
                let slot = audit.reserve().await.unwrap();
                slot.write(record(format!("{task}/{number}")));
            }
        });
    }
    tasks.join_all().await;
    let summary = audit.close();

    let written = (TASKS * RECORDS) as u64;
    assert_eq!(
        summary,
        Summary {
            written,
            lost: 0,
            refused: 0
        }
    );
    let records = chained(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(records.len(), TASKS * RECORDS);
    let distinct: BTreeSet<&str> = paths(&records).into_iter().collect();
    assert_eq!(distinct.len(), TASKS * RECORDS);
}

#[tokio::test]
async fn a_full_queue_refuses_at_its_exact_limit() {
    let log = MemoryLog::with_room(1 << 20);
    let audit = Audit::open(impatient(AuditConfig {
        capacity: 3,
        ..AuditConfig::memory(&log)
    }))
    .unwrap();
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(audit.try_reserve().unwrap());
    }
    assert!(
        matches!(audit.try_reserve(), Err(AuditUnavailable::Full { waited }) if waited.is_zero())
    );
    assert!(
        matches!(audit.reserve().await, Err(AuditUnavailable::Full { waited }) if !waited.is_zero())
    );
    assert!(!audit.offer(record("no room")));

    // An unused slot gives its room back, a used one when its line is written.
    drop(slots.pop());
    assert!(audit.offer(record("room again")));
    audit.flush(Duration::from_secs(30)).await.unwrap();
    slots.push(audit.try_reserve().unwrap());
    for slot in slots {
        slot.write(record("reserved"));
    }

    assert_eq!(
        audit.close(),
        Summary {
            written: 4,
            lost: 1,
            refused: 1
        }
    );
    let records = chained(&log.text());
    assert_eq!(
        paths(&records),
        ["room again", "reserved", "reserved", "reserved"]
    );
    let losses: Vec<_> = records
        .iter()
        .filter(|record| record["kind"] == "loss")
        .map(|record| {
            (
                record["reason"].as_str().unwrap(),
                record["repeated"].as_u64().unwrap(),
            )
        })
        .collect();
    let mut expected = losses.clone();
    expected.sort_unstable();
    assert_eq!(expected, [("audit_no_slot", 1), ("audit_unavailable", 1)]);
}

#[tokio::test]
async fn a_waiting_producer_gets_the_room_that_comes_free() {
    let log = MemoryLog::with_room(1 << 20);
    let audit = Audit::open(AuditConfig {
        capacity: 1,
        patience: Duration::from_secs(60),
        ..AuditConfig::memory(&log)
    })
    .unwrap();
    let first = audit.reserve().await.unwrap();
    let waiting = tokio::spawn({
        let audit = audit.clone();
        async move { audit.reserve().await.unwrap().write(record("second")) }
    });
    tokio::task::yield_now().await;
    first.write(record("first"));
    waiting.await.unwrap();
    assert_eq!(audit.close().written, 2);
    assert_eq!(paths(&chained(&log.text())), ["first", "second"]);
}

#[tokio::test]
async fn after_close_nothing_is_accepted_and_the_counts_stay() {
    let log = MemoryLog::with_room(1 << 20);
    let audit = Audit::open(AuditConfig::memory(&log)).unwrap();
    let late = audit.reserve().await.unwrap();
    audit.reserve().await.unwrap().write(record("in time"));
    let summary = audit.close();
    assert_eq!(summary.written, 1);
    assert_eq!(audit.try_reserve().unwrap_err(), AuditUnavailable::Closed);
    assert_eq!(audit.reserve().await.unwrap_err(), AuditUnavailable::Closed);
    late.write(record("late"));
    assert_eq!(audit.close(), summary);
    assert_eq!(paths(&chained(&log.text())), ["in time"]);
}

#[test]
fn dropping_the_last_handle_writes_what_is_queued() {
    let log = MemoryLog::with_room(1 << 20);
    let audit = Audit::open(AuditConfig {
        sync: SyncPolicy::EachBatch,
        ..AuditConfig::memory(&log)
    })
    .unwrap();
    let slot = audit.try_reserve().unwrap();
    drop(audit);
    slot.write(record("kept"));
    assert_eq!(paths(&chained(&log.text())), ["kept"]);
}

#[test]
fn capacity_has_bounds() {
    let log = MemoryLog::with_room(0);
    for (capacity, fits) in [
        (0, false),
        (1, true),
        (MAX_CAPACITY, true),
        (MAX_CAPACITY + 1, false),
    ] {
        let opened = Audit::open(AuditConfig {
            capacity,
            ..AuditConfig::memory(&log)
        });
        match opened {
            Ok(_) => assert!(fits, "{capacity}"),
            Err(OpenError::Capacity { .. }) => assert!(!fits, "{capacity}"),
            Err(other) => panic!("{other}"),
        }
    }
}
