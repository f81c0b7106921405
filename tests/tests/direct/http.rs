//! Plain HTTP through the gateway's own port: decided per request, rewritten, relayed.

use serde_json::json;

use super::{
    origin::Origin,
    rig::{Rig, allow_origin, body, pick, policy, status},
};

#[tokio::test]
async fn a_request_is_rewritten_from_what_was_decided() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    let rig = Rig::start(&allow_origin(origin.address));
    let answer = rig
        .say(format!(
            "GET http://Origin.TEST:{port}/a/b?c=d HTTP/1.1\r\nHost: origin.test:{port}\r\n\
             Connection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: Basic Zm9v\r\n\
             Accept: */*\r\n\r\n"
        ))
        .await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    );
    assert_eq!(
        origin.heard(),
        format!("GET /a/b?c=d HTTP/1.1\r\nHost: origin.test:{port}\r\nAccept: */*\r\n\r\n")
    );
    let record = rig.record().await;
    assert_eq!(
        pick(
            &record,
            &[
                "kind", "outcome", "rule", "reason", "method", "path", "host", "port"
            ]
        ),
        json!([
            "http",
            "allow",
            "origin",
            "allowed",
            "GET",
            "/a/b",
            "origin.test",
            port
        ])
    );
    assert_eq!(
        pick(
            &record,
            &["upstream", "status", "blame", "bytes_out", "assurance"]
        ),
        json!([
            origin.address,
            200,
            null,
            origin.heard().len(),
            "cooperative"
        ])
    );
}

#[tokio::test]
async fn a_private_address_needs_a_rule_that_says_so() {
    let origin = Origin::plain().await;
    let rules = allow_origin(origin.address).replace("private = true", "private = false");
    let rig = Rig::start(&rules);
    let url = format!("http://origin.test:{}/", origin.address.port());
    let answer = rig
        .say(format!(
            "GET {url} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            &url[7..url.len() - 1]
        ))
        .await;
    assert_eq!(status(&answer), 403);
    assert_eq!(origin.connections(), 0);
    let record = rig.record().await;
    assert_eq!(
        pick(
            &record,
            &["outcome", "rule", "reason", "upstream", "blame", "status"]
        ),
        json!(["deny", "origin", "private_address", null, "policy", 403])
    );
}

#[tokio::test]
async fn a_refusal_tells_what_to_do_and_leaves_the_connection() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    let rules = allow_origin(origin.address) + "methods = [\"GET\"]\npaths = [\"/ok/**\"]\n";
    let rig = Rig::start(&rules);
    let mut wire = rig.connect().await;
    let ask = |method: &str, host: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")
    };
    let mut reasons = Vec::new();
    for (method, host, path) in [
        ("GET", "nowhere.test", "/ok/x"),
        ("DELETE", "origin.test", "/ok/x"),
        ("GET", "origin.test", "/secret"),
        ("GET", "origin.test", "/ok//../secret"),
    ] {
        wire.send(ask(method, host, path)).await;
        let answer = wire.response().await;
        if status(&answer) == 403 {
            assert!(
                answer.contains("Content-Type: application/json\r\n"),
                "{answer}"
            );
            let body = body(&answer);
            assert_eq!(body["error"], "policy_denied");
            assert!(body["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
            reasons.push((
                body["reason"].clone(),
                body["rule"].clone(),
                body["event"].clone(),
            ));
        } else {
            assert_eq!(status(&answer), 400);
            assert_eq!(body(&answer)["reason"], "path_dot_segment");
            // The head could not be trusted, so nothing behind it is.
            wire = rig.connect().await;
        }
    }
    wire.send(ask("GET", "origin.test", "/ok/x")).await;
    assert_eq!(status(&wire.response().await), 200);
    assert_eq!(
        origin.heard(),
        format!("GET /ok/x HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n")
    );
    drop(wire);
    let records = rig.records().await;
    assert_eq!(records.len(), 5);
    for ((reason, rule, event), record) in reasons.iter().zip(&records) {
        assert_eq!(
            pick(record, &["reason", "rule", "event"]),
            json!([reason, rule, event])
        );
    }
    assert_eq!(reasons[0].0, "no_rule");
    assert_eq!(reasons[1].0, "method_not_allowed");
    assert_eq!(reasons[2].0, "path_not_allowed");
}

#[tokio::test]
async fn head_gets_the_head_of_a_refusal_only() {
    let rig = Rig::start("");
    let answer = rig
        .say(
            "HEAD http://nowhere.test/ HTTP/1.1\r\nHost: nowhere.test\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(status(&answer), 403);
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_served_in_turn_over_one_upstream() {
    let origin = Origin::scripted(|mut call, _| async move {
        let mut count = 0;
        while let Some(request) = call.request().await {
            count += 1;
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = format!("{path}{count}");
            call.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            ))
            .await;
        }
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let host = format!("origin.test:{}", origin.address.port());
    let answer = rig
        .say(format!(
            "POST /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc\
             GET /b HTTP/1.1\r\nHost: {host}\r\n\r\n\
             GET http://nowhere.test/ HTTP/1.1\r\nHost: nowhere.test\r\n\r\n\
             GET /c HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
        .await;
    let places: Vec<_> = ["/a1", "/b2", "policy_denied", "/c3"]
        .iter()
        .map(|mark| answer.find(mark))
        .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{answer}"
    );
    assert_eq!(origin.connections(), 1);
    assert_eq!(rig.records().await.len(), 4);
}

#[tokio::test]
async fn each_request_is_decided_by_the_policy_of_its_time() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let ask = format!(
        "GET / HTTP/1.1\r\nHost: origin.test:{}\r\n\r\n",
        origin.address.port()
    );
    let mut wire = rig.connect().await;
    wire.send(&ask).await;
    assert_eq!(status(&wire.response().await), 200);
    rig.policy.store(policy("").into());
    wire.send(&ask).await;
    assert_eq!(status(&wire.response().await), 403);
    drop(wire);
    let records = rig.records().await;
    assert_ne!(records[0]["policy"], records[1]["policy"]);
}

#[tokio::test]
async fn observe_lets_pass_and_says_what_it_would_refuse() {
    let origin = Origin::plain().await;
    let rig = Rig::start("mode = \"observe\"");
    let answer = rig
        .say(format!(
            "GET / HTTP/1.1\r\nHost: origin.test:{}\r\nConnection: close\r\n\r\n",
            origin.address.port()
        ))
        .await;
    assert_eq!(status(&answer), 200);
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["outcome", "reason", "status"]),
        json!(["observe", "no_rule", 200])
    );
}

#[tokio::test]
async fn a_kept_upstream_that_closed_is_dialled_again() {
    let origin = Origin::scripted(|mut call, _| async move {
        if call.request().await.is_some() {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
            // Closes at the second request, without a word.
            call.request().await;
        }
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let ask = format!(
        "GET / HTTP/1.1\r\nHost: origin.test:{}\r\n\r\n",
        origin.address.port()
    );
    let mut wire = rig.connect().await;
    for _ in 0..2 {
        wire.send(&ask).await;
        assert_eq!(status(&wire.response().await), 200);
    }
    assert_eq!(origin.connections(), 2);
    drop(wire);
    assert_eq!(rig.records().await.len(), 2);
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let origin = Origin::scripted(|mut call, _| async move {
        if call.request().await.is_some() {
            call.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
            call.request().await;
        }
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let ask = format!(
        "POST / HTTP/1.1\r\nHost: origin.test:{}\r\nContent-Length: 1\r\n\r\nx",
        origin.address.port()
    );
    let mut wire = rig.connect().await;
    wire.send(&ask).await;
    assert_eq!(status(&wire.response().await), 200);
    wire.send(&ask).await;
    let answer = wire.rest().await;
    assert_eq!(status(&answer), 502);
    assert_eq!(body(&answer)["reason"], "upstream_closed");
    assert_eq!(origin.heard().matches("POST").count(), 2);
    drop(wire);
    assert_eq!(rig.records().await[1]["blame"], "upstream");
}

#[tokio::test]
async fn without_room_for_a_record_nothing_passes() {
    let origin = Origin::plain().await;
    let small =
        |config: gateway_userspace::audit::AuditConfig| gateway_userspace::audit::AuditConfig {
            capacity: 1,
            patience: std::time::Duration::from_millis(1),
            ..config
        };
    let rig = Rig::with_audit(&allow_origin(origin.address), Default::default(), small);
    let ask = format!(
        "GET / HTTP/1.1\r\nHost: origin.test:{}\r\nConnection: close\r\n\r\n",
        origin.address.port()
    );
    let slot = rig.audit.reserve().await.unwrap();
    let answer = rig.say(&ask).await;
    assert_eq!(status(&answer), 503);
    assert_eq!(body(&answer)["reason"], "audit_unavailable");
    assert_eq!(origin.connections(), 0);
    assert_eq!(rig.counters.audit_unavailable_total(), 1);
    drop(slot);
    assert_eq!(status(&rig.say(&ask).await), 200);
}

#[tokio::test]
async fn the_gateway_does_not_dial_itself() {
    let rig = Rig::start("");
    let port = rig.address.port();
    let rules = format!(
        "[[egress]]\nid = \"self\"\nhosts = [\"origin.test\", \"127.0.0.1\"]\nports = [{port}]\nprivate = true"
    );
    rig.policy.store(policy(&rules).into());
    for host in ["origin.test", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let answer = rig
            .say(format!(
                "GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(body(&answer)["reason"], "gateway_loop", "{host}");
    }
    assert_eq!(rig.records().await.len(), 3);
}
