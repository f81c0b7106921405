//! Answers agents' DNS questions: those that policy could allow, from the gateway's own
//! resolver; no question of an agent is ever passed on.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Buf as _;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType, rdata::opt::EdnsOption},
};
use tokio::{net::UdpSocket, time::Instant};

use super::resolver::ResolveError;
use crate::{
    app::{Core, nobody},
    audit::{Blame, Kind},
    identity::{LocalEnd, Peer},
    names::{Host, HostName},
    policy::{Denial, DenyReason, Mode, Policy, Request},
    proxy::{authorize, entry::Entry, failure::Failure, wire::Wire},
    throttle::What,
};

/// Port of DNS, for the records.
const DNS_PORT: u16 = 53;
/// Octets of the largest question looked at. A question is a header and one name; the rest is
/// room for EDNS options.
const QUESTION_MAX: usize = 4096;
/// Octets of a DNS header.
const HEADER: usize = 12;
/// Octets of the largest UDP answer: what passes every path unfragmented.
const DATAGRAM_MAX: u16 = 1232;
/// Octets of the largest TCP answer.
const STREAM_MAX: usize = 65_535;
/// How long agents may keep an answer, in seconds: policy may change.
const TTL: u32 = 30;
/// Pause after a failed receive.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);
/// EDNS option and code for a refusal by policy (RFC 8914, 4.16).
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: [u8; 2] = [0, 15];

/// Answers questions on this socket until it is stopped.
pub(crate) async fn serve_datagrams(core: Arc<Core>, socket: Arc<UdpSocket>, local: LocalEnd) {
    // One octet more than the largest, so that a larger one shows.
    let mut buffer = vec![0; QUESTION_MAX + 1];
    loop {
        let (length, address) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving a datagram");
                tokio::time::sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        let bytes = buffer.get(..length).unwrap_or_default().to_vec();
        let Some(id) = transaction(&bytes) else {
            core.counters.questions_dropped();
            continue;
        };
        let peer = match core.context.identify.datagram(local, address, id) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%address, %error, "dropping a question of nobody");
                core.counters.unattributed();
                core.turned_away(&nobody(address), Kind::Dns, &Failure::Unattributed);
                continue;
            }
        };
        let (socket, core_of_task) = (Arc::clone(&socket), Arc::clone(&core));
        let Ok(room) = Arc::clone(&core.questions).try_acquire_owned() else {
            core.counters.question_limit();
            core.turned_away(&peer, Kind::Dns, &Failure::QuestionLimit);
            let busy = Message::error_msg(id, OpCode::Query, ResponseCode::ServFail);
            if let Ok(busy) = busy.to_vec() {
                // Without room in the socket the agent asks again, as after any loss.
                let _best_effort = socket.try_send_to(&busy, address);
            }
            continue;
        };
        core.spawn(async move {
            if let Some(answer) = answer(&core_of_task, &peer, &bytes, Transport::Datagram).await {
                let _best_effort = socket.send_to(&answer, address).await;
            }
            drop(room);
        });
    }
}

/// Answers questions on a connection to port 53, one after the other.
pub(crate) async fn serve_stream(core: &Core, peer: &Peer, mut agent: Wire, deadline: Instant) {
    let limits = &core.context.limits;
    for _question in 0..limits.requests_per_connection {
        let question = tokio::select! {
            biased;
            question = read_question(&mut agent) => question,
            () = core.drain.cancelled() => None,
            () = tokio::time::sleep_until(deadline) => None,
            () = tokio::time::sleep(limits.idle_timeout) => None,
        };
        let Some(question) = question else {
            return agent.close().await;
        };
        let Ok(_room) = core.questions.acquire().await else {
            return;
        };
        let Some(answer) = answer(core, peer, &question, Transport::Stream).await else {
            return agent.reset_on_close();
        };
        let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        if agent.send(&message).await.is_err() {
            return agent.reset_on_close();
        }
    }
    agent.close().await;
}

/// One message behind its length; none at the end, or where it is larger than a question is.
async fn read_question(agent: &mut Wire) -> Option<Vec<u8>> {
    let input = &mut agent.input();
    loop {
        if let Some(prefix) = input.buffer.first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*prefix));
            if !(HEADER..=QUESTION_MAX).contains(&length) {
                return None;
            }
            if input.buffer.len() >= 2 + length {
                input.buffer.advance(2);
                return Some(input.buffer.split_to(length).to_vec());
            }
        }
        if !matches!(input.fill().await, Ok(1..)) {
            return None;
        }
    }
}

/// The id of a message that has a whole header.
fn transaction(bytes: &[u8]) -> Option<u16> {
    let header = bytes.first_chunk::<HEADER>()?;
    let [high, low, ..] = *header;
    Some(u16::from_be_bytes([high, low]))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Datagram,
    Stream,
}

/// What a message is.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A question, or another request.
    Question(Message),
    /// Something that cannot be read, and what is to be said to that.
    Malformed(Message),
    /// An answer, or not even a header: an answer to that would be a loop, or to nobody.
    Nothing,
}

impl Asked {
    /// Reads a message of whatever length.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let message = Some(bytes).filter(|it| it.len() <= QUESTION_MAX);
        match message.map(Message::from_vec) {
            Some(Ok(it)) if it.metadata.message_type == MessageType::Query => Self::Question(it),
            Some(Ok(_answer)) => Self::Nothing,
            Some(Err(_)) | None => match (transaction(bytes), bytes.get(2)) {
                (Some(id), Some(flags)) if flags & 0x80 == 0 => {
                    let code = ResponseCode::FormErr;
                    Self::Malformed(Message::error_msg(id, OpCode::Query, code))
                }
                _answer_or_less => Self::Nothing,
            },
        }
    }
}

/// The answer to a message; none if it deserves none.
async fn answer(core: &Core, peer: &Peer, bytes: &[u8], over: Transport) -> Option<Vec<u8>> {
    let question = match Asked::read(bytes) {
        Asked::Question(question) => question,
        Asked::Malformed(refusal) => {
            core.counters.questions_dropped();
            return refusal.to_vec().ok();
        }
        Asked::Nothing => {
            core.counters.questions_dropped();
            return None;
        }
    };
    let response = respond(core, peer, &question).await;
    let limit = match over {
        Transport::Stream => STREAM_MAX,
        Transport::Datagram => usize::from(question.max_payload().min(DATAGRAM_MAX)),
    };
    match response.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Some(bytes),
        Ok(_) => response.truncate().to_vec().ok(),
        Err(error) => {
            tracing::error!(%error, "a DNS answer cannot be encoded");
            None
        }
    }
}

/// The answer to a question before it is decided.
pub(crate) fn begin_response(question: &Message) -> Message {
    let mut response = Message::response(question.metadata.id, question.metadata.op_code);
    response.metadata.recursion_desired = question.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&question.queries);
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_MAX);
        response.set_edns(edns);
    }
    response
}

async fn respond(core: &Core, peer: &Peer, question: &Message) -> Message {
    let mut response = begin_response(question);
    let query = match (question.metadata.op_code, question.queries.as_slice()) {
        (OpCode::Query, [query]) => query,
        (OpCode::Query, _) => {
            response.metadata.response_code = ResponseCode::FormErr;
            return response;
        }
        (_other_operation, _) => {
            response.metadata.response_code = ResponseCode::NotImp;
            return response;
        }
    };
    match decide(core, peer, query).await {
        Ok(addresses) => {
            let name = query.name();
            let record = |address| Record::from_rdata(name.clone(), TTL, RData::from(address));
            response.insert_answers(addresses.into_iter().map(record).collect());
        }
        Err(failure) => refuse(&mut response, &failure),
    }
    response
}

/// Decides one question, records that, and answers with the addresses to give.
async fn decide(core: &Core, peer: &Peer, query: &Query) -> Result<Vec<IpAddr>, Failure> {
    let policy = core.policy();
    let mut entry = Entry::open(core, &policy, peer, Kind::Dns).await?;
    let kind = query.query_type();
    entry.asks(&kind.to_string(), None);
    let name = match HostName::parse(&query.name().to_ascii()) {
        Ok(name) => name,
        Err(error) => {
            let failure = Failure::Name(error);
            entry.failed(&failure);
            return Err(failure);
        }
    };
    entry.target(&Host::Name(name.clone()), DNS_PORT);
    let beyond = match count(core, &policy, peer) {
        Ok(beyond) => beyond,
        Err(failure) => {
            entry.failed(&failure);
            return Err(failure);
        }
    };
    match addresses(core, &policy, peer, &mut entry, &name, query).await {
        Ok(addresses) => {
            if let Some(denial) = beyond {
                entry.observed(&denial);
            }
            entry.done();
            Ok(addresses)
        }
        Err(failure) => {
            entry.failed(&failure);
            Err(failure)
        }
    }
}

/// Counts one more question. Gives the refusal, where it is only observed.
fn count(core: &Core, policy: &Policy, peer: &Peer) -> Result<Option<Denial>, Failure> {
    let Some(rate) = policy.dns().rate else {
        return Ok(None);
    };
    match core.throttle.count(&peer.agent, What::Questions, rate) {
        Ok(()) => Ok(None),
        Err(wait) => {
            let denial = Denial::questions_limited(rate);
            match policy.mode() {
                Mode::Enforce => Err(Failure::Throttled { denial, wait }),
                Mode::Observe => Ok(Some(denial)),
            }
        }
    }
}

async fn addresses(
    core: &Core,
    policy: &Policy,
    peer: &Peer,
    entry: &mut Entry,
    name: &HostName,
    query: &Query,
) -> Result<Vec<IpAddr>, Failure> {
    let kind = query.query_type();
    let request = Request::Dns {
        name,
        record_type: kind.into(),
    };
    let of_kind: fn(&IpAddr) -> bool = match (query.query_class(), kind) {
        (DNSClass::IN, RecordType::A) => IpAddr::is_ipv4,
        (DNSClass::IN, RecordType::AAAA) => IpAddr::is_ipv6,
        // Allowed, but there is nothing to tell: what else there is would not be pinned.
        (_class, _kind) => {
            let grant = policy.decide(&request).granted();
            entry.granted(&grant.map_err(Failure::Denied)?);
            return Ok(Vec::new());
        }
    };
    let host = Host::Name(name.clone());
    let permit = match authorize(core, policy, entry, &request, &host, DNS_PORT).await {
        Ok(permit) => permit,
        // The name exists, which is an answer.
        Err(Failure::Denied(denial)) if denial.reason == DenyReason::NoAddress => {
            return Ok(Vec::new());
        }
        Err(failure) => return Err(failure),
    };
    let pinned = permit.addresses().iter().map(SocketAddr::ip);
    let addresses: Vec<IpAddr> = pinned.filter(of_kind).collect();
    core.remember(&peer.agent, name, &addresses);
    Ok(addresses)
}

/// Says no, and in EDNS why.
fn refuse(response: &mut Message, failure: &Failure) {
    response.metadata.response_code = match failure {
        Failure::Resolve(ResolveError::NotFound) => ResponseCode::NXDomain,
        other if other.report().refuses && other.report().blame != Blame::Us => {
            ResponseCode::Refused
        }
        _failed => ResponseCode::ServFail,
    };
    if let (Some(_), Some(edns)) = (failure.denial(), &mut response.edns) {
        let why = EdnsOption::Unknown(EXTENDED_ERROR, BLOCKED.to_vec());
        edns.options_mut().insert(why);
    }
}
