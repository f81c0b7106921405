//! Each limit, at the limit and one beyond it.

use std::time::Duration;

use gateway_userspace::config::Limits;
use serde_json::json;

use super::{
    origin::Origin,
    rig::{Line, Rig, allow_origin, body, in_time, pick, status},
    tools::{ACCESS_DENIED, hello_message, record},
};

const SOON: Duration = Duration::from_millis(50);

fn get(origin: &Origin, rest: &str) -> String {
    let port = origin.address.port();
    format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n{rest}\r\n")
}

#[tokio::test]
async fn octets_of_a_head() {
    let origin = Origin::plain().await;
    let pad = |length: usize| {
        let bare = get(&origin, "X: \r\n").len();
        get(&origin, &format!("X: {}\r\n", "x".repeat(length - bare)))
    };
    for (length, expected) in [(512, 200), (513, 431)] {
        let limits = Limits {
            head_bytes: 512,
            ..Limits::default()
        };
        let rig = Rig::with_limits(&allow_origin(origin.address), limits);
        let answer = rig.say(pad(length)).await;
        assert_eq!(status(&answer), expected, "{length}");
        if expected == 431 {
            assert_eq!(rig.record().await["reason"], "head_too_large");
        }
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn octets_of_a_response_head() {
    let pad = |length: usize| {
        let bare = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: \r\n\r\n".len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: {}\r\n\r\n",
            "x".repeat(length - bare)
        )
    };
    for (length, expected) in [(512, 200), (513, 502)] {
        let origin = Origin::answering(pad(length)).await;
        let limits = Limits {
            head_bytes: 512,
            ..Limits::default()
        };
        let rig = Rig::with_limits(&allow_origin(origin.address), limits);
        assert_eq!(status(&rig.say(get(&origin, "")).await), expected);
    }
}

#[tokio::test]
async fn fields_of_a_head() {
    let origin = Origin::plain().await;
    for (more, expected) in [(2, 200), (3, 431)] {
        let limits = Limits {
            head_fields: 4,
            ..Limits::default()
        };
        let rig = Rig::with_limits(&allow_origin(origin.address), limits);
        let answer = rig.say(get(&origin, &"X: y\r\n".repeat(more))).await;
        assert_eq!(status(&answer), expected);
    }
}

#[tokio::test]
async fn octets_of_a_hello() {
    let origin = Origin::echo().await;
    let sent: Vec<u8> = hello_message(Some("origin.test"))
        .chunks(1)
        .flat_map(record)
        .collect();
    for (limit, passes) in [(sent.len(), true), (sent.len() - 1, false)] {
        let limits = Limits {
            head_bytes: limit,
            ..Limits::default()
        };
        let rig = Rig::with_limits(&allow_origin(origin.address), limits);
        rig.set_line(Line::Redirected(origin.address));
        let mut wire = rig.connect().await;
        wire.send(&sent).await;
        wire.finish().await;
        let answer = wire.rest_bytes().await.unwrap();
        assert_eq!(
            answer,
            if passes {
                sent.clone()
            } else {
                ACCESS_DENIED.to_vec()
            }
        );
        if !passes {
            drop(wire);
            assert_eq!(rig.record().await["reason"], "hello_too_large");
        }
    }
}

#[tokio::test]
async fn time_for_a_head() {
    let limits = || Limits {
        head_timeout: SOON,
        ..Limits::default()
    };
    let rig = Rig::with_limits("", limits());
    let mut wire = rig.connect().await;
    wire.send("GET / HTTP/1.1\r\nHost: ").await;
    let answer = wire.rest().await;
    assert_eq!(status(&answer), 408);
    drop(wire);
    assert_eq!(
        pick(&rig.record().await, &["reason", "blame"]),
        json!(["head_timeout", "agent"])
    );
    // Who says nothing asks for nothing.
    let rig = Rig::with_limits("", limits());
    assert_eq!(rig.connect().await.rest().await, "");
    assert!(rig.records().await.is_empty());
    // Half a hello.
    let rig = Rig::with_limits("", limits());
    let mut wire = rig.connect().await;
    wire.send(&[0x16, 3, 1, 0, 99, 1]).await;
    assert_eq!(wire.rest_bytes().await.unwrap(), ACCESS_DENIED);
    drop(wire);
    assert_eq!(rig.record().await["reason"], "hello_timeout");
}

#[tokio::test]
async fn idle_time() {
    let limits = || Limits {
        idle_timeout: SOON,
        ..Limits::default()
    };
    // A tunnel without a word either way.
    let origin = Origin::echo().await;
    let rules = format!(
        "[[egress]]\nid = \"raw\"\ntcp = [\"{}\"]\nprivate = true\n",
        origin.address
    );
    let rig = Rig::with_limits(&rules, limits());
    rig.set_line(Line::Redirected(origin.address));
    rig.connect().await.expect_reset().await;
    assert_eq!(
        pick(&rig.record().await, &["outcome", "reason"]),
        json!(["allow", "idle"])
    );
    // An upstream that does not answer.
    let mute =
        Origin::scripted(|mut call, _| async move { while call.some().await.is_some() {} }).await;
    let rig = Rig::with_limits(&allow_origin(mute.address), limits());
    let answer = rig.say(get(&mute, "")).await;
    assert_eq!(status(&answer), 504);
    assert_eq!(
        pick(&rig.record().await, &["reason", "blame"]),
        json!(["upstream_stalled", "upstream"])
    );
    // An agent that does not go on.
    let rig = Rig::with_limits(&allow_origin(mute.address), limits());
    let answer = rig.say(get(&mute, "Content-Length: 5\r\n")).await;
    assert_eq!(status(&answer), 408);
    assert_eq!(
        pick(&rig.record().await, &["reason", "blame"]),
        json!(["agent_stalled", "agent"])
    );
    // A kept connection without another request.
    let origin = Origin::plain().await;
    let rig = Rig::with_limits(&allow_origin(origin.address), limits());
    let answer = rig
        .say(get(&origin, "").replace("close", "keep-alive"))
        .await;
    assert_eq!(status(&answer), 200);
}

#[tokio::test]
async fn age_of_a_connection() {
    let limits = Limits {
        total_timeout: SOON,
        ..Limits::default()
    };
    let origin = Origin::echo().await;
    let rules = format!(
        "[[egress]]\nid = \"raw\"\ntcp = [\"{}\"]\nprivate = true\n",
        origin.address
    );
    let rig = Rig::with_limits(&rules, limits);
    rig.set_line(Line::Redirected(origin.address));
    rig.connect().await.expect_reset().await;
    assert_eq!(rig.record().await["reason"], "age_limit");
}

#[tokio::test]
async fn connections_of_an_agent() {
    let origin = Origin::plain().await;
    let limits = Limits {
        connections_per_agent: 2,
        ..Limits::default()
    };
    let rig = Rig::with_limits(&allow_origin(origin.address), limits);
    let ask = get(&origin, "").replace("close", "keep-alive");
    let (mut first, mut second) = (rig.connect().await, rig.connect().await);
    for wire in [&mut first, &mut second] {
        wire.send(&ask).await;
        assert_eq!(status(&wire.response().await), 200);
    }
    rig.connect().await.expect_reset().await;
    assert_eq!(rig.counters.connection_limit_total(), 1);
    first.finish().await;
    assert_eq!(first.rest().await, "");
    drop(first);
    // Its place is free once the gateway has seen the end.
    let again = async {
        loop {
            let mut third = rig.connect().await;
            third.try_send(&ask).await;
            if third.rest_starts_with_ok().await {
                break;
            }
        }
    };
    in_time(again).await;
    drop(second);
    let records = rig.records().await;
    let refused = records
        .iter()
        .filter(|record| record["reason"] == "connection_limit");
    assert!(refused.count() >= 1);
}

#[tokio::test]
async fn requests_on_a_connection() {
    let origin = Origin::plain().await;
    let limits = Limits {
        requests_per_connection: 2,
        ..Limits::default()
    };
    let rig = Rig::with_limits(&allow_origin(origin.address), limits);
    let ask = get(&origin, "").replace("close", "keep-alive");
    let answer = rig.say(ask.repeat(3)).await;
    assert_eq!(answer.matches("200 OK").count(), 2);
    assert_eq!(answer.matches("Connection: close").count(), 1);
    assert_eq!(rig.records().await.len(), 2);
}

#[tokio::test]
async fn age_at_which_a_tunnel_is_recorded_as_open() {
    let origin = Origin::echo().await;
    let limits = Limits {
        open_record_after: Duration::ZERO,
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
    rig.await_records(1).await;
    wire.finish().await;
    assert_eq!(wire.rest().await, "hello");
    drop(wire);
    let records = rig.records().await;
    assert_eq!(records.len(), 2);
    assert_eq!(
        pick(&records[0], &["phase", "outcome", "reason", "blame"]),
        json!(["open", "allow", "allowed", null])
    );
    assert_eq!(
        pick(&records[1], &["phase", "bytes_in", "event"]),
        json!(["end", 5, records[0]["event"]])
    );
}

#[tokio::test]
async fn refusals_over_a_body_do_not_wait_for_it() {
    let rig = Rig::start("");
    let mut wire = rig.connect().await;
    wire.send("PUT http://nowhere.test/ HTTP/1.1\r\nHost: nowhere.test\r\nContent-Length: 1000000\r\n\r\nx").await;
    let answer = wire.rest().await;
    assert_eq!(status(&answer), 403);
    assert_eq!(body(&answer)["reason"], "no_rule");
    assert!(answer.contains("Connection: close\r\n"));
}
