//! Calls on MCP servers, decided one by one, over HTTP/1.1 and HTTP/2, with the origin as witness.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    rig::{Line, Rig, body, in_time, pick, status},
    secure::{SecureOrigin, agent, connect},
};

fn rules(origin: &SecureOrigin) -> String {
    let server = format!("https://origin.test:{}/mcp", origin.address.port());
    format!(
        "[[mcp]]\nid = \"tickets\"\nserver = \"{server}\"\nprivate = true\n\
         tools = [\"search_*\", \"refund\"]\n\
         when = 'mcp.tool != \"refund\" || mcp.args.amount <= 100'\n\
         [[mcp]]\nid = \"large\"\nserver = \"{server}\"\naction = \"approve\"\nprivate = true\n\
         tools = [\"refund\"]\nwhen = 'mcp.args.amount > 100'\n"
    )
}

fn rig(origin: &SecureOrigin) -> Rig {
    let rig = Rig::start(&rules(origin));
    rig.set_line(Line::Redirected(origin.address));
    rig
}

/// What the gateway, or the origin behind it, says to this body.
async fn post(rig: &Rig, origin: &SecureOrigin, fields: &str, sent: &str) -> String {
    let place = format!("origin.test:{}", origin.address.port());
    let text = format!(
        "POST /mcp HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n{fields}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{sent}",
        sent.len()
    );
    let mut stream = connect(rig, &agent(&["http/1.1"]), "origin.test")
        .await
        .unwrap();
    in_time(stream.write_all(text.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    in_time(stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn call(id: Value, tool: &str, args: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": tool, "arguments": args}})
    .to_string()
}

#[tokio::test]
async fn each_call_is_decided_before_a_byte_of_it_goes_out() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = rig(&origin);
    let allowed = [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}).to_string(),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string(),
        call(json!(1), "search_tickets", json!({"q": "x"})),
        call(json!(2), "refund", json!({"amount": 100})),
    ];
    for sent in &allowed {
        let answer = post(&rig, &origin, "", sent).await;
        assert_eq!(status(&answer), 200, "{sent} {answer}");
    }
    let seen: Vec<_> = origin.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(seen, allowed.each_ref().map(|it| Bytes::from(it.clone())));

    for (id, tool, amount, rule, reason) in [
        (json!("a"), "drop", 1, "tickets", "call_not_allowed"),
        (json!(7), "refund", 101, "large", "approval_required"),
    ] {
        let sent = call(id.clone(), tool, json!({"amount": amount}));
        let answer = post(&rig, &origin, "", &sent).await;
        assert_eq!(status(&answer), 200, "{answer}");
        let answer = body(&answer);
        assert_eq!(answer["jsonrpc"], "2.0");
        assert_eq!(answer["id"], id);
        assert_eq!(answer["error"]["code"], -32000);
        let data = &answer["error"]["data"];
        assert_eq!(
            pick(data, &["error", "rule", "reason"]),
            json!(["policy_denied", rule, reason])
        );
        assert_eq!(answer["error"]["message"], data["hint"]);
    }
    // Nobody waits for an answer to a notification.
    let told = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "drop"}});
    assert_eq!(
        status(&post(&rig, &origin, "", &told.to_string()).await),
        403
    );
    assert_eq!(origin.seen().len(), allowed.len());

    let records = rig.records().await;
    let told: Vec<_> = records
        .iter()
        .filter(|record| record["kind"] == "http")
        .map(|record| pick(record, &["outcome", "rule", "status", "call"]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["allow", "tickets", 200, "initialize"]),
            json!(["allow", "tickets", 200, "notifications/initialized"]),
            json!(["allow", "tickets", 200, "tools/call search_tickets"]),
            json!(["allow", "tickets", 200, "tools/call refund"]),
            json!(["deny", "tickets", 200, "tools/call drop"]),
            json!(["deny", "large", 200, "tools/call refund"]),
            json!(["deny", "tickets", 403, "tools/call drop"]),
        ]
    );
}

#[tokio::test]
async fn what_has_two_readings_gets_nowhere() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = rig(&origin);
    let search = call(json!(1), "search_tickets", json!({}));
    let twice = search.replace("\"method\"", "\"method\":\"tools/list\",\"method\"");
    let cased = search.replace("\"method\"", "\"Method\":\"tools/list\",\"method\"");
    let marked = format!("\u{feff}{search}");
    for (fields, sent) in [
        ("", &*twice),
        ("", &cased),
        ("", &marked),
        ("", "[]"),
        ("", "tools/list"),
        ("", ""),
        ("Mcp-Method: tools/list\r\n", &search),
        ("Mcp-Name: drop\r\n", &search),
        ("mcp_name: drop\r\n", &search),
        ("Mcp-Param-Region: eu\r\n", &search),
        ("Content-Encoding: gzip\r\n", &search),
        (
            "Connection: mcp-method\r\nMcp-Method: tools/list\r\nMcp-Name: drop\r\n",
            &search,
        ),
    ] {
        let answer = post(&rig, &origin, fields, sent).await;
        assert!(
            matches!(status(&answer), 400 | 403),
            "{fields} {sent}: {answer}"
        );
        if let Some(error) = body(&answer).get("error").filter(|error| error.is_object()) {
            let mirrors = fields.to_ascii_lowercase().contains("mcp");
            let expected = match mirrors {
                true => json!([-32020, "mcp_mismatch"]),
                false => json!([-32600, "mcp_unclear"]),
            };
            assert_eq!(
                json!([error["code"], error["data"]["reason"]]),
                expected,
                "{fields}"
            );
        } else {
            assert!(
                !fields.to_ascii_lowercase().contains("mcp"),
                "{fields}: {answer}"
            );
        }
        assert_eq!(origin.seen().len(), 0, "{fields} {sent}");
    }
    let fields = "Mcp-Method: tools/call\r\nMcp-Name: search_tickets\r\n";
    assert_eq!(status(&post(&rig, &origin, fields, &search).await), 200);
}

#[tokio::test]
async fn over_http2_as_well() {
    let origin = SecureOrigin::start("origin.test", &["h2"]).await;
    let rig = rig(&origin);
    let stream = connect(&rig, &agent(&["h2"]), "origin.test").await.unwrap();
    let (send, connection) = in_time(h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    for (tool, refused) in [("search_tickets", false), ("drop", true)] {
        let mut send = in_time(send.clone().ready()).await.unwrap();
        let request = http::Request::builder()
            .method("POST")
            .uri(format!("https://origin.test:{}/mcp", origin.address.port()))
            .version(http::Version::HTTP_2)
            .body(())
            .unwrap();
        let (response, mut upload) = send.send_request(request, false).unwrap();
        let sent = call(json!(9), tool, json!({}));
        upload.send_data(sent.into(), true).unwrap();
        let (head, mut stream) = in_time(response).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        let mut body = Vec::new();
        while let Some(data) = in_time(stream.data()).await {
            body.extend_from_slice(&data.unwrap());
        }
        if refused {
            let answer: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(answer["id"], 9);
            assert_eq!(answer["error"]["data"]["reason"], "call_not_allowed");
        }
    }
    assert_eq!(origin.seen().len(), 1);
}
