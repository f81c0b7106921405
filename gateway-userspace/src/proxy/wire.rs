//! A connection, plain or in TLS, with what was read from it ahead of time.
//!
//! Holds no buffer while nothing is under way, so that idle connections cost little.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf},
    net::{TcpStream, tcp},
};
use tokio_rustls::TlsStream;

use super::{
    http1::{HeadError, scan::Scanner},
    pipe::{Pipe, Prefixed},
};
use crate::config::Limits;

/// Octets to have room for when reading.
const READ_ROOM: usize = 32 * 1024;
/// How long the other end may take for a short answer.
const SEND_TIME: Duration = Duration::from_secs(10);
/// What a closing connection may still send, so that the answer is not lost to a reset.
const LINGER_BYTES: usize = 1024 * 1024;
/// How long it may.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Octets of a TLS record.
const RECORD: usize = 16 * 1024;

/// A connection and its read-ahead.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    buffer: BytesMut,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<Prefixed>>),
}

/// The reading half of a [`Wire`].
#[derive(Debug)]
pub(crate) struct Input<'a> {
    half: ReadHalf<'a>,
    /// What was read and not yet taken.
    pub(crate) buffer: &'a mut BytesMut,
}

#[derive(Debug)]
enum ReadHalf<'a> {
    Plain(tcp::ReadHalf<'a>),
    Tls(tokio::io::ReadHalf<&'a mut TlsStream<Prefixed>>),
}

/// The writing half of a [`Wire`]. What was sent is on its way when a call returns.
#[derive(Debug)]
pub(crate) struct Output<'a>(WriteHalf<'a>);

#[derive(Debug)]
enum WriteHalf<'a> {
    Plain(tcp::WriteHalf<'a>),
    Tls(tokio::io::WriteHalf<&'a mut TlsStream<Prefixed>>),
}

/// Why no head came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoHead {
    /// The connection ended before its first octet.
    #[error("the connection ended")]
    Closed,
    /// The connection ended inside it.
    #[error("the connection ended inside a message head")]
    Truncated,
    /// It did not come in time.
    #[error("the message head did not come in time")]
    Slow,
    /// It is not one.
    #[error(transparent)]
    Malformed(#[from] HeadError),
}

impl Wire {
    /// Takes over a connection.
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Heads and bodies are written whole; waiting for more helps nobody. A socket that
        // refuses this is about to fail in a better place.
        let _best_effort = stream.set_nodelay(true);
        Self {
            stream: Stream::Plain(stream),
            buffer: BytesMut::new(),
        }
    }

    /// Takes over a connection whose TLS handshake is done.
    pub(crate) fn secured(stream: TlsStream<Prefixed>) -> Self {
        Self {
            stream: Stream::Tls(Box::new(stream)),
            buffer: BytesMut::new(),
        }
    }

    /// The connection for a reader of its own, read-ahead included.
    pub(crate) fn into_pipe(self) -> Pipe {
        match self.stream {
            Stream::Plain(stream) => Pipe::Plain(Prefixed::new(self.buffer, stream)),
            Stream::Tls(stream) => Pipe::Tls(self.buffer, stream),
        }
    }

    /// The TCP connection underneath, with the read-ahead, for a TLS handshake.
    ///
    /// # Errors
    /// If there is TLS already.
    pub(crate) fn into_prefixed(self) -> io::Result<Prefixed> {
        match self.stream {
            Stream::Plain(stream) => Ok(Prefixed::new(self.buffer, stream)),
            Stream::Tls(_) => Err(io::Error::other("TLS within TLS")),
        }
    }

    /// Both halves, for use at the same time.
    pub(crate) fn split(&mut self) -> (Input<'_>, Output<'_>) {
        let buffer = &mut self.buffer;
        let (half, write) = match &mut self.stream {
            Stream::Plain(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Plain(read), WriteHalf::Plain(write))
            }
            Stream::Tls(stream) => {
                let (read, write) = tokio::io::split(&mut **stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        };
        (Input { half, buffer }, Output(write))
    }

    /// The reading half.
    pub(crate) fn input(&mut self) -> Input<'_> {
        self.split().0
    }

    /// Writes a short answer of the gateway's own, for which there is usually room.
    ///
    /// # Errors
    /// As the socket's, and when the other end takes nothing.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        tokio::time::timeout(SEND_TIME, self.split().1.send(bytes)).await?
    }

    /// Whether the other end neither closed the connection nor said anything out of turn.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut octet = [0];
        if !self.buffer.is_empty() {
            return false;
        }
        match &mut self.stream {
            Stream::Plain(stream) => {
                let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
                stream.try_read(&mut octet).is_err_and(nothing)
            }
            // Session tickets may have come, which are not said to anybody.
            Stream::Tls(stream) => {
                let mut context = Context::from_waker(Waker::noop());
                let mut space = ReadBuf::new(&mut octet);
                Pin::new(stream.as_mut())
                    .poll_read(&mut context, &mut space)
                    .is_pending()
            }
        }
    }

    /// Makes the coming close a reset.
    pub(crate) fn reset_on_close(&self) {
        match &self.stream {
            Stream::Plain(stream) => reset_on_close(stream),
            Stream::Tls(stream) => reset_on_close(stream.get_ref().0.get_ref()),
        }
    }

    /// Ends the connection so that what was written last arrives: a close with unread input
    /// would be a reset, which may overtake it.
    pub(crate) async fn close(mut self) {
        let shut = tokio::time::timeout(SEND_TIME, self.split().1.shutdown()).await;
        if !matches!(shut, Ok(Ok(()))) {
            return;
        }
        let stream = match &mut self.stream {
            Stream::Plain(stream) => stream,
            // Nobody reads what comes, so it need not be opened.
            Stream::Tls(stream) => stream.get_mut().0.get_mut(),
        };
        let drain = async {
            let mut left = LINGER_BYTES;
            let mut waste = vec![0; 8 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut waste).await {
                left = left.saturating_sub(read);
                if left == 0 {
                    return;
                }
            }
        };
        let _either_way = tokio::time::timeout(LINGER_TIME, drain).await;
    }
}

/// Makes the coming close of a connection a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    // Where it fails the connection is gone already.
    let _best_effort = stream.set_zero_linger();
}

impl Input<'_> {
    /// Reads at least one octet more; 0 means that no more will come.
    ///
    /// # Errors
    /// As the socket's.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        let half = match &mut self.half {
            ReadHalf::Plain(half) => half,
            ReadHalf::Tls(half) => return fill_opened(half, self.buffer).await,
        };
        loop {
            self.buffer.reserve(READ_ROOM);
            match half.try_read_buf(self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.buffer.is_empty() {
                *self.buffer = BytesMut::new();
            }
            half.readable().await?;
        }
    }

    /// Waits for the first octet of something. False if none will come, or not in time.
    pub(crate) async fn begins(&mut self, within: Duration) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        matches!(tokio::time::timeout(within, self.fill()).await, Ok(Ok(1..)))
    }

    /// Reads a head with its empty line. Without a time limit of its own.
    ///
    /// # Errors
    /// [`NoHead`] if there is none, or it is too large or malformed.
    pub(crate) async fn head(&mut self, limits: &Limits) -> Result<Bytes, NoHead> {
        let mut scanner = Scanner::default();
        loop {
            if let Some(length) = scanner.scan(self.buffer, limits.head_bytes)? {
                return Ok(self.buffer.split_to(length).freeze());
            }
            match self.fill().await {
                Ok(1..) => {}
                Ok(0) | Err(_) if self.buffer.is_empty() => return Err(NoHead::Closed),
                Ok(0) | Err(_) => return Err(NoHead::Truncated),
            }
        }
    }

    /// Reads a head within the time that a head may take.
    ///
    /// # Errors
    /// As [`Self::head`], and when it takes too long.
    pub(crate) async fn head_in_time(&mut self, limits: &Limits) -> Result<Bytes, NoHead> {
        tokio::time::timeout(limits.head_timeout, self.head(limits))
            .await
            .unwrap_or(Err(NoHead::Slow))
    }
}

/// Reads what a record held, with no buffer while there is none.
async fn fill_opened(
    half: &mut tokio::io::ReadHalf<&mut TlsStream<Prefixed>>,
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    if buffer.is_empty() {
        *buffer = BytesMut::new();
    }
    poll_fn(|context| {
        let mut room = [MaybeUninit::uninit(); RECORD];
        let mut space = ReadBuf::uninit(&mut room);
        let read = Pin::new(&mut *half).poll_read(context, &mut space);
        read.map_ok(|()| {
            buffer.extend_from_slice(space.filled());
            space.filled().len()
        })
    })
    .await
}

impl Output<'_> {
    /// Writes it all.
    ///
    /// # Errors
    /// As the socket's.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            WriteHalf::Plain(half) => half.write_all(bytes).await,
            WriteHalf::Tls(half) => {
                half.write_all(bytes).await?;
                half.flush().await
            }
        }
    }

    /// Writes two pieces as one where the socket takes them.
    ///
    /// # Errors
    /// As the socket's.
    pub(crate) async fn send_both(
        &mut self,
        first: &mut BytesMut,
        second: Bytes,
    ) -> io::Result<()> {
        let mut both = first.split().chain(second);
        match &mut self.0 {
            WriteHalf::Plain(half) => half.write_all_buf(&mut both).await,
            WriteHalf::Tls(half) => {
                half.write_all_buf(&mut both).await?;
                half.flush().await
            }
        }
    }

    /// Says that no more will come.
    ///
    /// # Errors
    /// As the socket's.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        match &mut self.0 {
            WriteHalf::Plain(half) => half.shutdown().await,
            WriteHalf::Tls(half) => half.shutdown().await,
        }
    }
}
