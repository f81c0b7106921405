//! The receiving side, outside every boundary: what arrived here did get out.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::{
    deadline::{patience, wait_for},
    netns::Netns,
};

/// A TCP listener and a UDP socket on the same port of all addresses of a namespace. Both only
/// look when they are asked to.
#[derive(Debug)]
pub struct Receiver {
    tcp: TcpListener,
    udp: UdpSocket,
    port: u16,
}

impl Receiver {
    /// Listens in this namespace, on any port if `port` is 0.
    ///
    /// # Errors
    /// If the port is taken.
    pub fn listen(namespace: &Netns, port: u16) -> Result<Self> {
        namespace
            .run(|| {
                let tcp = socket(Type::STREAM, port)?;
                tcp.listen(64)?;
                let tcp = TcpListener::from(tcp);
                let port = tcp.local_addr()?.port();
                let udp = socket(Type::DGRAM, port)?.into();
                Ok::<_, io::Error>(Self { tcp, udp, port })
            })
            .with_context(|| format!("listening on port {port}"))
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The next connection, if one has arrived.
    ///
    /// # Errors
    /// If the listener fails.
    pub fn connection(&self) -> io::Result<Option<(TcpStream, IpAddr)>> {
        none_yet(
            self.tcp
                .accept()
                .map(|(stream, peer)| (stream, canonical(peer))),
        )
    }

    /// The sender of the next datagram, if one has arrived.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn datagram(&self) -> io::Result<Option<(Vec<u8>, IpAddr)>> {
        let mut buffer = [0; 2048];
        let received = self.udp.recv_from(&mut buffer);
        none_yet(received.map(|(length, peer)| {
            (
                buffer.iter().take(length).copied().collect(),
                canonical(peer),
            )
        }))
    }

    /// Answers one byte on a connection, with patience for the one it answers.
    ///
    /// # Errors
    /// If none comes.
    pub fn answer(&self, connection: &mut TcpStream) -> io::Result<()> {
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(patience()))?;
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        connection.write_all(&byte)
    }

    /// Whether nothing has arrived. A connection and a datagram of somebody unconfined in
    /// `from` are sent after whatever may be under way, and must be the first that arrive: so
    /// this also shows that something could have.
    ///
    /// # Errors
    /// If those do not arrive.
    pub fn is_untouched(&self, from: &Netns, at: IpAddr) -> Result<bool> {
        let to = SocketAddr::new(at, self.port);
        let (control, own) = from.run(|| {
            let stream = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            stream.connect_timeout(&to.into(), patience())?;
            let datagram = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
            datagram.send_to(b"control", &to.into())?;
            let own = stream.local_addr()?.as_socket();
            Ok::<_, io::Error>((stream, own))
        })?;
        let (first, _) = wait_for("the control's connection", || Ok(self.connection()?))?;
        let (bytes, _) = wait_for("the control's datagram", || Ok(self.datagram()?))?;
        let own = own.context("the control's address")?;
        drop(control);
        Ok(first.peer_addr()?.port() == own.port() && bytes == b"control")
    }
}

fn socket(kind: Type, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn none_yet<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// Both loopback addresses.
pub const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
