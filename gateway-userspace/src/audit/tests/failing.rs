//! A log that cannot be written: requests are refused, nothing is lost, and it comes back.

use std::{fs::File, sync::Arc, time::Instant};

use ringbuf::{
    HeapRb,
    traits::{Producer as _, Split as _},
};

use super::*;
use crate::audit::{file::Opened, sink::Sink, status::Status, writer::Writer};

/// Waits until the stream refuses or accepts, whichever is asked for.
async fn until(audit: &Audit, refuses: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while audit.try_reserve().is_err() != refuses {
        assert!(Instant::now() < deadline, "refuses: {}", !refuses);
        tokio::task::yield_now().await;
    }
}

/// Bytes that one record of [`record`] takes, with a path of one character.
fn line_length() -> usize {
    let log = MemoryLog::with_room(1 << 20);
    let audit = Audit::open(AuditConfig::memory(&log)).unwrap();
    audit.try_reserve().unwrap().write(record("0"));
    assert_eq!(audit.close().written, 1);
    log.text().len()
}

#[tokio::test]
async fn a_full_disk_refuses_requests_until_there_is_room() {
    // Room for ten lines and a half.
    let log = MemoryLog::with_room(line_length() * 21 / 2);
    let audit = Audit::open(impatient(AuditConfig::memory(&log))).unwrap();
    let reserved_before = audit.try_reserve().unwrap();
    for number in 0..11 {
        audit
            .try_reserve()
            .unwrap()
            .write(record(format!("{number:x}")));
    }
    until(&audit, true).await;

    let errno = rustix::io::Errno::NOSPC.raw_os_error();
    let failing = AuditUnavailable::Failing { errno };
    assert_eq!(audit.try_reserve().unwrap_err(), failing);
    assert_eq!(audit.reserve().await.unwrap_err(), failing);
    assert!(!audit.offer(record("dropped")));
    assert!(!audit.offer(record("dropped")));
    reserved_before.write(record("b"));
    assert_eq!(
        audit.flush(Duration::from_millis(1)).await.unwrap_err(),
        failing
    );

    let mut text = log.take();
    assert!(!text.ends_with('\n'), "the disk ran full within a line");
    until(&audit, false).await;
    assert_eq!(
        audit.close(),
        Summary {
            written: 12,
            lost: 2,
            refused: 1
        }
    );
    text += &log.take();
    let records = chained(&text);
    assert_eq!(
        paths(&records),
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b"]
    );
    let losses: Vec<_> = records
        .iter()
        .filter(|record| record["kind"] == "loss")
        .map(|record| (&record["reason"], &record["repeated"]))
        .collect();
    assert_eq!(
        losses,
        [
            (&"audit_no_slot".into(), &2.into()),
            (&"audit_unavailable".into(), &1.into())
        ]
    );
}

#[tokio::test]
async fn closing_on_a_full_disk_counts_what_was_not_written() {
    let log = MemoryLog::with_room(line_length() * 3 / 2);
    let audit = Audit::open(impatient(AuditConfig::memory(&log))).unwrap();
    let slots: Vec<_> = (0..5).map(|_| audit.try_reserve().unwrap()).collect();
    for slot in slots {
        slot.write(record("0"));
    }
    until(&audit, true).await;
    assert_eq!(
        audit.close(),
        Summary {
            written: 1,
            lost: 4,
            refused: 0
        }
    );
}

/// `/dev/full` is no regular file, so it goes past the opening.
#[test]
fn a_device_without_room_fails_the_writer() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = Arc::new(Status::new(2));
    let (mut ring, drain) = HeapRb::new(2).split();
    assert!(ring.try_push(record("0")).is_ok() && ring.try_push(record("1")).is_ok());
    status.close();
    let sink = Opened::new(Sink::File(full));
    let writer = Writer::new(drain, Arc::clone(&status), sink, SyncPolicy::EachBatch);
    assert_eq!(
        writer.run(),
        Summary {
            written: 0,
            lost: 2,
            refused: 0
        }
    );
    let errno = rustix::io::Errno::NOSPC.raw_os_error();
    assert_eq!(status.check(), Err(AuditUnavailable::Failing { errno }));
}

/// A pipe takes bytes but cannot be forced to a disk: `fdatasync` answers `EINVAL`.
#[test]
fn a_failed_sync_puts_its_lines_in_doubt() {
    let (reader, writer) = std::io::pipe().unwrap();
    let status = Arc::new(Status::new(2));
    let (mut ring, drain) = HeapRb::new(2).split();
    assert!(ring.try_push(record("0")).is_ok() && ring.try_push(record("1")).is_ok());
    status.close();
    let sink = Opened::new(Sink::File(File::from(std::os::fd::OwnedFd::from(writer))));
    let summary = Writer::new(drain, status, sink, SyncPolicy::EachBatch).run();
    assert_eq!(
        summary,
        Summary {
            written: 2,
            lost: 2,
            refused: 0
        }
    );
    assert_eq!(chained(&std::io::read_to_string(reader).unwrap()).len(), 2);
}
