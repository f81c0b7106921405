//! CONNECT, and that what comes through is decided again.

use serde_json::json;

use super::{
    origin::Origin,
    rig::{Rig, Wire, allow_origin, body, pick, status},
    tools::{ACCESS_DENIED, hello, hello_message, record},
};

const ESTABLISHED: &str = "HTTP/1.1 200 Connection Established\r\n\r\n";

async fn tunnel(rig: &Rig, authority: &str) -> Wire {
    let mut wire = rig.connect().await;
    wire.send(format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.until("\r\n\r\n").await, ESTABLISHED);
    wire
}

fn authority(origin: &Origin) -> String {
    format!("origin.test:{}", origin.address.port())
}

#[tokio::test]
async fn a_refused_tunnel_says_why() {
    let origin = Origin::echo().await;
    let rig = Rig::start("");
    let place = authority(&origin);
    let answer = rig
        .say(format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"))
        .await;
    assert_eq!(status(&answer), 403);
    assert_eq!(body(&answer)["error"], "policy_denied");
    assert_eq!(origin.connections(), 0);
    assert_eq!(
        pick(
            &rig.record().await,
            &["kind", "outcome", "reason", "method", "status"]
        ),
        json!(["connect", "deny", "no_rule", "CONNECT", 403])
    );
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_bad_gateway() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let rig = Rig::start(&allow_origin(free));
    let place = format!("origin.test:{}", free.port());
    let answer = rig.say(format!("CONNECT {place} HTTP/1.0\r\n\r\n")).await;
    assert_eq!(status(&answer), 502);
    assert_eq!(rig.record().await["reason"], "connect_failed");
}

#[tokio::test]
async fn tls_for_the_same_host_is_relayed_as_it_is() {
    let origin = Origin::echo().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = tunnel(&rig, &authority(&origin)).await;
    let sent = [hello("Origin.test"), b"and more".to_vec()].concat();
    wire.send(&sent).await;
    wire.finish().await;
    assert_eq!(wire.rest_bytes().await.unwrap(), sent);
    assert_eq!(origin.heard_bytes(), sent);
    drop(wire);
    assert_eq!(
        pick(
            &rig.record().await,
            &[
                "kind",
                "outcome",
                "reason",
                "rule",
                "bytes_out",
                "bytes_in",
                "upstream",
                "phase"
            ]
        ),
        json!([
            "connect",
            "allow",
            "allowed",
            "origin",
            sent.len(),
            sent.len(),
            origin.address,
            "end"
        ])
    );
}

#[tokio::test]
async fn tls_for_another_host_or_for_none_is_refused() {
    let rules = |origin: &Origin| {
        allow_origin(origin.address) + &allow_origin(origin.address).replace("\"origin", "\"other")
    };
    for (bytes, reason) in [
        (hello("other.test"), "sni_mismatch"),
        (record(&hello_message(None)), "sni_mismatch"),
        (hello("origin.test.other.test"), "sni_mismatch"),
        (record(&[1, 0, 0, 4, 3, 3, 0, 0]), "hello_malformed"),
    ] {
        let origin = Origin::echo().await;
        let rig = Rig::start(&rules(&origin));
        let mut wire = tunnel(&rig, &authority(&origin)).await;
        wire.send(&bytes).await;
        assert_eq!(wire.rest_bytes().await.unwrap(), ACCESS_DENIED, "{reason}");
        assert_eq!(origin.heard(), "");
        drop(wire);
        assert_eq!(
            pick(&rig.record().await, &["kind", "outcome", "reason", "blame"]),
            json!(["connect", "deny", reason, "agent"])
        );
    }
}

#[tokio::test]
async fn tls_to_an_address_needs_no_name() {
    let origin = Origin::echo().await;
    let rules = allow_origin(origin.address).replace("origin.test", "127.0.0.1");
    let place = origin.address.to_string();
    for (name, passes) in [(None, true), (Some("origin.test"), false)] {
        let rig = Rig::start(&rules);
        let mut wire = tunnel(&rig, &place).await;
        let sent = record(&hello_message(name));
        wire.send(&sent).await;
        wire.finish().await;
        let expected = if passes { sent } else { ACCESS_DENIED.to_vec() };
        assert_eq!(wire.rest_bytes().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_rule_on_methods_holds_inside_a_tunnel() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&(allow_origin(origin.address) + "methods = [\"GET\"]\n"));
    let mut wire = tunnel(&rig, &authority(&origin)).await;
    let place = authority(&origin);
    wire.send(format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n"))
        .await;
    assert_eq!(status(&wire.response().await), 200);
    wire.send(format!(
        "POST / HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
    ))
    .await;
    assert_eq!(status(&wire.rest().await), 403);
    assert_eq!(
        origin.heard(),
        format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n")
    );
    drop(wire);
    let records = rig.records().await;
    let told: Vec<_> = records
        .iter()
        .map(|record| pick(record, &["kind", "outcome", "reason"]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["http", "allow", "allowed"]),
            json!(["http", "deny", "method_not_allowed"]),
            json!(["connect", "allow", "allowed"]),
        ]
    );
}

#[tokio::test]
async fn http_inside_is_for_the_place_that_connect_named() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    let both =
        allow_origin(origin.address) + &allow_origin(origin.address).replace("\"origin", "\"other");
    for request in [
        format!("GET / HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"),
        format!("GET http://other.test:{port}/ HTTP/1.1\r\nHost: other.test:{port}\r\n\r\n"),
        "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n".to_owned(),
        format!("CONNECT origin.test:{port} HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"),
    ] {
        let rig = Rig::start(&both);
        let mut wire = tunnel(&rig, &authority(&origin)).await;
        wire.send(&request).await;
        assert_eq!(status(&wire.rest().await), 400, "{request}");
        drop(wire);
        assert_eq!(rig.records().await.len(), 2);
    }
    assert_eq!(origin.heard(), "");
}

#[tokio::test]
async fn other_bytes_need_a_tcp_rule() {
    let origin = Origin::echo().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = tunnel(&rig, &authority(&origin)).await;
    wire.send("SSH-2.0-x\r\n").await;
    wire.expect_reset().await;
    assert_eq!(origin.heard(), "");
    drop(wire);
    assert_eq!(
        pick(&rig.record().await, &["kind", "outcome", "reason", "rule"]),
        json!(["connect", "deny", "no_rule", "origin"])
    );
}

#[tokio::test]
async fn with_a_tcp_rule_the_server_may_speak_first() {
    let origin = Origin::scripted(|mut call, _| async move {
        call.send("220 ready\r\n").await;
        call.until(b"QUIT\r\n").await;
        call.send("221 bye\r\n").await;
        call.finish().await;
    })
    .await;
    let place = authority(&origin);
    let rules = format!("[[egress]]\nid = \"smtp\"\ntcp = [\"{place}\"]\nprivate = true\n");
    let rig = Rig::start(&rules);
    let mut wire = tunnel(&rig, &place).await;
    assert_eq!(wire.until("\r\n").await, "220 ready\r\n");
    wire.send("QUIT\r\n").await;
    assert_eq!(wire.rest().await, "221 bye\r\n");
    drop(wire);
    assert_eq!(
        pick(
            &rig.record().await,
            &["kind", "outcome", "rule", "bytes_in"]
        ),
        json!(["connect", "allow", "smtp", 20])
    );
}

#[tokio::test]
async fn a_tunnel_that_is_not_used_is_one_record() {
    let origin = Origin::echo().await;
    let rig = Rig::start(&allow_origin(origin.address));
    drop(tunnel(&rig, &authority(&origin)).await);
    rig.await_records(1).await;
    assert_eq!(
        pick(&rig.record().await, &["outcome", "bytes_out"]),
        json!(["allow", 0])
    );
}
