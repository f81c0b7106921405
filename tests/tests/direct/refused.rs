//! Requests that two readers could read in two ways: refused with a reason, and the origin does
//! not hear of them.

use serde_json::json;

use super::{
    origin::Origin,
    rig::{Rig, allow_origin, body, pick, status},
};

/// `@` stands for `origin.test:PORT`.
const HEADS: &[(&str, u16, &str)] = &[
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "length_and_coding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
        "length_and_coding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        400,
        "content_length_repeated",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 5, 6\r\n\r\nhello!",
        400,
        "content_length_repeated",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: +1\r\n\r\nx",
        400,
        "content_length_malformed",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length:  1_0\r\n\r\n0123456789",
        400,
        "content_length_malformed",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 0x1\r\n\r\nx",
        400,
        "content_length_malformed",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nContent-Length: 18446744073709551617\r\n\r\nx",
        400,
        "content_length_malformed",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        400,
        "transfer_encoding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: x-chunked\r\n\r\n0\r\n\r\n",
        400,
        "transfer_encoding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "transfer_encoding",
    ),
    (
        "POST / HTTP/1.0\r\nHost: @\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "transfer_encoding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
        "field_line",
    ),
    (
        "POST / HTTP/1.1\r\nHost: @\r\nTransfer-Encoding\r\n : chunked\r\n\r\n",
        400,
        "folded_field",
    ),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nX: a\r\n b\r\n\r\n",
        400,
        "folded_field",
    ),
    (
        "GET / HTTP/1.1\r\nHost: @\nX: a\r\n\r\n",
        400,
        "bare_line_feed",
    ),
    ("GET / HTTP/1.1\nHost: @\n\n", 400, "bare_line_feed"),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nX: a\rY: b\r\n\r\n",
        400,
        "bare_carriage_return",
    ),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nX: a\0b\r\n\r\n",
        400,
        "nul_in_head",
    ),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nHost: other.test\r\n\r\n",
        400,
        "host_repeated",
    ),
    ("GET / HTTP/1.1\r\n\r\n", 400, "host_missing"),
    (
        "GET http://@/ HTTP/1.1\r\nHost: other.test\r\n\r\n",
        400,
        "host_mismatch",
    ),
    (
        "GET http://@/ HTTP/1.1\r\nHost: origin.test\r\n\r\n",
        400,
        "host_mismatch",
    ),
    (
        "GET http://user@@/ HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "target_userinfo",
    ),
    (
        "GET https://@/ HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "target_scheme",
    ),
    (
        "GET /a/../b HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "path_dot_segment",
    ),
    (
        "GET /a/%2e%2e/b HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "path_dot_segment",
    ),
    (
        "GET /a%2fb HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "path_encoding",
    ),
    (
        "GET /a%5Cb HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "path_encoding",
    ),
    (
        "GET /a\\b HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "target_character",
    ),
    (
        "GET /a%00 HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "path_encoding",
    ),
    (
        "GET /a#b HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "target_fragment",
    ),
    ("GET /\x7f HTTP/1.1\r\nHost: @\r\n\r\n", 400, "start_line"),
    ("get / HTTP/1.1\r\nHost: @\r\n\r\n", 400, "method_syntax"),
    ("GET / HTTP/1.1\r\nHost: @@\r\n\r\n", 400, "target_userinfo"),
    (
        "GET / HTTP/1.1\r\nHost: origin%2etest\r\n\r\n",
        400,
        "host_malformed",
    ),
    (
        "GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n",
        400,
        "host_malformed",
    ),
    ("GET / HTTP/2.0\r\nHost: @\r\n\r\n", 505, "http_version"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version"),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nExpect: something\r\n\r\n",
        417,
        "expectation",
    ),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        400,
        "ws_version",
    ),
    (
        "GET / HTTP/1.1\r\nHost: @\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n",
        501,
        "upgrade_unsupported",
    ),
    (
        "CONNECT @ HTTP/1.1\r\nHost: other.test\r\n\r\n",
        400,
        "host_mismatch",
    ),
    (
        "CONNECT @ HTTP/1.1\r\nHost: @\r\nContent-Length: 3\r\n\r\nabc",
        400,
        "body_not_allowed",
    ),
    (
        "CONNECT origin.test HTTP/1.1\r\nHost: @\r\n\r\n",
        400,
        "port_malformed",
    ),
];

#[tokio::test]
async fn ambiguous_heads_reach_nobody() {
    let origin = Origin::plain().await;
    let authority = format!("origin.test:{}", origin.address.port());
    for &(text, expected, reason) in HEADS {
        let rig = Rig::start(&allow_origin(origin.address));
        // `@@` is a user name before the authority.
        let text = text
            .replace("@@", "u\u{1}")
            .replace('@', &authority)
            .replace("u\u{1}", &format!("u@{authority}"));
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        let answer = rig.say(text.clone() + &smuggled).await;
        assert_eq!(status(&answer), expected, "{text}");
        let told = body(&answer);
        assert_eq!(
            pick(&told, &["error", "reason"]),
            json!(["bad_request", reason]),
            "{text}"
        );
        let record = rig.record().await;
        assert_eq!(
            pick(&record, &["outcome", "reason", "blame", "status", "event"]),
            json!(["deny", reason, "agent", expected, told["event"]]),
            "{text}"
        );
    }
    assert_eq!((origin.connections(), origin.heard().as_str()), (0, ""));
}

#[tokio::test]
async fn a_malformed_chunk_and_what_is_behind_it_reach_nobody() {
    for (chunks, reason) in [
        ("5 \r\nhello\r\n0\r\n\r\n", "chunk_size"),
        ("5\nhello\r\n0\r\n\r\n", "chunk_size"),
        ("0x5\r\nhello\r\n0\r\n\r\n", "chunk_size"),
        ("+5\r\nhello\r\n0\r\n\r\n", "chunk_size"),
        ("ffffffffffffffff5\r\nhello\r\n0\r\n\r\n", "chunk_size"),
        ("5;a\nb\r\nhello\r\n0\r\n\r\n", "chunk_extension"),
        ("0\r\nContent-Length: 1\nX: y\r\n\r\n", "trailer"),
    ] {
        let origin = Origin::plain().await;
        let rig = Rig::start(&allow_origin(origin.address));
        let host = format!("origin.test:{}", origin.address.port());
        let answer = rig
            .say(format!(
                "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}\
                 GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&answer), 400, "{chunks}");
        assert_eq!(body(&answer)["reason"], reason, "{chunks}");
        assert_eq!(origin.heard(), "", "{chunks}");
        assert_eq!(rig.record().await["blame"], "agent");
    }
}

/// What has gone out cannot be called back, but it does not become a whole request either.
#[tokio::test]
async fn a_malformed_chunk_later_on_leaves_the_request_unfinished() {
    let origin = Origin::plain().await;
    let rig = Rig::start(&allow_origin(origin.address));
    let host = format!("origin.test:{}", origin.address.port());
    let mut wire = rig.connect().await;
    let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
    wire.send(head.clone() + "5\r\nhello\r\n").await;
    origin.hears("hello").await;
    wire.send("5\r\nhello0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
        .await;
    let answer = wire.rest().await;
    assert_eq!(body(&answer)["reason"], "chunk_end");
    let heard = origin.heard();
    assert!(heard.starts_with(&head), "{heard}");
    assert!(
        !heard.contains("smuggled") && !heard.contains("0\r\n\r\n"),
        "{heard}"
    );
}

#[tokio::test]
async fn bytes_of_no_protocol_have_nowhere_to_go() {
    for bytes in [
        &b"EHLO example.com\r\n"[..],
        b"GET /\r\n",
        b"\0\0\0\0",
        b"\x16\x02\x01\x01",
    ] {
        let rig = Rig::start("");
        let answer = rig.say(bytes).await;
        assert_eq!(status(&answer), 400);
        assert_eq!(body(&answer)["reason"], "no_destination");
        assert_eq!(rig.record().await["reason"], "no_destination");
    }
}

#[tokio::test]
async fn an_offer_of_h2c_is_ignored() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    let rig = Rig::start(&allow_origin(origin.address));
    let answer = rig
        .say(format!(
            "GET / HTTP/1.1\r\nHost: origin.test:{port}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\
             Connection: Upgrade, HTTP2-Settings, close\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&answer), 200);
    assert_eq!(
        origin.heard(),
        format!("GET / HTTP/1.1\r\nHost: origin.test:{port}\r\n\r\n")
    );
}
