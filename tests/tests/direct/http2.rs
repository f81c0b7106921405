//! HTTP/2, in TLS that is opened and without TLS.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use gateway_userspace::config::Limits;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    rig::{Line, Rig, in_time, pick},
    secure::{SecureOrigin, agent, connect},
};

const PATHS: &str = "paths = [\"/open/**\"]\n";

fn redirected(rules: &str, origin: &SecureOrigin) -> Rig {
    let rig = Rig::start(rules);
    rig.set_line(Line::Redirected(origin.address));
    rig
}

async fn begin(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> SendRequest<Bytes> {
    let (send, connection) = in_time(h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    send
}

/// HTTP/2 in TLS to the origin.
async fn open(rig: &Rig) -> SendRequest<Bytes> {
    let stream = connect(rig, &agent(&["h2", "http/1.1"]), "origin.test").await;
    let stream = stream.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    begin(stream).await
}

fn request(origin: &SecureOrigin, method: &str, path: &str) -> http::request::Builder {
    let port = origin.address.port();
    let uri = format!("https://origin.test:{port}{path}");
    Request::builder()
        .method(method)
        .uri(uri)
        .version(Version::HTTP_2)
}

struct Answer {
    head: Response<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn ask(
    send: &SendRequest<Bytes>,
    request: http::request::Builder,
    body: Option<&[u8]>,
) -> Result<Answer, h2::Error> {
    let mut send = in_time(send.clone().ready()).await?;
    let (response, mut upload) = send.send_request(request.body(()).unwrap(), body.is_none())?;
    if let Some(body) = body {
        upload.send_data(Bytes::copy_from_slice(body), true)?;
    }
    let (head, mut stream) = in_time(response).await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = in_time(stream.data()).await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    Ok(Answer {
        head: Response::from_parts(head, ()),
        body,
        trailers: in_time(stream.trailers()).await?,
    })
}

#[tokio::test]
async fn each_stream_is_decided() {
    let origin = SecureOrigin::start("origin.test", &["h2", "http/1.1"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let send = open(&rig).await;
    let sent = vec![7; 1_000_000];
    let post = ask(&send, request(&origin, "POST", "/open/a?q"), Some(&sent));
    let post = in_time(post).await.unwrap();
    assert_eq!(
        (post.head.status().as_u16(), post.body),
        (200, sent.clone())
    );
    let shut = ask(&send, request(&origin, "GET", "/shut"), None)
        .await
        .unwrap();
    assert_eq!(shut.head.status(), 403);
    assert_eq!(shut.json()["reason"], "path_not_allowed");
    let seen = origin.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].version, Version::HTTP_2);
    assert!(seen[0].line.ends_with("/open/a?q"), "{}", seen[0].line);
    assert_eq!(seen[0].body, sent);
    drop(send);
    let told: Vec<_> = rig
        .records()
        .await
        .iter()
        .map(|it| pick(it, &["kind", "outcome", "path", "status", "inspected"]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["http", "allow", "/open/a", 200, true]),
            json!(["http", "deny", "/shut", 403, true]),
            json!(["tls", "allow", null, null, true]),
        ]
    );
}

#[tokio::test]
async fn many_at_once_share_one_connection() {
    let origin = SecureOrigin::start("origin.test", &["h2"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let send = open(&rig).await;
    let paths: Vec<_> = (0..100).map(|n| format!("/open/{n}")).collect();
    let bodies: Vec<_> = (0..100).map(|n| vec![n; 10_000]).collect();
    let asking = paths.iter().zip(&bodies).map(|(path, body)| {
        let request = request(&origin, "POST", path);
        ask(&send, request, Some(body))
    });
    let answers = in_time(join_all(asking)).await;
    for (answer, body) in answers.into_iter().zip(&bodies) {
        assert_eq!(&answer.unwrap().body, body);
    }
    assert_eq!((origin.connections(), origin.seen().len()), (1, 100));
}

#[tokio::test]
async fn without_tls_as_well() {
    let origin = SecureOrigin::plain().await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let send = begin(rig.connect().await.0).await;
    let plain = |path| {
        let uri = format!("http://origin.test:{}{path}", origin.address.port());
        Request::builder().uri(uri).version(Version::HTTP_2)
    };
    let open = ask(&send, plain("/open/a"), None).await.unwrap();
    assert_eq!(open.head.status(), 200);
    let shut = ask(&send, plain("/shut"), None).await.unwrap();
    assert_eq!(shut.head.status(), 403);
    let lines: Vec<_> = origin.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn what_names_another_place_or_hides_a_path_is_refused() {
    let origin = SecureOrigin::start("origin.test", &["h2"]).await;
    let port = origin.address.port();
    for (authority, path, host, reason) in [
        ("other.test", "/open/a", None, "host_mismatch"),
        ("origin.test", "/open/../shut", None, "path_dot_segment"),
        ("origin.test", "/open/%2e%2e/shut", None, "path_dot_segment"),
        ("origin.test", "/open/a%2f..%2fb", None, "path_encoding"),
        (
            "origin.test",
            "/open/a",
            Some("other.test"),
            "host_mismatch",
        ),
    ] {
        let rig = redirected(&origin.rule(PATHS), &origin);
        let send = open(&rig).await;
        let mut request = Request::builder()
            .uri(format!("https://{authority}:{port}{path}"))
            .version(Version::HTTP_2);
        if let Some(host) = host {
            request = request.header("host", format!("{host}:{port}"));
        }
        let answer = ask(&send, request, None).await.unwrap();
        assert_eq!(answer.head.status(), 400, "{path}");
        assert_eq!(answer.json()["reason"], reason, "{authority} {path}");
    }
    assert_eq!(origin.seen(), []);
}

#[tokio::test]
async fn fields_of_one_hop_and_overrides_stay_here() {
    let origin = SecureOrigin::start("origin.test", &["h2"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let send = open(&rig).await;
    let request = request(&origin, "GET", "/open/a")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic x")
        .header("x-http-method-override", "DELETE")
        .header("x-original-url", "/shut")
        .header("accept", "*/*");
    assert_eq!(ask(&send, request, None).await.unwrap().head.status(), 200);
    let seen = origin.seen().remove(0);
    let names: Vec<_> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["te", "accept"]);
}

#[tokio::test]
async fn grpc_is_refused_in_its_own_terms() {
    let origin = SecureOrigin::start("origin.test", &["h2"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let send = open(&rig).await;
    let request = request(&origin, "POST", "/shut.Service/Call")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers");
    let answer = ask(&send, request, Some(&[0; 5])).await.unwrap();
    let fields = answer.head.headers();
    assert_eq!(answer.head.status(), 200);
    assert_eq!(fields["grpc-status"], "7");
    let message: Value = serde_json::from_str(fields["grpc-message"].to_str().unwrap()).unwrap();
    assert_eq!(message["reason"], "path_not_allowed");
    assert!(answer.body.is_empty() && answer.trailers.is_none());
}

#[tokio::test]
async fn an_upstream_with_http1_alone_is_spoken_to_in_http1() {
    let origin = SecureOrigin::start("origin.test", &["http/1.1"]).await;
    let rig = redirected(&origin.rule(PATHS), &origin);
    let stream = connect(&rig, &agent(&["h2", "http/1.1"]), "origin.test").await;
    let stream = stream.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    drop(stream);
    // Who speaks nothing else is told in HTTP/2.
    let stream = connect(&rig, &agent(&["h2"]), "origin.test").await;
    let send = begin(stream.unwrap()).await;
    let answer = ask(&send, request(&origin, "GET", "/open/a"), None).await;
    let answer = answer.unwrap();
    assert_eq!(answer.head.status(), 502);
    assert_eq!(answer.json()["reason"], "upstream_tls");
    assert_eq!(origin.seen(), []);
}

#[tokio::test]
async fn an_agent_that_gives_no_room_on_a_stream_loses_it() {
    let origin = SecureOrigin::start("origin.test", &["h2", "http/1.1"]).await;
    let limits = Limits {
        idle_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::with_limits(&origin.rule(PATHS), limits);
    rig.set_line(Line::Redirected(origin.address));
    let mut send = in_time(open(&rig).await.ready()).await.unwrap();
    let post = request(&origin, "POST", "/open/a").body(()).unwrap();
    let (response, mut upload) = send.send_request(post, false).unwrap();
    let sent = Bytes::from(vec![7; 1_000_000]);
    upload.send_data(sent.clone(), true).unwrap();
    let mut stream = in_time(response).await.unwrap().into_body();
    let mut got = 0;
    let ended = loop {
        match in_time(stream.data()).await {
            Some(Ok(data)) => got += data.len(),
            other => break other,
        }
    };
    assert!(matches!(ended, Some(Err(_))), "{ended:?} after {got}");
    assert!(got < sent.len());
    drop((send, upload, stream));
    let records = rig.records().await;
    let of_request: Vec<_> = records.iter().filter(|it| it["kind"] == "http").collect();
    let [record] = of_request[..] else {
        panic!("{records:#?}");
    };
    assert_eq!(
        pick(record, &["outcome", "reason", "blame"]),
        json!(["allow", "agent_stalled", "agent"])
    );
}
