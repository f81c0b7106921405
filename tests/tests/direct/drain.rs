//! The end: work is finished, idle connections close, and what does not end is cut and recorded.

use std::time::Duration;

use gateway_userspace::{
    app::{BindConfig, BindError, Gateway},
    config::Limits,
};
use serde_json::json;

use super::{
    origin::Origin,
    rig::{Line, Rig, allow_origin, pick, status},
};

#[tokio::test]
async fn work_is_finished_and_idle_connections_close() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let host = format!("origin.test:{}", origin.address.port());
    let mut idle = rig.connect().await;
    idle.send(format!("GET /idle HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await;
    assert_eq!(status(&idle.response().await), 200);
    let mut busy = rig.connect().await;
    busy.send(format!(
        "PUT /busy HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ))
    .await;
    busy.send("1\r\nx\r\n").await;
    origin.hears("/busy").await;
    rig.drain.cancel();
    assert_eq!(idle.rest().await, "");
    drop(idle);
    busy.send("2\r\ngo\r\n0\r\n\r\n").await;
    let answer = busy.rest().await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("Connection: close\r\n"), "{answer}");
    drop(busy);
    let address = rig.address;
    let records = rig.records().await;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record["reason"] == "allowed"));
    assert!(
        std::net::TcpListener::bind(address).is_ok(),
        "the port is free again"
    );
}

#[tokio::test]
async fn what_does_not_end_is_cut_and_recorded() {
    let origin = Origin::echo().await;
    let limits = Limits {
        drain_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let rules = format!(
        "[[egress]]\nid = \"raw\"\ntcp = [\"{}\"]\nprivate = true\n",
        origin.address
    );
    let rig = Rig::with_limits(&rules, limits);
    rig.set_line(Line::Redirected(origin.address));
    let mut wire = rig.connect().await;
    wire.send("hello").await;
    assert_eq!(wire.until("hello").await, "hello");
    let record = rig.record().await;
    assert_eq!(
        pick(
            &record,
            &["outcome", "reason", "blame", "bytes_out", "bytes_in"]
        ),
        json!(["allow", "cut_short", "us", 5, 5])
    );
}

#[test]
fn one_port_for_all_sockets() {
    let bound = Gateway::bind(&BindConfig {
        optional: vec![std::net::Ipv6Addr::LOCALHOST.into()],
        ..BindConfig::default()
    })
    .unwrap();
    let addresses: Vec<_> = bound.addresses().collect();
    assert!(
        addresses
            .iter()
            .all(|address| address.port() == addresses[0].port())
    );
    assert_eq!(bound.stream_sockets().count(), addresses.len());
    assert_eq!(bound.datagram_sockets().count(), addresses.len());
    // TCP and UDP are both taken.
    let taken = BindConfig {
        port: addresses[0].port(),
        ..BindConfig::default()
    };
    assert!(matches!(
        Gateway::bind(&taken),
        Err(BindError::Listen { .. })
    ));
    assert!(std::net::UdpSocket::bind(addresses[0]).is_err());
    let nowhere = BindConfig {
        addresses: Vec::new(),
        ..BindConfig::default()
    };
    assert!(matches!(Gateway::bind(&nowhere), Err(BindError::NoAddress)));
}
