//! TLS that comes without CONNECT, and TLS with real clients and servers.

use std::{net::SocketAddr, process::Stdio};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{
    origin::Origin,
    rig::{Line, Rig, allow_origin, in_time, pick},
    tools::{ACCESS_DENIED, hello, hello_message, record},
};

fn redirected(rules: &str, to: SocketAddr) -> Rig {
    let rig = Rig::start(rules);
    rig.set_line(Line::Redirected(to));
    rig
}

#[tokio::test]
async fn it_goes_where_its_name_says() {
    let origin = Origin::echo().await;
    let elsewhere = SocketAddr::new([192, 0, 2, 1].into(), origin.address.port());
    let rig = redirected(&allow_origin(origin.address), elsewhere);
    let sent = [hello("origin.test"), b"more".to_vec()].concat();
    let mut wire = rig.connect().await;
    wire.send(&sent).await;
    wire.finish().await;
    assert_eq!(wire.rest_bytes().await.unwrap(), sent);
    drop(wire);
    assert_eq!(
        pick(
            &rig.record().await,
            &[
                "kind",
                "outcome",
                "host",
                "upstream",
                "original_destination"
            ]
        ),
        json!(["tls", "allow", "origin.test", origin.address, elsewhere])
    );
}

#[tokio::test]
async fn a_hello_may_come_in_many_records_and_segments() {
    let origin = Origin::echo().await;
    let rig = redirected(&allow_origin(origin.address), origin.address);
    let message = hello_message(Some("origin.test"));
    let sent: Vec<u8> = message.chunks(7).flat_map(record).collect();
    let mut wire = rig.connect().await;
    for piece in sent.chunks(5) {
        wire.send(piece).await;
        tokio::task::yield_now().await;
    }
    wire.finish().await;
    assert_eq!(wire.rest_bytes().await.unwrap(), sent);
}

#[tokio::test]
async fn refusals_are_alerts() {
    let origin = Origin::echo().await;
    for (sent, reason) in [
        (hello("other.test"), "no_rule"),
        (record(&hello_message(None)), "no_rule"),
        (hello("origin..test"), "hello_malformed"),
        (record(&[1, 0, 0, 1, 3]), "hello_malformed"),
        (record(&[2; 40]), "hello_malformed"),
    ] {
        let rig = redirected(&allow_origin(origin.address), origin.address);
        let mut wire = rig.connect().await;
        wire.send(&sent).await;
        assert_eq!(wire.rest_bytes().await.unwrap(), ACCESS_DENIED, "{reason}");
        drop(wire);
        assert_eq!(
            pick(&rig.record().await, &["kind", "outcome", "reason"]),
            json!(["tls", "deny", reason])
        );
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn without_a_name_it_is_for_the_address() {
    let origin = Origin::echo().await;
    let rules = allow_origin(origin.address).replace("origin.test", "127.0.0.1");
    let rig = redirected(&rules, origin.address);
    let sent = record(&hello_message(None));
    let mut wire = rig.connect().await;
    wire.send(&sent).await;
    wire.finish().await;
    assert_eq!(wire.rest_bytes().await.unwrap(), sent);
    drop(wire);
    assert_eq!(rig.record().await["host"], "127.0.0.1");
}

/// A TLS server that answers every request, with a certificate of its own making.
struct Server {
    _child: Child,
    _folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, certificate) = (folder.path().join("key"), folder.path().join("certificate"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args([
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=origin.test",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null())
            .status();
        assert!(in_time(made).await.expect("openssl is needed").success());
        let mut child = Command::new("openssl")
            .args(["s_server", "-www", "-accept", "127.0.0.1:0", "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = in_time(lines.next_line())
                .await
                .unwrap()
                .expect("no ACCEPT line");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.trim().parse().unwrap();
            }
        };
        Self {
            _child: child,
            _folder: folder,
            address,
        }
    }
}

/// Runs curl, and answers with what it printed, or its exit status and why.
async fn curl(arguments: &[&str]) -> Result<String, (i32, String)> {
    let running = Command::new("curl")
        .args(["-sS", "--insecure", "--max-time", "15"])
        .args(arguments)
        .env_clear()
        .kill_on_drop(true)
        .output();
    let output = in_time(running).await.expect("curl is needed");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    Err((output.status.code().unwrap_or(-1), why))
}

#[tokio::test]
async fn curl_speaks_tls_through_a_tunnel() {
    let server = Server::start().await;
    let rig = Rig::start(&allow_origin(server.address));
    let proxy = format!("http://{}", rig.address);
    let url = format!("https://origin.test:{}/", server.address.port());
    let page = curl(&["--proxy", &proxy, &url]).await.unwrap();
    assert!(page.contains("Ciphers"), "{page}");
    let refused = curl(&["--proxy", &proxy, "https://nowhere.test/"]).await;
    let (code, why) = refused.unwrap_err();
    assert_eq!(code, 56);
    assert!(why.contains("CONNECT tunnel failed, response 403"), "{why}");
    assert_eq!(rig.records().await.len(), 2);
}

#[tokio::test]
async fn curl_speaks_tls_without_knowing_of_the_gateway() {
    let server = Server::start().await;
    let rig = redirected(&allow_origin(server.address), server.address);
    let (port, gateway) = (server.address.port(), format!("::{}", rig.address));
    let url = |host: &str| format!("https://{host}:{port}/");
    let page = curl(&["--connect-to", &gateway, &url("origin.test")])
        .await
        .unwrap();
    assert!(page.contains("Ciphers"), "{page}");
    let refused = curl(&["--connect-to", &gateway, &url("nowhere.test")]).await;
    let (code, why) = refused.unwrap_err();
    assert_eq!(code, 35);
    assert!(why.contains("access denied"), "{why}");
    assert_eq!(rig.records().await.len(), 2);
}
