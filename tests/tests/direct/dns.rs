//! DNS over UDP and TCP: only names that policy could allow, only addresses that it would dial.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr as _,
};

use gateway_userspace::config::Limits;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType, rdata::opt::EdnsOption},
};
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::UdpSocket};

use super::{
    origin::Origin,
    rig::{Line, Rig, in_time, pick},
};

const RULES: &str = "[[egress]]\nid = \"web\"\nhosts = [\"origin.test\", \"six.test\", \"gone.test\"]\nprivate = true\n\
                     [[egress]]\nid = \"mixed\"\nhosts = [\"mixed.test\"]\n";

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message.set_edns(Edns::new());
    message
}

async fn ask_bytes(rig: &Rig, bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, rig.address).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = in_time(socket.recv(&mut answer)).await.unwrap();
    answer.truncate(length);
    answer
}

async fn ask(rig: &Rig, question: &Message) -> Message {
    let answer = ask_bytes(rig, &question.to_vec().unwrap()).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 4711);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    answer
}

fn told(answer: &Message) -> (ResponseCode, Vec<IpAddr>) {
    let addresses = answer
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr());
    (answer.metadata.response_code, addresses.collect())
}

#[tokio::test]
async fn names_get_the_answers_that_policy_leaves() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    for (name, kind, code, addresses, outcome, reason) in [
        (
            "Origin.TEST.",
            RecordType::A,
            ResponseCode::NoError,
            vec![ip("127.0.0.1")],
            "allow",
            "allowed",
        ),
        (
            "origin.test.",
            RecordType::AAAA,
            ResponseCode::NoError,
            vec![],
            "allow",
            "allowed",
        ),
        (
            "six.test.",
            RecordType::AAAA,
            ResponseCode::NoError,
            vec![ip("::1")],
            "allow",
            "allowed",
        ),
        (
            "origin.test.",
            RecordType::MX,
            ResponseCode::NoError,
            vec![],
            "allow",
            "allowed",
        ),
        (
            "origin.test.",
            RecordType::HTTPS,
            ResponseCode::NoError,
            vec![],
            "allow",
            "allowed",
        ),
        (
            "mixed.test.",
            RecordType::A,
            ResponseCode::NoError,
            vec![ip("93.184.216.34")],
            "allow",
            "allowed",
        ),
        (
            "gone.test.",
            RecordType::A,
            ResponseCode::NXDomain,
            vec![],
            "allow",
            "name_not_found",
        ),
        (
            "origin.test.",
            RecordType::TXT,
            ResponseCode::Refused,
            vec![],
            "deny",
            "dns_type",
        ),
        (
            "nowhere.test.",
            RecordType::A,
            ResponseCode::Refused,
            vec![],
            "deny",
            "no_rule",
        ),
        (
            "secret.data.nowhere.test.",
            RecordType::AAAA,
            ResponseCode::Refused,
            vec![],
            "deny",
            "no_rule",
        ),
        (
            "127.0.0.1.",
            RecordType::A,
            ResponseCode::Refused,
            vec![],
            "deny",
            "name_malformed",
        ),
    ] {
        let rig = Rig::start(RULES);
        let answer = ask(&rig, &question(name, kind)).await;
        assert_eq!(told(&answer), (code, addresses), "{name} {kind}");
        let record = rig.record().await;
        assert_eq!(
            pick(&record, &["kind", "outcome", "reason", "method"]),
            json!(["dns", outcome, reason, kind.to_string()]),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_private_address_is_not_told_without_leave() {
    let rig = Rig::start(&RULES.replace("private = true", ""));
    let answer = ask(&rig, &question("origin.test.", RecordType::A)).await;
    assert_eq!(told(&answer), (ResponseCode::Refused, vec![]));
    assert_eq!(rig.record().await["reason"], "private_address");
}

#[tokio::test]
async fn a_refusal_says_that_it_is_policy() {
    let rig = Rig::start(RULES);
    let answer = ask(&rig, &question("nowhere.test.", RecordType::A)).await;
    let options = answer.edns.as_ref().unwrap().options().as_ref().to_vec();
    let blocked = EdnsOption::Unknown(15, vec![0, 15]);
    assert!(
        options.iter().any(|(_, option)| *option == blocked),
        "{options:?}"
    );
    // Who does not speak EDNS gets none.
    let mut plain = question("nowhere.test.", RecordType::A);
    plain.edns = None;
    assert!(ask(&rig, &plain).await.edns.is_none());
}

#[tokio::test]
async fn what_is_no_question_gets_a_short_answer_or_none() {
    let rig = Rig::start(RULES);
    let mut two = question("origin.test.", RecordType::A);
    two.add_query(Query::query(
        Name::from_str("six.test.").unwrap(),
        RecordType::A,
    ));
    assert_eq!(told(&ask(&rig, &two).await).0, ResponseCode::FormErr);
    let mut notify = question("origin.test.", RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(told(&ask(&rig, &notify).await).0, ResponseCode::NotImp);
    let whole = question("origin.test.", RecordType::A).to_vec().unwrap();
    let cut = ask_bytes(&rig, &whole[..whole.len() - 14]).await;
    assert_eq!(
        Message::from_vec(&cut).unwrap().metadata.response_code,
        ResponseCode::FormErr
    );

    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut response = question("origin.test.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    socket
        .send_to(&response.to_vec().unwrap(), rig.address)
        .await
        .unwrap();
    socket.send_to(&whole[..5], rig.address).await.unwrap();
    // The answer to a question behind them is the first that comes.
    let mut marked = question("origin.test.", RecordType::A);
    marked.metadata.id = 99;
    socket
        .send_to(&marked.to_vec().unwrap(), rig.address)
        .await
        .unwrap();
    let mut answer = vec![0; 512];
    let length = in_time(socket.recv(&mut answer)).await.unwrap();
    assert_eq!(
        Message::from_vec(&answer[..length]).unwrap().metadata.id,
        99
    );
    assert_eq!(rig.counters.questions_dropped_total(), 3);
}

#[tokio::test]
async fn tcp_answers_one_question_after_the_other() {
    let rig = Rig::start(RULES);
    rig.set_line(Line::Redirected("8.8.8.8:53".parse().unwrap()));
    let mut wire = rig.connect().await;
    for (name, code) in [
        ("origin.test.", ResponseCode::NoError),
        ("nowhere.test.", ResponseCode::Refused),
    ] {
        let bytes = question(name, RecordType::A).to_vec().unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        wire.send([&length[..], &bytes].concat()).await;
        let length = in_time(wire.0.read_u16()).await.unwrap();
        let mut answer = vec![0; length.into()];
        in_time(wire.0.read_exact(&mut answer)).await.unwrap();
        assert_eq!(told(&Message::from_vec(&answer).unwrap()).0, code);
    }
    // No message has this length.
    wire.send([0, 3, 1, 2, 3]).await;
    assert_eq!(wire.rest().await, "");
    drop(wire);
    assert_eq!(rig.records().await.len(), 2);
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_cut_and_says_so() {
    let many: Vec<String> = (0..100).map(|n| format!("\"93.184.216.{n}\"")).collect();
    let rig = Rig::start("");
    let text = format!(
        "schema = 1\nagent = \"tester\"\n{RULES}[upstream]\nresolve = {{ \"mixed.test\" = [{}] }}\n",
        many.join(", ")
    );
    let policy = gateway_userspace::policy::Policy::parse("many", &text).unwrap();
    rig.policy.store(policy.into());
    let answer = ask(&rig, &question("mixed.test.", RecordType::A)).await;
    assert!(answer.metadata.truncation);
    assert!(answer.answers.is_empty());
}

#[tokio::test]
async fn questions_over_the_limit_fail_at_once() {
    let limits = Limits {
        dns_in_flight: 0,
        ..Limits::default()
    };
    let rig = Rig::with_limits(RULES, limits);
    let answer = ask(&rig, &question("origin.test.", RecordType::A)).await;
    assert_eq!(told(&answer).0, ResponseCode::ServFail);
    assert_eq!(rig.counters.question_limit_total(), 1);
    assert_eq!(rig.record().await["reason"], "question_limit");
    let limits = Limits {
        dns_in_flight: 1,
        ..Limits::default()
    };
    let rig = Rig::with_limits(RULES, limits);
    let answer = ask(&rig, &question("origin.test.", RecordType::A)).await;
    assert_eq!(told(&answer).0, ResponseCode::NoError);
}

#[tokio::test]
async fn a_question_of_nobody_is_dropped() {
    let rig = Rig::start(RULES);
    rig.set_line(Line::Unknown);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let bytes = question("origin.test.", RecordType::A).to_vec().unwrap();
    socket.send_to(&bytes, rig.address).await.unwrap();
    rig.await_records(1).await;
    assert_eq!(
        pick(&rig.record().await, &["agent", "kind", "reason"]),
        json!(["unattributed", "dns", "unattributed"])
    );
}

#[tokio::test]
async fn an_answer_lets_a_connection_by_address_mean_its_name() {
    let origin = Origin::echo().await;
    let rules = format!(
        "[[egress]]\nid = \"db\"\ntcp = [\"*.db.test:{}\"]\nprivate = true\n",
        origin.address.port()
    );
    let rig = Rig::start(&rules);
    let to = SocketAddr::new([127, 0, 0, 1].into(), origin.address.port());
    rig.set_line(Line::Redirected(to));
    // The rule names no host, so nothing says yet that this address is one of its names.
    rig.connect().await.expect_reset().await;
    let answer = ask(&rig, &question("a.db.test.", RecordType::A)).await;
    assert_eq!(told(&answer).1.len(), 1);
    let mut wire = rig.connect().await;
    wire.send("hello").await;
    wire.finish().await;
    assert_eq!(wire.rest().await, "hello");
    drop(wire);
    let records = rig.records().await;
    let outcomes: Vec<_> = records.iter().map(|record| &record["outcome"]).collect();
    assert_eq!(outcomes, ["deny", "allow", "allow"]);
}

#[tokio::test]
async fn questions_beyond_the_rate_are_refused() {
    let rig = Rig::start(&format!("[dns]\nrate = \"2/h\"\n{RULES}"));
    let asked = question("origin.test.", RecordType::A);
    for _ in 0..2 {
        assert_eq!(told(&ask(&rig, &asked).await).0, ResponseCode::NoError);
    }
    let refused = ask(&rig, &asked).await;
    assert_eq!(told(&refused), (ResponseCode::Refused, vec![]));
    let records = rig.records().await;
    let last = records.last().expect("a record");
    assert_eq!(
        pick(last, &["outcome", "reason", "host"]),
        json!(["deny", "rate_limited", "origin.test"])
    );
}
