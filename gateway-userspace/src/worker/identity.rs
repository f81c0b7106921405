//! Who is on the line, told to the worker by the supervisor, which alone can ask the kernel.
//!
//! The worker hands over the accepted connection's descriptor, or a question's addresses, and
//! waits for the answer. Requests have one fixed size.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::{SendFlags, sockopt};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::packet;
use crate::{
    identity::{Identify, LocalEnd, Peer, Process, Unattributed},
    kernel::KernelIdentity,
    names::{AgentId, OrigDst, PeerAddr},
};

/// Octets of a request: id, kind, network namespace, peer, own address, transaction.
const REQUEST: usize = 4 + 1 + 8 + 18 + 18 + 2;
/// Octets of the largest answer.
const ANSWER: usize = 4 << 10;
/// How long the worker waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Processes that are kept for the records of their connections.
const KNOWN: usize = 1 << 16;

/// What a worker asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Question {
    id: u32,
    /// None for a connection, whose descriptor goes with it.
    datagram: Option<(LocalEnd, u16)>,
    peer: SocketAddr,
}

impl Question {
    fn encode(self) -> [u8; REQUEST] {
        let none = SocketAddr::from(([0; 4], 0));
        let (local, transaction) = self.datagram.unwrap_or((
            LocalEnd {
                netns: 0,
                address: none,
            },
            0,
        ));
        let parts: [&[u8]; 6] = [
            &self.id.to_be_bytes(),
            &[u8::from(self.datagram.is_some())],
            &local.netns.to_be_bytes(),
            &encode_address(self.peer),
            &encode_address(local.address),
            &transaction.to_be_bytes(),
        ];
        let mut bytes = [0; REQUEST];
        bytes
            .iter_mut()
            .zip(parts.into_iter().flatten())
            .for_each(|(to, from)| *to = *from);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST] = bytes.try_into().ok()?;
        let (id, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first()?;
        let (netns, rest) = rest.split_first_chunk::<8>()?;
        let (peer, rest) = rest.split_first_chunk::<18>()?;
        let (local, rest) = rest.split_first_chunk::<18>()?;
        let transaction = rest.first_chunk::<2>()?;
        let local = LocalEnd {
            netns: u64::from_be_bytes(*netns),
            address: decode_address(local)?,
        };
        Some(Self {
            id: u32::from_be_bytes(*id),
            datagram: match kind {
                0 => None,
                1 => Some((local, u16::from_be_bytes(*transaction))),
                _ => return None,
            },
            peer: decode_address(peer)?,
        })
    }
}

fn encode_address(address: SocketAddr) -> [u8; 18] {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

fn decode_address(bytes: &[u8; 18]) -> Option<SocketAddr> {
    let (ip, port) = bytes.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(*port.first_chunk::<2>()?);
    Some(SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), port))
}

/// What the supervisor answers, behind the id.
#[derive(Serialize, Deserialize)]
enum Answer {
    Peer {
        process: Option<Arc<Process>>,
        original: Option<SocketAddr>,
    },
    NoFlow,
    Kernel(String),
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Identities {
    kernel: Arc<KernelIdentity>,
    known: Mutex<Known>,
}

/// Who was named to workers, by socket cookie; the oldest are forgotten first.
#[derive(Debug, Default)]
struct Known {
    processes: HashMap<u64, Arc<Process>>,
    order: VecDeque<u64>,
}

impl Known {
    fn remember(&mut self, process: &Arc<Process>) {
        if self
            .processes
            .insert(process.cookie, Arc::clone(process))
            .is_none()
        {
            self.order.push_back(process.cookie);
        }
        while self.order.len() > KNOWN {
            if let Some(oldest) = self.order.pop_front() {
                self.processes.remove(&oldest);
            }
        }
    }
}

impl Identities {
    pub(crate) fn new(kernel: Arc<KernelIdentity>) -> Self {
        Self {
            kernel,
            known: Mutex::default(),
        }
    }

    /// The process that was named for the socket of this cookie.
    pub(crate) fn known(&self, cookie: u64) -> Option<Arc<Process>> {
        self.lock().processes.get(&cookie).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers until the worker closes its end or breaks the form. Blocks.
    pub(crate) fn serve(&self, socket: &OwnedFd) -> io::Result<()> {
        serve(socket, |question, descriptor| {
            let peer = match (question.datagram, descriptor) {
                (None, Some(connection)) => self.kernel.accepted(&connection, question.peer),
                (Some((local, transaction)), None) => {
                    self.kernel.datagram(local, question.peer, transaction)
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
            if let Ok(peer) = &peer
                && let Some(process) = &peer.process
            {
                self.lock().remember(process);
            }
            Ok(peer)
        })
    }
}

fn serve(
    socket: &OwnedFd,
    mut identify: impl FnMut(&Question, Option<OwnedFd>) -> io::Result<Result<Peer, Unattributed>>,
) -> io::Result<()> {
    let mut buffer = [0; REQUEST];
    while let Some((length, descriptors)) = packet::receive_all(socket, &mut buffer)? {
        let question = buffer.get(..length).and_then(Question::decode);
        let question = question.ok_or(io::ErrorKind::InvalidData)?;
        let answer = match descriptors {
            Ok(mut descriptors) => {
                let connection = descriptors.pop();
                if !descriptors.is_empty() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                identify(&question, connection)?
            }
            Err(no_room) => {
                tracing::warn!(error = %no_room, "taking a connection to say whose it is");
                Err(Unattributed::Kernel(no_room.to_string()))
            }
        };
        let answer = match answer {
            Ok(peer) => Answer::Peer {
                process: peer.process.as_deref().map(outline).map(Arc::new),
                original: peer.original.map(|original| original.0),
            },
            Err(Unattributed::NoFlow) => Answer::NoFlow,
            Err(Unattributed::Kernel(error)) => Answer::Kernel(error),
        };
        let mut bytes = question.id.to_be_bytes().to_vec();
        serde_json::to_writer(&mut bytes, &answer)?;
        // A worker that does not read its answers does without.
        if let Err(error) = packet::send(socket, &bytes, &[], SendFlags::DONTWAIT) {
            tracing::warn!(%error, "the worker does not take whom it asked for");
        }
    }
    Ok(())
}

/// What a worker needs to name a process in its records; the supervisor puts in the rest, which
/// may be long.
fn outline(process: &Process) -> Process {
    Process {
        comm: process.comm.clone(),
        exe: None,
        exe_source: None,
        exec_id: None,
        parents: Vec::new(),
        ..*process
    }
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct AskIdentity {
    agent: AgentId,
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    last: u32,
    buffer: Vec<u8>,
}

impl AskIdentity {
    /// Asks over this socket.
    pub(super) fn new(agent: AgentId, socket: OwnedFd) -> io::Result<Self> {
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        Ok(Self {
            agent,
            line: Mutex::new(Line {
                socket,
                last: 0,
                buffer: vec![0; ANSWER],
            }),
        })
    }

    fn ask(
        &self,
        connection: Option<&TcpStream>,
        datagram: Option<(LocalEnd, u16)>,
        peer: SocketAddr,
    ) -> Result<Peer, Unattributed> {
        // One at a time, and off the runtime's own thread while it waits.
        let answer = tokio::task::block_in_place(|| {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.ask(connection, datagram, peer)
        });
        match answer {
            Ok(Answer::Peer { process, original }) => Ok(Peer {
                agent: self.agent.clone(),
                address: PeerAddr(peer),
                process,
                original: original.map(OrigDst),
            }),
            Ok(Answer::NoFlow) => Err(Unattributed::NoFlow),
            Ok(Answer::Kernel(error)) => Err(Unattributed::Kernel(error)),
            Err(error) => Err(Unattributed::Kernel(format!(
                "asking the supervisor: {error}"
            ))),
        }
    }
}

impl Line {
    fn ask(
        &mut self,
        connection: Option<&TcpStream>,
        datagram: Option<(LocalEnd, u16)>,
        peer: SocketAddr,
    ) -> io::Result<Answer> {
        self.last = self.last.wrapping_add(1);
        let question = Question {
            id: self.last,
            datagram,
            peer,
        };
        let descriptors: Vec<_> = connection.iter().map(|stream| stream.as_fd()).collect();
        let none = SendFlags::empty();
        packet::send(&self.socket, &question.encode(), &descriptors, none)?;
        let end = Instant::now() + PATIENCE;
        // Answers to what was given up before are passed over.
        while Instant::now() < end {
            let received = packet::receive(&self.socket, &mut self.buffer)?;
            let (length, _) = received.ok_or(io::ErrorKind::BrokenPipe)?;
            let answer = self.buffer.get(..length).unwrap_or_default();
            if let Some((id, rest)) = answer.split_first_chunk::<4>()
                && u32::from_be_bytes(*id) == self.last
            {
                return Ok(serde_json::from_slice(rest)?);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}

impl Identify for AskIdentity {
    fn stream(&self, stream: &TcpStream, peer: SocketAddr) -> Result<Peer, Unattributed> {
        self.ask(Some(stream), None, peer)
    }

    fn datagram(
        &self,
        socket: LocalEnd,
        peer: SocketAddr,
        transaction: u16,
    ) -> Result<Peer, Unattributed> {
        self.ask(None, Some((socket, transaction)), peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(id: u32) -> Question {
        Question {
            id,
            datagram: Some((
                LocalEnd {
                    netns: 7,
                    address: "127.0.0.1:53".parse().unwrap(),
                },
                9,
            )),
            peer: "[2001:db8::1]:1".parse().unwrap(),
        }
    }

    #[test]
    fn questions_read_back() {
        for one in [
            question(u32::MAX),
            Question {
                datagram: None,
                ..question(0)
            },
        ] {
            assert_eq!(Question::decode(&one.encode()), Some(one));
        }
    }

    #[test]
    fn what_is_no_question_ends_the_line() {
        let good = question(1).encode();
        let mut kind = good;
        kind[4] = 2;
        for message in [&good[1..], &[&good[..], &[0]].concat(), &kind] {
            let (ours, theirs) = packet::pair().unwrap();
            packet::send(&theirs, message, &[], SendFlags::empty()).unwrap();
            let ended = serve(&ours, |_, _| unreachable!("nothing was asked"));
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        // More descriptors than one.
        let (ours, theirs) = packet::pair().unwrap();
        let two = [theirs.as_fd(), theirs.as_fd()];
        packet::send(&theirs, &good, &two, SendFlags::empty()).unwrap();
        let ended = serve(&ours, |_, _| unreachable!("nothing was asked"));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_late_answer_is_not_taken_for_another() {
        let (ours, theirs) = packet::pair().unwrap();
        let ask = AskIdentity::new(AgentId::parse("a").unwrap(), theirs).unwrap();
        // The answer to a question that was never asked, as one that was given up.
        let mut stale = 77_u32.to_be_bytes().to_vec();
        serde_json::to_writer(
            &mut stale,
            &Answer::Peer {
                process: None,
                original: None,
            },
        )
        .unwrap();
        packet::send(&ours, &stale, &[], SendFlags::empty()).unwrap();
        let served = std::thread::spawn(move || {
            serve(&ours, |_, _| Ok(Err(Unattributed::NoFlow))).unwrap();
        });
        let local = question(0).datagram.unwrap().0;
        let told = ask.datagram(local, question(0).peer, 9);
        assert!(matches!(told, Err(Unattributed::NoFlow)));
        drop(ask);
        served.join().unwrap();
    }

    #[test]
    fn the_oldest_processes_are_forgotten() {
        let mut known = Known::default();
        for cookie in 0..=KNOWN as u64 {
            known.remember(&Arc::new(Process {
                pid: 1,
                tid: 1,
                uid: 1,
                comm: String::new(),
                exe: None,
                exe_source: None,
                exec_id: None,
                parents: Vec::new(),
                cgroup: 1,
                cookie,
            }));
        }
        assert_eq!(known.processes.len(), KNOWN);
        assert!(!known.processes.contains_key(&0));
        assert!(known.processes.contains_key(&(KNOWN as u64)));
    }
}
