//! Redirected connections that are not TLS: HTTP by its Host, and raw TCP by its destination.

use std::net::SocketAddr;

use serde_json::json;

use super::{
    origin::Origin,
    rig::{Line, Rig, allow_origin, body, pick, status},
    tools::hello,
};

fn redirected(rules: &str, to: SocketAddr) -> Rig {
    let rig = Rig::start(rules);
    rig.set_line(Line::Redirected(to));
    rig
}

fn tcp(target: impl std::fmt::Display) -> String {
    format!("[[egress]]\nid = \"raw\"\ntcp = [\"{target}\"]\nprivate = true\n")
}

#[tokio::test]
async fn http_is_decided_on_its_host_and_the_original_port() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    // The address the agent had does not count: the gateway resolves the name itself.
    let elsewhere = SocketAddr::new([192, 0, 2, 1].into(), port);
    for host in [format!("origin.test:{port}"), "origin.test".to_owned()] {
        let rig = redirected(&allow_origin(origin.address), elsewhere);
        let answer = rig
            .say(format!(
                "GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&answer), 200);
        assert_eq!(
            pick(
                &rig.record().await,
                &["kind", "host", "port", "original_destination", "upstream"]
            ),
            json!(["http", "origin.test", port, elsewhere, origin.address])
        );
    }
    let expected = format!("GET /x HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n");
    assert_eq!(origin.heard(), expected.repeat(2));
}

#[tokio::test]
async fn requests_for_a_proxy_are_not_taken_by_another() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    for (request, reason) in [
        (
            format!("CONNECT origin.test:{port} HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n"),
            "target_form",
        ),
        (
            "GET http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n\r\n".to_owned(),
            "host_mismatch",
        ),
        (
            "GET / HTTP/1.1\r\nHost: origin.test:1\r\n\r\n".to_owned(),
            "host_mismatch",
        ),
    ] {
        let rig = redirected(&allow_origin(origin.address), origin.address);
        let answer = rig.say(&request).await;
        assert_eq!(status(&answer), 400);
        assert_eq!(body(&answer)["reason"], reason, "{request}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn an_old_client_without_host_means_the_address() {
    let origin = Origin::plain().await;
    let rules = allow_origin(origin.address).replace("origin.test", "127.0.0.1");
    let rig = redirected(&rules, origin.address);
    let answer = rig.say("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(
        origin.heard(),
        format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address)
    );
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let banner = Origin::scripted(|mut call, _| async move {
        call.send("220 ready\r\n").await;
        while call.some().await.is_some() {}
        call.send("221 bye\r\n").await;
        call.finish().await;
    })
    .await;
    let port = banner.address.port();
    for target in [format!("origin.test:{port}"), banner.address.to_string()] {
        // Beside a rule that would have the first bytes looked at.
        let rig = redirected(
            &(tcp(&target) + &allow_origin(banner.address)),
            banner.address,
        );
        let mut wire = rig.connect().await;
        assert_eq!(wire.until("\r\n").await, "220 ready\r\n");
        // The agent's end closes first, and the rest still arrives.
        wire.send("QUIT\r\n").await;
        wire.finish().await;
        assert_eq!(wire.rest().await, "221 bye\r\n");
        assert_eq!(
            pick(
                &rig.record().await,
                &["kind", "outcome", "rule", "host", "bytes_out", "bytes_in"]
            ),
            json!(["tcp", "allow", "raw", "127.0.0.1", 6, 20])
        );
    }
}

#[tokio::test]
async fn the_upstreams_end_passes_too() {
    let origin = Origin::scripted(|mut call, _| async move {
        call.send("all I have").await;
        call.finish().await;
        while call.some().await.is_some() {}
    })
    .await;
    let rig = redirected(&tcp(origin.address), origin.address);
    let mut wire = rig.connect().await;
    assert_eq!(wire.rest().await, "all I have");
    wire.send("still talking").await;
    origin.hears("still talking").await;
    drop(wire);
    assert_eq!(rig.record().await["reason"], "allowed");
}

#[tokio::test]
async fn tls_on_the_port_of_a_tcp_rule_is_raw() {
    let origin = Origin::echo().await;
    let rig = redirected(&tcp(origin.address), origin.address);
    let sent = hello("whatever.test");
    let mut wire = rig.connect().await;
    wire.send(&sent).await;
    wire.finish().await;
    assert_eq!(wire.rest_bytes().await.unwrap(), sent);
    assert_eq!(rig.record().await["kind"], "tcp");
}

#[tokio::test]
async fn without_a_rule_for_the_port_nothing_is_waited_for() {
    let origin = Origin::echo().await;
    let rig = redirected("", origin.address);
    rig.connect().await.expect_reset().await;
    assert_eq!(origin.connections(), 0);
    assert_eq!(
        pick(
            &rig.record().await,
            &["kind", "outcome", "reason", "port", "blame"]
        ),
        json!(["tcp", "deny", "no_rule", origin.address.port(), "policy"])
    );
}

#[tokio::test]
async fn a_rule_for_http_lets_nothing_else_through() {
    let origin = Origin::echo().await;
    let rules = allow_origin(origin.address).replace("origin.test", "127.0.0.1");
    let rig = redirected(&rules, origin.address);
    let mut wire = rig.connect().await;
    wire.send("SSH-2.0-x\r\n").await;
    wire.expect_reset().await;
    assert_eq!(origin.connections(), 0);
    assert_eq!(
        pick(&rig.record().await, &["kind", "outcome", "reason"]),
        json!(["tcp", "deny", "no_rule"])
    );
}

#[tokio::test]
async fn a_private_destination_needs_a_rule_that_says_so() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let rules = tcp(format!("*.db.test:{port}")).replace("private = true", "");
    let rig = redirected(&rules, origin.address);
    rig.connect().await.expect_reset().await;
    assert_eq!(origin.connections(), 0);
    assert_eq!(rig.record().await["outcome"], "deny");
}

#[tokio::test]
async fn observe_relays_what_it_would_reset() {
    let origin = Origin::echo().await;
    let rig = redirected("mode = \"observe\"", origin.address);
    let mut wire = rig.connect().await;
    wire.send("SSH-2.0-x\r\n").await;
    wire.finish().await;
    assert_eq!(wire.rest().await, "SSH-2.0-x\r\n");
    assert_eq!(
        pick(&rig.record().await, &["kind", "outcome", "reason"]),
        json!(["tcp", "observe", "no_rule"])
    );
}

#[tokio::test]
async fn a_connection_of_nobody_is_reset_and_recorded() {
    let rig = Rig::start("");
    rig.set_line(Line::Unknown);
    rig.connect().await.expect_reset().await;
    rig.connect().await.expect_reset().await;
    assert_eq!(rig.counters.unattributed_total(), 2);
    let records = rig.records().await;
    let stands_for: u64 = records
        .iter()
        .map(|record| 1 + record["repeated"].as_u64().unwrap())
        .sum();
    assert_eq!(stands_for, 2, "{records:#?}");
    assert_eq!(
        pick(&records[0], &["agent", "outcome", "reason"]),
        json!(["unattributed", "deny", "unattributed"])
    );
}
