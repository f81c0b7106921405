//! Sockets of the upstream that nothing may reach, and the proof that they could be reached.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::network;

/// The port of a database, for TCP.
const DATABASE: u16 = 5432;
/// The DNS server's, and any other, for UDP.
const DATAGRAMS: [u16; 2] = [53, 9999];
/// How long the control may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// What the control sends.
const CONTROL: &[u8] = b"control";

/// The upstream's silent sockets.
pub(super) struct Receivers {
    tcp: TcpListener,
    udp: Vec<UdpSocket>,
}

impl Receivers {
    /// Opens them in this thread's namespace.
    pub(super) fn open() -> Result<Self> {
        let any = Ipv4Addr::UNSPECIFIED;
        let tcp = TcpListener::bind((any, DATABASE)).context("listening for TCP")?;
        let udp = DATAGRAMS.map(|port| UdpSocket::bind((any, port)).context("listening for UDP"));
        Ok(Self {
            tcp,
            udp: udp.into_iter().collect::<Result<_>>()?,
        })
    }

    /// What reached them, each in words.
    ///
    /// A control is sent last, from outside any agent, and must be received: it shows that the
    /// way is open, and what came before it lies before it in the queue.
    pub(super) fn arrived(&self) -> Result<Vec<String>> {
        let mut arrived = Vec::new();
        for (socket, port) in self.udp.iter().zip(DATAGRAMS) {
            let control = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the UDP control")?;
            control
                .send_to(CONTROL, (network::UPSTREAM, port))
                .context("sending the UDP control")?;
            socket
                .set_read_timeout(Some(DEADLINE))
                .context("setting a deadline")?;
            let own = control
                .local_addr()
                .context("the UDP control's address")?
                .port();
            loop {
                let mut bytes = [0; 2048];
                let (_, peer) = socket
                    .recv_from(&mut bytes)
                    .context("the UDP control is lost")?;
                if peer.port() == own {
                    break;
                }
                arrived.push(format!("a datagram to port {port} from {peer}"));
            }
        }
        let database = SocketAddr::from((network::UPSTREAM, DATABASE));
        let control = TcpStream::connect_timeout(&database, DEADLINE).context("the TCP control")?;
        let own = control.local_addr().context("the TCP control's address")?;
        self.tcp
            .set_nonblocking(true)
            .context("polling the listener")?;
        loop {
            match self.tcp.accept() {
                Ok((_, peer)) if peer == own => break,
                Ok((_, peer)) => arrived.push(format!("a connection to {DATABASE} from {peer}")),
                Err(error) => bail!("the TCP control is lost: {error}"),
            }
        }
        Ok(arrived)
    }
}
