//! A TCP connection with what was read from it ahead of time.
//!
//! Holds no buffer while nothing is under way, so that idle connections cost little.

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::http1::{HeadError, scan::Scanner};
use crate::config::Limits;

/// Octets to have room for when reading.
const READ_ROOM: usize = 32 * 1024;
/// How long the other end may take for a short answer.
const SEND_TIME: Duration = Duration::from_secs(10);
/// What a closing connection may still send, so that the answer is not lost to a reset.
const LINGER_BYTES: usize = 1024 * 1024;
/// How long it may.
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A connection and its read-ahead.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

/// The reading half of a [`Wire`].
#[derive(Debug)]
pub(crate) struct Input<'a> {
    half: ReadHalf<'a>,
    /// What was read and not yet taken.
    pub(crate) buffer: &'a mut BytesMut,
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
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// Both halves, for use at the same time.
    pub(crate) fn split(&mut self) -> (Input<'_>, WriteHalf<'_>) {
        let (half, write) = self.stream.split();
        let buffer = &mut self.buffer;
        (Input { half, buffer }, write)
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
        tokio::time::timeout(SEND_TIME, self.stream.write_all(bytes)).await?
    }

    /// Whether the other end neither closed the connection nor said anything out of turn.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut octet = [0];
        let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        self.buffer.is_empty() && self.stream.try_read(&mut octet).is_err_and(nothing)
    }

    /// Makes the coming close a reset.
    pub(crate) fn reset_on_close(&self) {
        reset_on_close(&self.stream);
    }

    /// Ends the connection so that what was written last arrives: a close with unread input
    /// would be a reset, which may overtake it.
    pub(crate) async fn close(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drain = async {
            let mut left = LINGER_BYTES;
            let mut waste = vec![0; 8 * 1024];
            while let Ok(read @ 1..) = self.stream.read(&mut waste).await {
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
        loop {
            self.buffer.reserve(READ_ROOM);
            match self.half.try_read_buf(self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if self.buffer.is_empty() {
                *self.buffer = BytesMut::new();
            }
            self.half.readable().await?;
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

/// Writes two pieces as one where the socket takes them.
///
/// # Errors
/// As the socket's.
pub(crate) async fn send_both(
    output: &mut WriteHalf<'_>,
    first: &mut BytesMut,
    second: Bytes,
) -> io::Result<()> {
    let mut both = first.split().chain(second);
    output.write_all_buf(&mut both).await
}
