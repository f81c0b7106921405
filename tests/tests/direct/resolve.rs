//! Names that the gateway looks up, at a resolver of the test's own, and addresses that lead
//! nowhere.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use gateway_userspace::{config::Limits, dns::Resolver};
use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{RData, Record, RecordType},
};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use super::{
    origin::Origin,
    rig::{Rig, Wire, allow_origin, pick, status},
};

/// A resolver that knows `known.corp.example` (loopback) and `bare.corp.example` (no address), says that
/// other names do not exist, and says nothing to `mute.corp.example`.
async fn name_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 1024];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            let question = Message::from_vec(&bytes[..length]).unwrap();
            let query = &question.queries[0];
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.queries.clone_from(&question.queries);
            match (
                query.name().to_ascii().to_lowercase().as_str(),
                query.query_type(),
            ) {
                ("mute.corp.example.", _) => continue,
                ("known.corp.example.", RecordType::A) => {
                    let data = RData::from(Ipv4Addr::LOCALHOST);
                    answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                }
                ("known.corp.example." | "bare.corp.example.", _) => {}
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
        }
    });
    address
}

#[tokio::test]
async fn names_are_looked_up_and_failures_told_apart() {
    let origin = Origin::plain().await;
    let port = origin.address.port();
    let rules = allow_origin(origin.address).replace("\"origin.test\"", "\"*.corp.example\"");
    let server = name_server().await;
    for (name, expected, outcome, reason, blame) in [
        ("known.corp.example", 200, "allow", "allowed", json!(null)),
        (
            "bare.corp.example",
            403,
            "deny",
            "no_address",
            json!("policy"),
        ),
        (
            "missing.corp.example",
            502,
            "allow",
            "name_not_found",
            json!("upstream"),
        ),
        (
            "mute.corp.example",
            504,
            "allow",
            "resolve_timeout",
            json!("upstream"),
        ),
    ] {
        let patience = if name == "mute.corp.example" {
            50
        } else {
            10_000
        };
        let resolver = Resolver::server(server, Duration::from_millis(patience)).unwrap();
        let rig = Rig::with_resolver(&rules, Limits::default(), resolver);
        let answer = rig
            .say(format!(
                "GET / HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&answer), expected, "{name}");
        assert_eq!(
            pick(&rig.record().await, &["outcome", "reason", "blame"]),
            json!([outcome, reason, blame]),
            "{name}"
        );
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_given_up() {
    // A listener whose queue is full leaves further callers without an answer.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let full = listener.local_addr().unwrap().as_socket().unwrap();
    let _waiting = Wire::connect(full).await;
    let limits = Limits {
        connect_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let rig = Rig::with_limits(&allow_origin(full), limits);
    let answer = rig
        .say(format!(
            "GET / HTTP/1.1\r\nHost: origin.test:{}\r\nConnection: close\r\n\r\n",
            full.port()
        ))
        .await;
    assert_eq!(status(&answer), 504);
    assert_eq!(
        pick(&rig.record().await, &["reason", "blame", "upstream"]),
        json!(["connect_timeout", "upstream", null])
    );
}
