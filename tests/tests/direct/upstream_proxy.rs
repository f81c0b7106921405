//! A proxy between the gateway and its upstreams.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{
    origin::Origin,
    rig::{Line, Rig, body, in_time, pick, policy_with, status},
    secure::SecureOrigin,
};

/// A proxy that leads every name to one place, and writes down what it was asked.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(to: SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
        };
        let asked = Arc::clone(&proxy.asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let asked = Arc::clone(&asked);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut first = String::new();
                    stream.read_line(&mut first).await.unwrap();
                    asked.lock().unwrap().push(first.trim_end().to_owned());
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        stream.read_line(&mut line).await.unwrap();
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if answer.starts_with("HTTP/1.1 200") {
                        #[expect(clippy::disallowed_methods, reason = "this is the proxy's end")]
                        let mut far = TcpStream::connect(to).await.unwrap();
                        let _ended = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
                    }
                });
            }
        });
        proxy
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// A gateway whose policy allows two names, which only the proxy knows, and one that is fixed.
fn rig(proxy: SocketAddr, more: &str) -> Rig {
    let rules = "[[egress]]\nid = \"far\"\n\
                 hosts = [\"far.example\", \"near.example\", \"inner.example\"]\nports = [80]\n";
    let fixed = "resolve = { \"inner.example\" = \"10.1.2.3\" }";
    let upstream = format!("proxy = \"http://{proxy}\"\n{fixed}\n{more}");
    Rig::under(policy_with(rules, &upstream))
}

fn get(host: &str) -> String {
    format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn it_is_asked_for_the_name() {
    let origin = Origin::plain().await;
    let proxy = Proxy::start(origin.address, OK).await;
    let rig = rig(proxy.address, "");
    let answer = rig.say(get("far.example")).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(proxy.asked(), ["CONNECT far.example:80 HTTP/1.1"]);
    assert!(
        origin
            .heard()
            .starts_with("GET / HTTP/1.1\r\nHost: far.example\r\n")
    );
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["host", "upstream", "outcome"]),
        json!(["far.example", proxy.address, "allow"])
    );
}

#[tokio::test]
async fn a_tunnel_goes_through_it_too() {
    let origin = Origin::plain().await;
    let proxy = Proxy::start(origin.address, OK).await;
    let rig = rig(proxy.address, "");
    let mut wire = rig.connect().await;
    wire.send("CONNECT far.example:80 HTTP/1.1\r\nHost: far.example:80\r\n\r\n")
        .await;
    assert_eq!(status(&wire.until("\r\n\r\n").await), 200);
    wire.send("GET / HTTP/1.1\r\nHost: far.example\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&wire.rest().await), 200);
    assert_eq!(proxy.asked(), ["CONNECT far.example:80 HTTP/1.1"]);
}

#[tokio::test]
async fn what_it_says_no_to_is_told() {
    let origin = Origin::plain().await;
    for (answer, reason) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
            "proxy_refused",
        ),
        ("HTTP/1.1 503 No\r\n\r\n", "proxy_refused"),
        ("", "proxy_gone"),
    ] {
        let proxy = Proxy::start(origin.address, answer).await;
        let rig = rig(proxy.address, "");
        let answer = rig.say(get("far.example")).await;
        assert_eq!(status(&answer), 502, "{answer}");
        assert_eq!(body(&answer)["reason"], reason);
    }
    assert_eq!(origin.heard(), "");
}

#[tokio::test]
async fn an_address_that_no_rule_may_lead_to_is_not_asked_for() {
    let origin = Origin::plain().await;
    let proxy = Proxy::start(origin.address, OK).await;
    let rig = rig(proxy.address, "");
    let answer = rig.say(get("inner.example")).await;
    assert_eq!(body(&answer)["reason"], "private_address", "{answer}");
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn exceptions_go_round_it() {
    let origin = Origin::plain().await;
    let proxy = Proxy::start(origin.address, OK).await;
    let rig = rig(proxy.address, "no_proxy = [\"near.example\"]\n");
    let answer = rig.say(get("near.example")).await;
    // Nobody here knows the name.
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(proxy.asked().is_empty());
}

#[tokio::test]
async fn raw_connections_go_through_it_by_address() {
    let origin = Origin::echo().await;
    let proxy = Proxy::start(origin.address, OK).await;
    let rules = "[[egress]]\nid = \"raw\"\ntcp = [\"93.184.216.34:7\"]\n";
    let upstream = format!("proxy = \"http://{}\"\n", proxy.address);
    let rig = Rig::under(policy_with(rules, &upstream));
    rig.set_line(Line::Redirected("93.184.216.34:7".parse().unwrap()));
    let mut wire = rig.connect().await;
    wire.send("hello").await;
    wire.finish().await;
    assert_eq!(wire.rest().await, "hello");
    assert_eq!(proxy.asked(), ["CONNECT 93.184.216.34:7 HTTP/1.1"]);
}

/// The proxy has one address for all names: what goes to another name is asked for anew.
#[tokio::test]
async fn http2_asks_for_each_name() {
    let origin = SecureOrigin::plain().await;
    let proxy = Proxy::start(origin.address, OK).await;
    let rig = rig(proxy.address, "");
    rig.set_line(Line::Redirected(([203, 0, 113, 7], 80).into()));
    let (send, connection) = in_time(h2::client::handshake(rig.connect().await.0))
        .await
        .unwrap();
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    for host in ["far.example", "near.example", "near.example"] {
        let mut send = in_time(send.clone().ready()).await.unwrap();
        let request = http::Request::builder()
            .uri(format!("http://{host}/"))
            .version(http::Version::HTTP_2)
            .body(())
            .unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        assert_eq!(in_time(response).await.unwrap().status(), 200, "{host}");
    }
    assert_eq!(
        proxy.asked(),
        [
            "CONNECT far.example:80 HTTP/1.1",
            "CONNECT near.example:80 HTTP/1.1"
        ]
    );
}
