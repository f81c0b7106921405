//! WebSocket through the gateway, with an independent implementation at both ends.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use gateway_userspace::config::Limits;
use serde_json::json;
use tungstenite::{
    Error, Message, WebSocket,
    handshake::server::{Request, Response},
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::rig::{DEADLINE, Line, Rig, allow_origin, in_time, pick};

/// An upstream that echoes messages, and writes them down.
struct Echo {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Message>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echo = Self {
            address: listener.local_addr().unwrap(),
            heard: Arc::default(),
            asked: Arc::default(),
        };
        let (heard, asked) = (Arc::clone(&echo.heard), Arc::clone(&echo.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, asked) = (Arc::clone(&heard), Arc::clone(&asked));
                std::thread::spawn(move || answer(stream.unwrap(), &heard, &asked));
            }
        });
        echo
    }

    fn rig(&self, more: &str) -> Rig {
        let rig = Rig::start(&(allow_origin(self.address) + more));
        rig.set_line(Line::Redirected(self.address));
        rig
    }

    fn heard(&self) -> Vec<Message> {
        self.heard.lock().unwrap().clone()
    }
}

#[expect(clippy::result_large_err, reason = "the callback is the library's")]
fn answer(stream: TcpStream, heard: &Mutex<Vec<Message>>, asked: &Mutex<Vec<String>>) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let look = |request: &Request, response: Response| {
        asked.lock().unwrap().push(format!("{request:?}"));
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, look) else {
        return;
    };
    while let Ok(message) = socket.read() {
        heard.lock().unwrap().push(message.clone());
        let bad = message == Message::text("send me something bad");
        if bad {
            // A reserved bit, and no extension that gives it a meaning.
            socket.get_mut().write_all(&[0xc1, 1, b'x']).unwrap();
        } else if message.is_text() || message.is_binary() {
            let _gone = socket.send(message);
        }
    }
}

type Client = WebSocket<TcpStream>;

fn dial(rig: SocketAddr) -> TcpStream {
    #[expect(clippy::disallowed_methods, reason = "this is the agent's end")]
    let stream = TcpStream::connect(rig).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn open(rig: SocketAddr, origin: SocketAddr) -> Result<Client, Box<Error>> {
    let url = format!("ws://origin.test:{}/chat?room=1", origin.port());
    match tungstenite::client(url, dial(rig)) {
        Ok((client, _)) => Ok(client),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(error.into()),
        Err(other) => panic!("{other}"),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    in_time(tokio::task::spawn_blocking(work)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_pass_both_ways_to_the_close() {
    let echo = Echo::start();
    let rig = echo.rig("");
    let (gateway, origin) = (rig.address, echo.address);
    let large = vec![7; 3_000_000];
    let sent = large.clone();
    blocking(move || {
        let mut client = open(gateway, origin).unwrap();
        for message in [Message::text("hello"), Message::binary(sent)] {
            client.send(message.clone()).unwrap();
            assert_eq!(client.read().unwrap(), message);
        }
        client.send(Message::Ping("p".into())).unwrap();
        assert_eq!(client.read().unwrap(), Message::Pong("p".into()));
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "done".into(),
        };
        client.close(Some(frame.clone())).unwrap();
        assert_eq!(client.read().unwrap(), Message::Close(Some(frame)));
    })
    .await;
    assert_eq!(echo.heard()[1], Message::binary(large));
    let asked = echo.asked.lock().unwrap().remove(0);
    assert!(asked.contains("/chat?room=1"), "{asked}");
    let record = rig.record().await;
    assert_eq!(
        pick(
            &record,
            &["kind", "outcome", "reason", "status", "path", "inspected"]
        ),
        json!(["http", "allow", "allowed", 101, "/chat", true])
    );
    assert!(record["bytes_out"].as_u64() > Some(3_000_000), "{record}");
    assert!(record["bytes_in"].as_u64() > Some(3_000_000), "{record}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_only_reads_opens_none() {
    let echo = Echo::start();
    for (more, passes) in [
        ("methods = [\"GET\"]\n", false),
        ("methods = [\"GET\"]\nwebsocket = true\n", true),
        ("websocket = false\n", false),
        ("paths = [\"/other\"]\n", false),
        ("paths = [\"/chat\"]\n", true),
    ] {
        let rig = echo.rig(more);
        let (gateway, origin) = (rig.address, echo.address);
        let opened = blocking(move || open(gateway, origin).map(drop)).await;
        match opened {
            Ok(()) => assert!(passes, "{more}"),
            Err(error) => {
                assert!(!passes, "{more}");
                let Error::Http(response) = *error else {
                    panic!("{error}")
                };
                assert_eq!(response.status(), 403);
                let body: serde_json::Value =
                    serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
                assert_eq!(body["error"], "policy_denied");
            }
        }
    }
    assert_eq!(echo.asked.lock().unwrap().len(), 2);
}

/// A frame of a client with this first octet, masked with zeroes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_ends_it_with_a_code_and_reaches_nobody() {
    let echo = Echo::start();
    let huge = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
    for (bytes, code, reason) in [
        (vec![0x81, 1, b'x'], 1002, "ws_mask"),
        (frame(0xc1, b"x"), 1002, "ws_reserved_bit"),
        (frame(0x83, b"x"), 1002, "ws_opcode"),
        (frame(0x80, b"x"), 1002, "ws_continuation"),
        (frame(0x09, b"x"), 1002, "ws_control_fragmented"),
        (frame(0x81, &[0xff]), 1007, "ws_utf8"),
        (huge, 1009, "ws_message_too_large"),
        (frame(0x01, b"x").repeat(2), 1002, "ws_interleaved"),
        (
            [frame(0x01, b"x"), frame(0x00, b"x").repeat(1024)].concat(),
            1009,
            "ws_too_many_fragments",
        ),
    ] {
        let rig = echo.rig("");
        let (gateway, origin) = (rig.address, echo.address);
        let told = blocking(move || {
            let mut client = open(gateway, origin).unwrap();
            client.get_mut().write_all(&bytes).unwrap();
            client.read().unwrap()
        })
        .await;
        let Message::Close(Some(told)) = told else {
            panic!("{told}")
        };
        assert_eq!(u16::from(told.code), code, "{reason}");
        assert!(told.reason.starts_with(reason), "{told}");
        let record = rig.record().await;
        assert_eq!(
            pick(&record, &["outcome", "reason", "blame"]),
            json!(["deny", reason, "agent"])
        );
    }
    let heard = echo.heard();
    assert!(heard.iter().all(Message::is_close), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_upstream_is_to_blame() {
    let echo = Echo::start();
    let rig = echo.rig("");
    let (gateway, origin) = (rig.address, echo.address);
    let told = blocking(move || {
        let mut client = open(gateway, origin).unwrap();
        client.send(Message::text("send me something bad")).unwrap();
        client.read().unwrap()
    })
    .await;
    assert!(matches!(told, Message::Close(Some(_))), "{told}");
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["reason", "blame"]),
        json!(["ws_reserved_bit", "upstream"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_grants_something_else_is_refused() {
    for fields in [
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n",
        "Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\n",
    ] {
        let origin = super::origin::Origin::scripted(move |mut call, _| async move {
            call.until(b"\r\n\r\n").await;
            call.send(&format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n"))
                .await;
        })
        .await;
        let rig = Rig::start(&allow_origin(origin.address));
        rig.set_line(Line::Redirected(origin.address));
        let mut wire = rig.connect().await;
        wire.send(format!(
            "GET / HTTP/1.1\r\nHost: origin.test:{}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            origin.address.port()
        ))
        .await;
        let answer = wire.response().await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{fields} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cut_is_recorded_so() {
    let echo = Echo::start();
    let rig = echo.rig("");
    let (gateway, origin) = (rig.address, echo.address);
    blocking(move || {
        let mut client = open(gateway, origin).unwrap();
        client.send(Message::text("hello")).unwrap();
        client.read().unwrap();
        // Gone without a close.
        client
            .get_mut()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        let mut rest = Vec::new();
        client.get_mut().read_to_end(&mut rest).unwrap();
    })
    .await;
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["reason", "blame"]),
        json!(["agent_gone", "agent"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_open_ends_when_policy_allows_it_no_more() {
    let echo = Echo::start();
    let rig = echo.rig("");
    let (gateway, origin, policy) = (rig.address, echo.address, Arc::clone(&rig.policy));
    let told = blocking(move || {
        let mut client = open(gateway, origin).unwrap();
        client.send(Message::text("hello")).unwrap();
        client.read().unwrap();
        let other = super::rig::policy(&(allow_origin(origin) + "websocket = false\n"));
        policy.store(Arc::new(other));
        client.read().unwrap()
    })
    .await;
    let Message::Close(Some(told)) = told else {
        panic!("{told}")
    };
    assert_eq!(told.code, CloseCode::Policy);
    let record = rig.record().await;
    assert_eq!(
        pick(&record, &["reason", "blame"]),
        json!(["policy_changed", "policy"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_open_ends_with_the_gateway() {
    let echo = Echo::start();
    let rig = echo.rig("");
    let (gateway, origin, drain) = (rig.address, echo.address, rig.drain.clone());
    let told = blocking(move || {
        let mut client = open(gateway, origin).unwrap();
        client.send(Message::text("hello")).unwrap();
        client.read().unwrap();
        drain.cancel();
        client.read().unwrap()
    })
    .await;
    let Message::Close(Some(told)) = told else {
        panic!("{told}")
    };
    assert_eq!(told.code, CloseCode::Away);
    assert_eq!(rig.record().await["reason"], "drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_messages_has_a_limit_that_pings_do_not_lift() {
    let echo = Echo::start();
    // What came in counts three times: as sent, as unmasked, as inflated.
    let fragment = vec![b'x'; 60_000];
    let large = |first: u8| {
        let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[first, 0xfe][..], &length, &[0; 4], &fragment].concat()
    };
    for (fragments, passes) in [(5, true), (20, false)] {
        let limits = Limits {
            held_bytes: 1 << 20,
            head_timeout: Duration::from_millis(500),
            ..Limits::default()
        };
        let rig = Rig::with_limits(&allow_origin(echo.address), limits);
        rig.set_line(Line::Redirected(echo.address));
        let (gateway, origin) = (rig.address, echo.address);
        let mut bytes = large(0x02);
        for _ in 1..fragments {
            bytes.extend(frame(0x89, b"still there?"));
            bytes.extend(large(0x00));
        }
        bytes.extend(frame(0x80, b""));
        let before = echo.heard().len();
        blocking(move || {
            let mut client = open(gateway, origin).unwrap();
            // What is refused may be cut while more of it is on its way.
            let _cut = client.get_mut().write_all(&bytes);
            while client.read().is_ok_and(|message| !message.is_binary()) {}
        })
        .await;
        let heard = echo.heard().split_off(before);
        let whole = heard.iter().filter(|message| message.is_binary()).count();
        assert_eq!(whole, usize::from(passes), "{fragments} fragments");
        let reason = rig.record().await["reason"].clone();
        assert_eq!(reason == "bodies_ahead", !passes, "{reason}");
    }
}
