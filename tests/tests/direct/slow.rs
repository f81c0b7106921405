//! Ends that stop, or hardly go on: nothing is kept for them without end, and what goes on at all
//! arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gateway_userspace::config::Limits;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    origin::Origin,
    rig::{Rig, allow_origin, in_time, pick, status},
};

const SOON: Duration = Duration::from_millis(300);
/// More than the sockets on the way take up in all.
const MUCH: usize = 64 << 20;
static BLOCK: [u8; 64 << 10] = [b'x'; 64 << 10];

fn limits() -> Limits {
    Limits {
        idle_timeout: SOON,
        ..Limits::default()
    }
}

fn head(method: &str, origin: &Origin, more: &str) -> String {
    let host = format!("origin.test:{}", origin.address.port());
    format!("{method} / HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

#[tokio::test]
async fn an_upstream_that_stops_within_a_body_is_left() {
    let origin = Origin::scripted(|mut call, _| async move {
        if call.request().await.is_some() {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
                .await;
            while call.some().await.is_some() {}
        }
    })
    .await;
    let rig = Rig::with_limits(&allow_origin(origin.address), limits());
    let mut agent = rig.connect().await;
    agent.send(head("GET", &origin, "")).await;
    assert_eq!(agent.until("half ").await.len(), 44);
    agent.expect_reset().await;
    assert_eq!(
        pick(
            &rig.record().await,
            &["outcome", "reason", "blame", "bytes_in"]
        ),
        json!(["allow", "upstream_stalled", "upstream", 44])
    );
}

#[tokio::test]
async fn what_an_agent_does_not_read_is_not_taken_from_the_upstream() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let origin = Origin::scripted(move |mut call, _| {
        let counted = Arc::clone(&counted);
        async move {
            if call.request().await.is_none() {
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * MUCH);
            call.send(head).await;
            while call.stream.write_all(&BLOCK).await.is_ok() {
                counted.fetch_add(BLOCK.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let rig = Rig::with_limits(&allow_origin(origin.address), limits());
    let mut agent = rig.connect().await;
    agent.send(head("GET", &origin, "")).await;
    rig.await_records(1).await;
    assert!(taken.load(Ordering::SeqCst) < MUCH, "{taken:?}");
    drop(agent);
    assert_eq!(
        pick(&rig.record().await, &["outcome", "reason", "blame"]),
        json!(["allow", "agent_stalled", "agent"])
    );
}

#[tokio::test]
async fn what_an_upstream_does_not_read_is_not_taken_from_the_agent() {
    let origin = Origin::scripted(|call, _| async move {
        std::future::pending::<()>().await;
        drop(call);
    })
    .await;
    let rig = Rig::with_limits(&allow_origin(origin.address), limits());
    let mut agent = rig.connect().await;
    let length = format!("Content-Length: {}\r\n", 2 * MUCH);
    agent.send(head("PUT", &origin, &length)).await;
    let mut given = 0;
    let giving = async {
        while agent.0.write_all(&BLOCK).await.is_ok() {
            given += BLOCK.len();
        }
    };
    in_time(giving).await;
    assert!(given < MUCH, "{given}");
    assert_eq!(
        pick(&rig.record().await, &["outcome", "reason", "blame"]),
        json!(["allow", "upstream_stalled", "upstream"])
    );
}

#[tokio::test]
async fn octet_by_octet_everything_arrives() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                          5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nDate: now\r\n\r\n";
    let origin = Origin::scripted(|mut call, _| async move {
        let _nodelay = call.stream.set_nodelay(true);
        if call.request().await.is_some() {
            for octet in ANSWER.bytes() {
                call.send([octet]).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut agent = rig.connect().await;
    agent.0.set_nodelay(true).unwrap();
    let fields = "Connection: close\r\nTransfer-Encoding: chunked\r\n";
    let request = head("POST", &origin, fields) + "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
    for octet in request.bytes() {
        agent.send([octet]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut answer = String::new();
    in_time(agent.0.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(status(&answer), 200);
    let (_head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (chunks, trailers) = body.split_once("0\r\n").unwrap();
    let said: String = chunks.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(said, "hello world", "{answer}");
    assert_eq!(trailers, "Date: now\r\n\r\n", "{answer}");
    let heard = origin.heard();
    let (_head, body) = heard.split_once("\r\n\r\n").unwrap();
    let (chunks, _trailers) = body.split_once("0\r\n").unwrap();
    let heard: String = chunks.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(heard, "abcd");
    assert_eq!(rig.record().await["reason"], "allowed");
}
