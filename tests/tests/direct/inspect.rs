//! TLS that is opened since a rule has to see inside: HTTP/1.1.

use gateway_userspace::policy::Policy;
use rustls::RootCertStore;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    origin::Origin,
    rig::{Line, Rig, Wire, body, in_time, pick, status},
    secure::{SecureOrigin, agent, agent_trusting, client, connect},
};

const PATHS: &str = "paths = [\"/open/**\"]\n";

fn redirected(rules: &str, origin: &SecureOrigin) -> Rig {
    let rig = Rig::start(rules);
    rig.set_line(Line::Redirected(origin.address));
    rig
}

/// Says this in TLS to this host, and answers with all that comes back.
async fn ask(rig: &Rig, host: &str, text: &str) -> String {
    let mut stream = connect(rig, &agent(&["http/1.1"]), host).await.unwrap();
    in_time(stream.write_all(text.as_bytes())).await.unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn each_request_inside_is_decided() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let place = format!("origin.test:{}", origin.address.port());
    let mut stream = connect(&rig, &agent(&["http/1.1"]), "origin.test")
        .await
        .unwrap();
    let requests = [
        format!("POST /open/a?q HTTP/1.1\r\nHost: {place}\r\nContent-Length: 5\r\n\r\nhello"),
        format!("GET /shut HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        get(&place, "/open/b"),
    ];
    in_time(stream.write_all(requests.concat().as_bytes()))
        .await
        .unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    let heads: Vec<_> = answer.match_indices("HTTP/1.1 ").collect();
    assert_eq!(heads.len(), 3, "{answer}");
    assert!(answer.contains("hello"), "{answer}");
    assert!(
        answer.contains("\"reason\":\"path_not_allowed\""),
        "{answer}"
    );
    let lines: Vec<_> = origin.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, ["POST /open/a?q", "GET /open/b"]);
    assert_eq!(origin.connections(), 1);
    drop(stream);
    let told: Vec<_> = rig
        .records()
        .await
        .iter()
        .map(|it| pick(it, &["kind", "outcome", "reason", "path", "inspected"]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["http", "allow", "allowed", "/open/a", true]),
            json!(["http", "deny", "path_not_allowed", "/shut", true]),
            json!(["http", "allow", "allowed", "/open/b", true]),
            json!(["tls", "allow", "allowed", null, true]),
        ]
    );
}

#[tokio::test]
async fn without_need_it_stays_closed() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = redirected(&origin.rule(""), &origin);
    // The certificate is the gateway's if it is opened, and nobody's whom the agent knows if not.
    let refused = connect(&rig, &agent(&[]), "origin.test").await.unwrap_err();
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    let record = rig.record().await;
    assert_eq!(record["inspected"], false, "{record}");
}

#[tokio::test]
async fn inside_a_tunnel_as_well() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = Rig::start(&origin.rule(PATHS));
    let place = format!("origin.test:{}", origin.address.port());
    let mut wire = rig.connect().await;
    wire.send(format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"))
        .await;
    assert_eq!(status(&wire.until("\r\n\r\n").await), 200);
    let name = "origin.test".try_into().unwrap();
    let connector = agent(&[]);
    let mut stream = in_time(connector.connect(name, wire.0)).await.unwrap();
    in_time(stream.write_all(get(&place, "/shut").as_bytes()))
        .await
        .unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(status(&answer), 403);
    assert_eq!(body(&answer)["reason"], "path_not_allowed");
    drop(stream);
    assert_eq!(origin.seen(), []);
    let records = rig.records().await;
    assert_eq!(
        pick(&records[1], &["kind", "outcome", "inspected"]),
        json!(["connect", "allow", true])
    );
}

#[tokio::test]
async fn names_must_agree() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    for host in ["other.test", "origin.test:1", "127.0.0.1"] {
        let rig = redirected(&origin.rule(PATHS), &origin);
        let answer = ask(&rig, "origin.test", &get(host, "/open/a")).await;
        assert_eq!(status(&answer), 400, "{answer}");
        assert_eq!(body(&answer)["reason"], "host_mismatch", "{answer}");
    }
    assert_eq!(origin.seen(), []);
}

#[tokio::test]
async fn an_upstream_that_is_not_trusted_gets_nothing() {
    let origin = SecureOrigin::start("somebody.else", &["http/1.1"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let answer = ask(&rig, "origin.test", &get("origin.test", "/open/a")).await;
    assert_eq!(status(&answer), 502, "{answer}");
    let told = body(&answer);
    assert_eq!(told["reason"], "upstream_certificate", "{told}");
    assert!(
        told["hint"].as_str().unwrap().contains("origin.test"),
        "{told}"
    );
    assert_eq!(origin.seen(), []);
    let records = rig.records().await;
    assert_eq!(
        pick(&records[0], &["kind", "reason", "blame"]),
        json!(["http", "upstream_certificate", "upstream"])
    );
}

#[tokio::test]
async fn an_upstream_without_tls_gets_nothing_of_the_request() {
    let origin = Origin::echo().await;
    let rules = super::rig::allow_origin(origin.address) + PATHS;
    let rig = Rig::start(&rules);
    rig.set_line(Line::Redirected(origin.address));
    let answer = ask(&rig, "origin.test", &get("origin.test", "/open/secret")).await;
    assert_eq!(status(&answer), 502, "{answer}");
    assert_eq!(body(&answer)["reason"], "upstream_tls");
    assert!(!origin.heard().contains("secret"));
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_policy_says() {
    let origin = SecureOrigin::for_clients("origin.test").await;
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = client();
    std::fs::write(folder.path().join("client.pem"), certificate).unwrap();
    std::fs::write(folder.path().join("client.key"), key).unwrap();
    for (host, expected) in [("origin.test", 200), ("other.test", 502)] {
        let text = format!(
            "schema = 1\nagent = \"tester\"\nassurance = \"cooperative\"\n{}\
             [upstream]\nresolve = {{ \"origin.test\" = \"127.0.0.1\" }}\n\
             [[upstream.client]]\nhosts = [\"{host}\"]\ncertificate = \"client.pem\"\n\
             key = \"client.key\"\n",
            origin.rule(PATHS)
        );
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        let rig = Rig::under(Policy::load(&path).unwrap());
        rig.set_line(Line::Redirected(origin.address));
        let place = format!("origin.test:{}", origin.address.port());
        let answer = ask(&rig, "origin.test", &get(&place, "/open/a")).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn who_pins_certificates_is_shown_as_such() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let pinning = agent_trusting(RootCertStore::empty(), &[]);
    connect(&rig, &pinning, "origin.test").await.unwrap_err();
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["kind", "reason", "blame", "host"]),
        json!(["tls", "agent_distrusts", "agent", "origin.test"])
    );
    assert!(record["hint"].as_str().unwrap().contains("SSL_CERT_FILE"));
    assert_eq!(origin.seen(), []);
}

#[tokio::test]
async fn a_large_body_passes_both_ways() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let stream = connect(&rig, &agent(&[]), "origin.test").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_be_bytes()[2]).collect();
    let head = format!(
        "POST /open/a HTTP/1.1\r\nHost: origin.test:{}\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n",
        origin.address.port(),
        sent.len()
    );
    let (_, answer) = in_time(async {
        tokio::join!(
            async {
                write.write_all(head.as_bytes()).await.unwrap();
                write.write_all(&sent).await.unwrap();
                write.flush().await.unwrap();
            },
            async {
                let mut answer = Vec::new();
                read.read_to_end(&mut answer).await.unwrap();
                answer
            }
        )
    })
    .await;
    assert!(answer.ends_with(&sent), "{} octets came back", answer.len());
    assert_eq!(origin.seen()[0].body, sent);
}

#[tokio::test]
async fn a_response_under_way_ends_when_policy_allows_it_no_more() {
    let origin = Origin::scripted(move |mut call, _| async move {
        call.until(b"\r\n\r\n").await;
        call.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            .await;
        std::future::pending::<()>().await;
    })
    .await;
    let rig = Rig::start(&super::rig::allow_origin(origin.address));
    let mut wire: Wire = rig.connect().await;
    let place = format!("origin.test:{}", origin.address.port());
    wire.send(format!(
        "GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n"
    ))
    .await;
    wire.until("data: 1\n\n").await;
    rig.policy
        .store(std::sync::Arc::new(super::rig::policy("")));
    wire.expect_reset().await;
    assert_eq!(rig.record().await["reason"], "policy_changed");
}

#[tokio::test]
async fn a_stream_of_events_passes_event_by_event() {
    // The upstream says the next event only after it was told that the last one has come.
    let (tell, told) = tokio::sync::mpsc::channel::<()>(1);
    let told = std::sync::Arc::new(tokio::sync::Mutex::new(told));
    let origin = Origin::scripted(move |mut call, _| {
        let told = std::sync::Arc::clone(&told);
        async move {
            call.until(b"\r\n\r\n").await;
            call.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                .await;
            for event in 0..3 {
                call.send(&format!("data: {event}\n\n")).await;
                told.lock().await.recv().await;
            }
        }
    })
    .await;
    let rig = Rig::start(&super::rig::allow_origin(origin.address));
    let mut wire: Wire = rig.connect().await;
    wire.send(format!(
        "GET http://origin.test:{}/ HTTP/1.1\r\nHost: origin.test:{}\r\n\r\n",
        origin.address.port(),
        origin.address.port()
    ))
    .await;
    wire.until("\r\n\r\n").await;
    for event in 0..3 {
        assert_eq!(wire.until("\n\n").await, format!("data: {event}\n\n"));
        tell.send(()).await.unwrap();
    }
}

/// What an agent gets for this body, with these fields, under a rule that looks into it.
async fn post(origin: &SecureOrigin, when: &str, fields: &str, sent: &[u8]) -> String {
    let rig = redirected(&origin.rule(&format!("when = '{when}'\n")), origin);
    let place = format!("origin.test:{}", origin.address.port());
    let head = format!("POST /a HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{fields}\r\n");
    let connector = agent(&["http/1.1"]);
    let mut stream = connect(&rig, &connector, "origin.test").await.unwrap();
    in_time(stream.write_all(&[head.as_bytes(), sent].concat()))
        .await
        .unwrap();
    let mut answer = Vec::new();
    in_time(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_condition_on_the_body_is_decided_before_a_byte_of_it_goes_out() {
    const SMALL: &str = "http.json.amount <= 100";
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let chunked = "Transfer-Encoding: chunked\r\n";
    let passes = [
        ("Content-Length: 13\r\n", &b"{\"amount\":99}"[..]),
        (chunked, b"4\r\n{\"am\r\n9\r\nount\":99}\r\n0\r\n\r\n"),
        (
            "Content-Length: 14\r\nContent-Type: text/plain\r\n",
            b"{\"amount\": 99}",
        ),
    ];
    for (fields, sent) in passes {
        let answer = post(&origin, SMALL, fields, sent).await;
        assert_eq!(status(&answer), 200, "{fields} {answer}");
    }
    assert_eq!(origin.seen().len(), passes.len());
    for seen in origin.seen() {
        let json: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert_eq!(json, json!({"amount": 99}));
    }
    for (fields, sent) in [
        ("Content-Length: 14\r\n", &b"{\"amount\":101}"[..]),
        (chunked, b"5\r\n{\"amo\r\n9\r\nunt\":101}\r\n0\r\n\r\n"),
        // Readers differ on which of the two counts.
        ("Content-Length: 26\r\n", b"{\"amount\":1,\"amount\":1000}"),
        ("Content-Length: 8\r\n", b"not json"),
        ("Content-Length: 0\r\n", b""),
        // Claims to be compressed, and is not.
        (
            "Content-Length: 13\r\nContent-Encoding: gzip\r\n",
            b"{\"amount\":99}",
        ),
        (
            "Content-Length: 13\r\nContent-Encoding: rot13\r\n",
            b"{\"amount\":99}",
        ),
    ] {
        let answer = post(&origin, SMALL, fields, sent).await;
        assert_eq!(status(&answer), 403, "{fields} {answer}");
    }
    assert_eq!(origin.seen().len(), passes.len());
}

/// What a condition sees, the upstream gets: neither a field that ends at the gateway, nor JSON
/// that it reads in another way.
#[tokio::test]
async fn a_condition_sees_what_the_upstream_gets() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let dry = "http.headers[\"x-dry-run\"] == \"true\"";
    let none = "Content-Length: 0\r\nX-Dry-Run: true\r\n";
    assert_eq!(status(&post(&origin, dry, none, b"").await), 200);
    for more in ["Connection: x-dry-run\r\n", "Connection: X-DRY-RUN, te\r\n"] {
        let answer = post(&origin, dry, &(none.to_owned() + more), b"").await;
        assert_eq!(status(&answer), 403, "{more}");
    }
    assert_eq!(origin.seen().len(), 1);

    // Without its coding, the upstream reads it as it is.
    let fields = "Content-Length: 13\r\nContent-Encoding: gzip\r\nConnection: content-encoding\r\n";
    let plain = post(
        &origin,
        "http.json.amount == 99",
        fields,
        b"{\"amount\":99}",
    )
    .await;
    assert_eq!(status(&plain), 200, "{plain}");
    let last = origin.seen().pop().unwrap();
    let coded = last
        .fields
        .iter()
        .any(|(name, _)| name == "content-encoding");
    assert!(!coded, "{:?}", last.fields);

    // A rule that refuses, beside one that allows all.
    let refuses = format!(
        "[[egress]]\nid = \"large\"\nhosts = [\"origin.test\"]\nports = [{}]\naction = \"deny\"\n\
         when = 'has(http.json) && http.json.amount > 100'\n",
        origin.address.port()
    );
    let rig = redirected(&(origin.rule("") + &refuses), &origin);
    let before = origin.seen().len();
    for (body, expected) in [
        ("{\"amount\":99}", 200),
        ("amount=99", 200),
        ("{\"amount\":101}", 403),
        ("{\"amount\":1,\"amount\":101}", 403),
        ("\u{feff}{\"amount\":101}", 403),
        ("/**/{\"amount\":101}", 403),
        ("{\"amount\":101,}", 403),
    ] {
        let length = body.len();
        let port = origin.address.port();
        let text = format!(
            "POST /a HTTP/1.1\r\nHost: origin.test:{port}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let answer = ask(&rig, "origin.test", &text).await;
        assert_eq!(status(&answer), expected, "{body}");
    }
    assert_eq!(origin.seen().len(), before + 2);
}

#[tokio::test]
async fn a_compressed_body_is_read_and_goes_out_as_it_came() {
    use std::io::Write as _;
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let compress = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let bomb = [&b"{\"amount\":1,\"x\":\""[..], &vec![b'a'; 9 << 20], b"\"}"].concat();
    for (text, expected) in [
        (&b"{\"amount\":99}"[..], 200),
        (b"{\"amount\":101}", 403),
        (&bomb, 403),
    ] {
        let sent = compress(text);
        let fields = format!(
            "Content-Encoding: gzip\r\nContent-Length: {}\r\n",
            sent.len()
        );
        let answer = post(&origin, "http.json.amount <= 100", &fields, &sent).await;
        assert_eq!(status(&answer), expected, "{} octets", sent.len());
        if expected == 200 {
            assert_eq!(origin.seen()[0].body, sent);
        }
    }
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_body_over_the_limit_counts_as_unread() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let limit = 1024 * 1024;
    for (length, expected) in [(limit, 200), (limit + 1, 403)] {
        let fields = format!("Content-Length: {length}\r\n");
        let sent = vec![b'a'; length];
        let answer = post(&origin, "http.body_size > 0", &fields, &sent).await;
        assert_eq!(status(&answer), expected, "{length}");
    }
    assert_eq!(origin.seen().len(), 1);
}
