//! The supervisor's end of the dial path: opens what policy leaves open for a worker that it
//! does not believe, and hands over the descriptor.
//!
//! Reads messages of one fixed size and nothing else.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use rustix::net::SendFlags;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UdpSocket, UnixStream},
    sync::Semaphore,
};

use super::packet;
use crate::{policy::Policy, proxy::dial_address};

/// Octets of a request: id, kind, address, port, patience in milliseconds.
pub(crate) const REQUEST: usize = 4 + 1 + 16 + 2 + 4;
/// Octets of an answer: id, error number (0 with a descriptor).
pub(crate) const ANSWER: usize = 8;
/// Connections being made at once for one worker; beyond, requests are refused with `EAGAIN`.
const IN_FLIGHT: usize = 512;
/// Longest that one connect may take, whatever the worker asks for.
const PATIENCE_MAX: Duration = Duration::from_secs(30);
/// Octets of the largest DNS message over UDP that is passed on.
const DATAGRAM_MAX: usize = 4096;
/// Datagrams passed on for one question, either way, before the relay closes.
const DATAGRAMS: usize = 64;
/// How long a relay for one DNS question lives.
const RELAY: Duration = Duration::from_secs(30);

/// What a worker asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// Names the answer.
    pub(crate) id: u32,
    /// What for.
    pub(crate) purpose: Purpose,
    /// Where to.
    pub(crate) address: SocketAddr,
    /// How long it may take.
    pub(crate) patience: Duration,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// An upstream, over TCP.
    Upstream,
    /// A configured name server, over TCP.
    NameServer,
    /// A configured name server, over UDP: a relay that keeps the worker from other addresses.
    Datagrams,
}

impl Request {
    pub(crate) fn encode(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        let address = match self.address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let millis = u32::try_from(self.patience.as_millis()).unwrap_or(u32::MAX);
        let purpose = match self.purpose {
            Purpose::Upstream => 1,
            Purpose::NameServer => 2,
            Purpose::Datagrams => 3,
        };
        bytes[..4].copy_from_slice(&self.id.to_be_bytes());
        bytes[4] = purpose;
        bytes[5..21].copy_from_slice(&address.octets());
        bytes[21..23].copy_from_slice(&self.address.port().to_be_bytes());
        bytes[23..].copy_from_slice(&millis.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST] = bytes.try_into().ok()?;
        let (id, rest) = bytes.split_first_chunk::<4>()?;
        let (purpose, rest) = rest.split_first()?;
        let (address, rest) = rest.split_first_chunk::<16>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let millis = rest.first_chunk::<4>()?;
        let ip = Ipv6Addr::from(*address).to_canonical();
        Some(Self {
            id: u32::from_be_bytes(*id),
            purpose: match purpose {
                1 => Purpose::Upstream,
                2 => Purpose::NameServer,
                3 => Purpose::Datagrams,
                _ => return None,
            },
            address: SocketAddr::new(ip, u16::from_be_bytes(*port)),
            patience: Duration::from_millis(u32::from_be_bytes(*millis).into()),
        })
    }
}

/// What the supervisor checks requests against.
#[derive(Debug)]
pub(crate) struct Dialer {
    /// The policy in force.
    pub(crate) policy: Arc<ArcSwap<Policy>>,
    /// The gateway's own addresses.
    pub(crate) listening: Vec<SocketAddr>,
    /// The configured name servers.
    pub(crate) servers: Vec<SocketAddr>,
}

impl Dialer {
    /// Answers requests until the worker closes its end or breaks the form. Blocks; needs the
    /// runtime's handle to connect on.
    pub(crate) fn serve(self, socket: OwnedFd, runtime: &tokio::runtime::Handle) -> io::Result<()> {
        let (dialer, socket) = (Arc::new(self), Arc::new(socket));
        let room = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut buffer = [0; REQUEST];
        while let Some((length, _unasked)) = packet::receive(&*socket, &mut buffer)? {
            let request = buffer.get(..length).and_then(Request::decode);
            let request = request.ok_or(io::ErrorKind::InvalidData)?;
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                answer(&socket, request.id, Err(io::ErrorKind::WouldBlock.into()));
                continue;
            };
            let (dialer, socket) = (Arc::clone(&dialer), Arc::clone(&socket));
            runtime.spawn(async move {
                answer(&socket, request.id, dialer.open(request).await);
                drop(permit);
            });
        }
        Ok(())
    }

    async fn open(&self, request: Request) -> io::Result<OwnedFd> {
        let Request { address, .. } = request;
        let may = match request.purpose {
            Purpose::Upstream => self.policy.load().could_dial(address),
            Purpose::NameServer | Purpose::Datagrams => self.servers.contains(&address),
        };
        if !may {
            tracing::error!(%address, "refused the worker what no rule could allow");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if request.purpose == Purpose::Datagrams {
            return relay(address).await;
        }
        let patience = request.patience.min(PATIENCE_MAX);
        let stream = dial_address(address, &self.listening, patience).await?;
        Ok(stream.into_std()?.into())
    }
}

/// An answer never waits: a worker that does not read its answers loses them.
fn answer(socket: &OwnedFd, id: u32, opened: io::Result<OwnedFd>) {
    const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
    let errno = match &opened {
        Ok(_) => 0,
        Err(error) => match error.kind() {
            io::ErrorKind::PermissionDenied => rustix::io::Errno::ACCESS.raw_os_error(),
            io::ErrorKind::TimedOut => rustix::io::Errno::TIMEDOUT.raw_os_error(),
            io::ErrorKind::WouldBlock => rustix::io::Errno::AGAIN.raw_os_error(),
            _ => error.raw_os_error().unwrap_or(EIO),
        },
    };
    let mut bytes = [0; ANSWER];
    bytes[..4].copy_from_slice(&id.to_be_bytes());
    bytes[4..].copy_from_slice(&errno.to_be_bytes());
    let descriptor = opened.iter().map(OwnedFd::as_fd).collect::<Vec<_>>();
    if let Err(error) = packet::send(socket, &bytes, &descriptor, SendFlags::DONTWAIT) {
        tracing::warn!(%error, "the worker does not take what it asked for");
    }
}

/// A socket whose messages go to this name server and back, and nowhere else.
async fn relay(server: SocketAddr) -> io::Result<OwnedFd> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let outside = UdpSocket::bind(any).await?;
    outside.connect(server).await?;
    let (ours, theirs) = packet::pair()?;
    let inside = std::os::unix::net::UnixStream::from(ours);
    inside.set_nonblocking(true)?;
    // One read or write is one message: the socket keeps them apart.
    let (mut asked, mut answers) = UnixStream::from_std(inside)?.into_split();
    tokio::spawn(tokio::time::timeout(RELAY, async move {
        let (mut question, mut reply) = (vec![0; DATAGRAM_MAX], vec![0; DATAGRAM_MAX]);
        for _ in 0..DATAGRAMS {
            let passed = tokio::select! {
                read = asked.read(&mut question) => match read {
                    Ok(length @ 1..) => {
                        outside.send(question.get(..length).unwrap_or_default()).await.map(drop)
                    }
                    Ok(0) | Err(_) => return,
                },
                received = outside.recv(&mut reply) => match received {
                    Ok(length) => answers.write_all(reply.get(..length).unwrap_or_default()).await,
                    Err(error) => Err(error),
                },
            };
            if passed.is_err() {
                return;
            }
        }
    }));
    Ok(theirs)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, UdpSocket as StdUdpSocket},
        thread::JoinHandle,
    };

    use super::*;
    use crate::worker::DialPath;

    /// A dialer on a thread of its own, and the worker's end.
    struct Rig {
        path: DialPath,
        served: JoinHandle<io::Result<()>>,
        raw: OwnedFd,
    }

    fn rig(allowed: SocketAddr, listening: SocketAddr, server: SocketAddr) -> Rig {
        let policy = Policy::parse(
            "test",
            &format!(
                "schema = 1\nagent = \"a\"\n[[egress]]\nid = \"a\"\n\
                 hosts = [\"127.0.0.1\"]\nports = [{}, {}]\nprivate = true\n",
                allowed.port(),
                listening.port(),
            ),
        )
        .unwrap();
        let dialer = Dialer {
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            listening: vec![listening],
            servers: vec![server],
        };
        let (ours, theirs) = packet::pair().unwrap();
        let runtime = tokio::runtime::Handle::current();
        Rig {
            served: std::thread::spawn(move || dialer.serve(ours, &runtime)),
            raw: theirs.try_clone().unwrap(),
            path: DialPath::new(theirs).unwrap(),
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test(flavor = "multi_thread")]
    async fn opens_what_a_rule_leaves_open_and_nothing_else() {
        let (upstream, other, own) = (
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let address = upstream.local_addr().unwrap();
        let rig = rig(
            address,
            own.local_addr().unwrap(),
            "127.0.0.1:1".parse().unwrap(),
        );
        let opened = rig.path.open(Purpose::Upstream, address, PATIENCE).await;
        let connection = std::net::TcpStream::from(opened.unwrap());
        let (_, peer) = upstream.accept().unwrap();
        assert_eq!(connection.local_addr().unwrap(), peer);

        let other_address = other.local_addr().unwrap();
        for (purpose, address, errno) in [
            (Purpose::Upstream, other_address, rustix::io::Errno::ACCESS),
            (Purpose::NameServer, address, rustix::io::Errno::ACCESS),
            (Purpose::Datagrams, address, rustix::io::Errno::ACCESS),
            (
                Purpose::Upstream,
                own.local_addr().unwrap(),
                rustix::io::Errno::BUSY,
            ),
            (
                Purpose::Upstream,
                "169.254.169.254:80".parse().unwrap(),
                rustix::io::Errno::ACCESS,
            ),
        ] {
            let refused = rig.path.open(purpose, address, PATIENCE).await.unwrap_err();
            assert_eq!(
                refused.raw_os_error(),
                Some(errno.raw_os_error()),
                "{address}"
            );
        }
        for untouched in [other, own] {
            untouched.set_nonblocking(true).unwrap();
            assert_eq!(
                untouched.accept().unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn datagrams_go_to_the_name_server_and_back() {
        let server = StdUdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let none = "127.0.0.1:1".parse().unwrap();
        let rig = rig(none, "127.0.0.1:2".parse().unwrap(), address);
        let relay = rig
            .path
            .open(Purpose::Datagrams, address, PATIENCE)
            .await
            .unwrap();
        packet::send(&relay, b"question", &[], SendFlags::empty()).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer.get(..length), Some(&b"question"[..]));
        server.send_to(b"answer", from).unwrap();
        let (length, _) = packet::receive(&relay, &mut buffer).unwrap().unwrap();
        assert_eq!(buffer.get(..length), Some(&b"answer"[..]));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_message_of_another_size_or_kind_ends_the_path() {
        let none: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let own: SocketAddr = "127.0.0.1:2".parse().unwrap();
        for message in [vec![1; REQUEST - 1], vec![1; REQUEST + 1], vec![9; REQUEST]] {
            let rig = rig(none, own, none);
            packet::send(&rig.raw, &message, &[], SendFlags::empty()).unwrap();
            let ended = rig.served.join().unwrap().unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::InvalidData);
            let refused = rig.path.open(Purpose::Upstream, none, PATIENCE).await;
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }

    /// A listener on which no further connection is answered.
    fn silent() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
        let stream = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let listener = stream().unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        loop {
            let one = stream().unwrap();
            let full = one.connect_timeout(&address, Duration::from_millis(200));
            if full.is_err() {
                return (listener, waiting, address.as_socket().unwrap());
            }
            waiting.push(one);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn so_many_connections_are_made_at_once_and_no_more() {
        let (_listener, _waiting, address) = silent();
        let none: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let rig = rig(address, none, none);
        let ask = |id: usize| {
            let request = Request {
                id: 1_000_000 + u32::try_from(id).unwrap(),
                purpose: Purpose::Upstream,
                address,
                patience: PATIENCE,
            };
            packet::send(&rig.raw, &request.encode(), &[], SendFlags::empty()).unwrap();
        };
        (1..IN_FLIGHT).for_each(ask);
        let short = Duration::from_millis(50);
        let last = rig.path.open(Purpose::Upstream, address, short).await;
        assert_eq!(last.unwrap_err().raw_os_error(), Some(TIMEDOUT));
        ask(IN_FLIGHT);
        let refused = rig.path.open(Purpose::Upstream, address, PATIENCE).await;
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(AGAIN));
    }

    const TIMEDOUT: i32 = rustix::io::Errno::TIMEDOUT.raw_os_error();
    const AGAIN: i32 = rustix::io::Errno::AGAIN.raw_os_error();

    #[test]
    fn requests_read_back() {
        for address in ["192.0.2.1:443", "[2001:db8::1]:65535"] {
            let request = Request {
                id: u32::MAX,
                purpose: Purpose::Datagrams,
                address: address.parse().unwrap(),
                patience: Duration::from_millis(1500),
            };
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    }
}
