//! Bodies and interim responses, in both directions.

use serde_json::json;

use super::{
    origin::Origin,
    rig::{Rig, allow_origin, body, pick, status},
};

fn head(method: &str, origin: &Origin, rest: &str) -> String {
    let port = origin.address.port();
    format!("{method} / HTTP/1.1\r\nHost: origin.test:{port}\r\n{rest}")
}

async fn ask(response: &str, method: &str, rest: &str) -> (String, serde_json::Value) {
    let origin = Origin::answering(response).await;
    let rig = Rig::start(&allow_origin(origin.address));
    let answer = rig.say(head(method, &origin, rest)).await;
    (answer, rig.record().await)
}

#[tokio::test]
async fn chunks_are_made_anew() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let answer = rig
        .say(head(
            "PUT",
            &origin,
            "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close\r\n\r\n\
             0005;ext=\"x\"\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n",
        ))
        .await;
    assert_eq!(status(&answer), 200);
    assert_eq!(
        origin.heard(),
        head(
            "PUT",
            &origin,
            "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        )
    );
}

#[tokio::test]
async fn responses_keep_their_framing() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
    for (method, response, expected) in [
        (
            "GET",
            chunked,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nServer: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
        ),
        (
            "DELETE",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
        ),
    ] {
        let (answer, record) = ask(response, method, "Connection: close\r\n\r\n").await;
        assert_eq!(answer, expected);
        assert_eq!(record["outcome"], "allow");
    }
}

#[tokio::test]
async fn an_old_client_gets_what_it_understands() {
    let origin = Origin::answering(
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    )
    .await;
    let port = origin.address.port();
    let rig = Rig::start(&allow_origin(origin.address));
    let answer = rig
        .say(format!(
            "GET http://origin.test:{port}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        ))
        .await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello");
    let origin = Origin::plain().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = rig.connect().await;
    for _ in 0..2 {
        wire.send(format!(
            "GET http://origin.test:{}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            origin.address.port()
        ))
        .await;
        let answer = wire.response().await;
        assert!(answer.contains("Connection: keep-alive\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_may_end_with_the_connection() {
    let origin = Origin::scripted(|mut call, _| async move {
        call.request().await;
        call.send("HTTP/1.0 200 OK\r\n\r\nall there is").await;
        call.finish().await;
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let answer = rig.say(head("GET", &origin, "\r\n")).await;
    assert_eq!(
        answer,
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall there is"
    );
}

#[tokio::test]
async fn expect_waits_for_the_upstream() {
    let origin = Origin::scripted(|mut call, _| async move {
        let head = call.until(b"\r\n\r\n").await.unwrap_or_default();
        assert!(String::from_utf8_lossy(&head).contains("Expect: 100-continue\r\n"));
        call.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = call.until(b"hello").await;
        assert!(body.is_some());
        call.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = rig.connect().await;
    wire.send(head(
        "PUT",
        &origin,
        "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    ))
    .await;
    assert_eq!(
        wire.until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    wire.send("hello").await;
    assert_eq!(status(&wire.response().await), 200);
}

#[tokio::test]
async fn a_response_may_overtake_its_request() {
    let origin = Origin::scripted(|mut call, _| async move {
        call.until(b"\r\n\r\n").await;
        call.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            .await;
        while call.some().await.is_some() {}
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = rig.connect().await;
    wire.send(head(
        "PUT",
        &origin,
        "Content-Length: 1000000\r\n\r\nonly a part",
    ))
    .await;
    let answer = wire.rest().await;
    assert_eq!(
        answer,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    );
    drop(wire);
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["outcome", "reason", "status"]),
        json!(["allow", "allowed", 413])
    );
}

#[tokio::test]
async fn both_bodies_flow_at_once() {
    let origin = Origin::scripted(|mut call, _| async move {
        call.until(b"\r\n\r\n").await;
        call.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..3 {
            call.until(b"ping\r\n").await;
            call.send("4\r\npong\r\n").await;
        }
        call.until(b"0\r\n\r\n").await;
        call.send("0\r\n\r\n").await;
    })
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = rig.connect().await;
    wire.send(head("POST", &origin, "Transfer-Encoding: chunked\r\n\r\n"))
        .await;
    wire.until("\r\n\r\n").await;
    for _ in 0..3 {
        wire.send("4\r\nping\r\n").await;
        assert_eq!(wire.until("pong\r\n").await, "4\r\npong\r\n");
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(wire.rest().await, "0\r\n\r\n");
}

#[tokio::test]
async fn large_bodies_pass_whole() {
    const SIZE: usize = 8 * 1024 * 1024;
    let origin = Origin::answering(
        [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes(),
            vec![b'r'; SIZE],
        ]
        .concat(),
    )
    .await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = rig.connect().await;
    let request = head(
        "PUT",
        &origin,
        &format!("Connection: close\r\nContent-Length: {SIZE}\r\n\r\n"),
    );
    let (mut input, mut output) = wire.0.split();
    let sending = async {
        use tokio::io::AsyncWriteExt as _;
        output.write_all(request.as_bytes()).await.unwrap();
        output.write_all(&vec![b'q'; SIZE]).await.unwrap();
    };
    let mut answer = Vec::new();
    let receiving = async {
        use tokio::io::AsyncReadExt as _;
        input.read_to_end(&mut answer).await.unwrap();
    };
    super::rig::in_time(async { tokio::join!(sending, receiving) }).await;
    assert!(answer.ends_with(&vec![b'r'; SIZE]));
    assert!(origin.heard_bytes().ends_with(&vec![b'q'; SIZE]));
}

#[tokio::test]
async fn an_ambiguous_response_is_the_upstreams_fault() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    for (response, reason) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
            "content_length_repeated",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "length_and_coding",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "transfer_encoding",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
            "content_length_malformed",
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "bare_line_feed"),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "folded_field"),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "field_line"),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
            "status_code",
        ),
        ("HTTP/2 200\r\n\r\n", "http_version"),
        ("SSH-2.0-x\r\n\r\n", "http_version"),
        ("\r\n\r\n", "start_line"),
        (&long, "head_too_large"),
        (&"HTTP/1.1 100 Continue\r\n\r\n".repeat(20), "interim_limit"),
    ] {
        let (answer, record) = ask(response, "GET", "Connection: close\r\n\r\n").await;
        let final_answer = answer
            .rsplit("HTTP/1.1 100 Continue\r\n\r\n")
            .next()
            .unwrap();
        assert_eq!(status(final_answer), 502, "{response}");
        assert_eq!(body(final_answer)["error"], "upstream_failed");
        assert_eq!(
            pick(&record, &["outcome", "reason", "blame", "status"]),
            json!(["allow", reason, "upstream", 502]),
            "{response}"
        );
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_taken_for_whole() {
    for (response, reason) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
            "upstream_gone",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "upstream_gone",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nabcde",
            "chunk_size",
        ),
    ] {
        let origin = Origin::scripted(move |mut call, _| async move {
            call.request().await;
            call.send(response).await;
        })
        .await;
        let rig = Rig::start(&allow_origin(origin.address));
        let mut wire = rig.connect().await;
        wire.send(head("GET", &origin, "\r\n")).await;
        wire.expect_reset().await;
        drop(wire);
        let record = rig.record().await;
        assert_eq!(
            pick(&record, &["reason", "blame"]),
            json!([reason, "upstream"]),
            "{response}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_leaves_takes_its_request_along() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let mut wire = rig.connect().await;
    wire.send(head("PUT", &origin, "Content-Length: 10\r\n\r\nhalf"))
        .await;
    origin.hears("half").await;
    drop(wire);
    rig.await_records(1).await;
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["reason", "blame"]),
        json!(["agent_gone", "agent"])
    );
}

#[tokio::test]
async fn nobody_there_is_a_bad_gateway() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let rig = Rig::start(&allow_origin(free));
    let answer = rig
        .say(format!(
            "GET / HTTP/1.1\r\nHost: origin.test:{}\r\nConnection: close\r\n\r\n",
            free.port()
        ))
        .await;
    assert_eq!(status(&answer), 502);
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["outcome", "reason", "blame"]),
        json!(["allow", "connect_failed", "upstream"])
    );
}
