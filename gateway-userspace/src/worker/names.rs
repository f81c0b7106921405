//! Name servers, over descriptors that the supervisor hands out.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use tokio::net::{TcpStream, UnixStream};

use super::{DialPath, Purpose};

/// How long opening a way to a name server may take where the resolver has no opinion.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens ways to name servers.
#[derive(Clone)]
pub(crate) struct NameServers {
    path: DialPath,
    handle: TokioHandle,
}

impl NameServers {
    pub(crate) fn new(path: DialPath) -> Self {
        Self {
            path,
            handle: TokioHandle::default(),
        }
    }
}

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for NameServers {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Relay;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _from: Option<SocketAddr>,
        patience: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let path = self.path.clone();
        let patience = patience.unwrap_or(PATIENCE);
        Box::pin(async move {
            let opened = path.open(Purpose::NameServer, server, patience).await?;
            let stream = TcpStream::from_std(std::net::TcpStream::from(opened))?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, _from: SocketAddr, server: SocketAddr) -> Opening<Relay> {
        let path = self.path.clone();
        Box::pin(async move {
            let opened = path.open(Purpose::Datagrams, server, PATIENCE).await?;
            let socket = std::os::unix::net::UnixStream::from(opened);
            socket.set_nonblocking(true)?;
            let socket = UnixStream::from_std(socket)?;
            Ok(Relay { socket, server })
        })
    }
}

/// Messages to and from one name server.
#[derive(Debug)]
pub(crate) struct Relay {
    /// One read or write is one message: the socket keeps them apart.
    socket: UnixStream,
    server: SocketAddr,
}

impl DnsUdpSocket for Relay {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            match self.socket.try_read(buffer) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received.map(|length| (length, self.server))),
            }
        }
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        message: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        if to != self.server {
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        loop {
            ready!(self.socket.poll_write_ready(context))?;
            match self.socket.try_write(message) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}
