//! Passes a message body on, in constant memory, from one framing to the same or another.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};

use super::{
    activity::{Activity, End},
    failure::Failure,
    http1::{
        chunked::{self, ChunkError, Decoder, Step},
        fields::Fields,
        framing::Body,
        response::Coding,
    },
    wire::{Input, Output},
};
use crate::{
    config::Limits,
    inspect::{Events, Inspector},
};

/// Why a body did not get through.
#[derive(Debug)]
pub(crate) enum RelayError {
    /// The sender's connection broke or ended too early.
    Source,
    /// The receiver's connection broke.
    Sink,
    /// The body is not what its framing says.
    Malformed(ChunkError),
    /// It is refused for what it says. The receiver was told.
    Refused(Box<Failure>),
}

/// What is left of a body to be read.
#[derive(Debug)]
enum Rest {
    Exactly(u64),
    Chunked(Decoder),
    UntilClose,
}

impl Rest {
    fn of(body: Body, limits: &Limits) -> Self {
        match body {
            Body::Empty => Self::Exactly(0),
            Body::Exactly(length) => Self::Exactly(length),
            Body::UntilClose => Self::UntilClose,
            Body::Chunked => Self::Chunked(Decoder::new(limits.head_bytes, limits.head_fields)),
        }
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, ChunkError> {
        match self {
            Self::Chunked(decoder) => decoder.step(buffer),
            Self::Exactly(0) => Ok(Step::End(Fields::default())),
            Self::Exactly(_) | Self::UntilClose if buffer.is_empty() => Ok(Step::Starved),
            Self::UntilClose => Ok(Step::Data(buffer.split().freeze())),
            Self::Exactly(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = buffer.split_to(most.min(buffer.len())).freeze();
                *left = left.saturating_sub(data.len() as u64);
                Ok(Step::Data(data))
            }
        }
    }
}

/// Reads a whole body ahead without taking it, and answers with what it is; none if it is larger
/// than the limit. Without a time limit of its own.
///
/// # Errors
/// As [`Relay::run`], for the sender's side.
pub(crate) async fn read_ahead(
    input: &mut Input<'_>,
    body: Body,
    limits: &Limits,
) -> Result<Option<Bytes>, RelayError> {
    let mut rest = Rest::of(body, limits);
    let (mut body, mut copied) = (BytesMut::new(), 0);
    let mut copy = BytesMut::new();
    loop {
        copy.extend_from_slice(input.buffer.get(copied..).unwrap_or_default());
        copied = input.buffer.len();
        loop {
            match rest.step(&mut copy).map_err(RelayError::Malformed)? {
                Step::Data(data) => body.extend_from_slice(&data),
                Step::End(_) => return Ok(Some(body.freeze())),
                Step::Starved => break,
            }
        }
        if copied > limits.body_ahead {
            return Ok(None);
        }
        match input.fill().await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(RelayError::Source),
        }
    }
}

/// Takes a whole body; none if it is larger than `most`. Trailers are dropped.
///
/// # Errors
/// As [`Relay::run`], for the sender's side.
pub(crate) async fn read_whole(
    input: &mut Input<'_>,
    body: Body,
    most: usize,
    limits: &Limits,
    activity: &Activity,
) -> Result<Option<Bytes>, RelayError> {
    let mut rest = Rest::of(body, limits);
    let mut whole = BytesMut::new();
    loop {
        match rest.step(input.buffer).map_err(RelayError::Malformed)? {
            Step::Data(data) if data.len() > most - whole.len() => return Ok(None),
            Step::Data(data) => whole.extend_from_slice(&data),
            Step::End(_) => return Ok(Some(whole.freeze())),
            Step::Starved => {
                let read = input.fill().await;
                activity.touch();
                match (read, &rest) {
                    (Ok(1..), _) => {}
                    (Ok(0), Rest::UntilClose) => return Ok(Some(whole.freeze())),
                    (Ok(0) | Err(_), _) => return Err(RelayError::Source),
                }
            }
        }
    }
}

/// Who reads a stream of events on its way.
pub(crate) type Reading<'a, 'i> = (&'a mut Inspector<'i>, Box<Events>);

/// One direction of an exchange.
pub(crate) struct Relay<'a, 'w, 'i> {
    /// Where the body comes from, directly behind its head.
    pub(crate) input: Input<'w>,
    /// Where it goes.
    pub(crate) output: &'a mut Output<'w>,
    /// Whose that is.
    pub(crate) to: End,
    /// Where it ends.
    pub(crate) body: Body,
    /// How it is marked on the way out.
    pub(crate) coding: Coding,
    /// Told of every movement.
    pub(crate) activity: &'a Activity,
    /// Counts what was written.
    pub(crate) count: &'a AtomicU64,
    /// Who reads it on its way, if anybody.
    pub(crate) reading: Option<Reading<'a, 'i>>,
}

impl Relay<'_, '_, '_> {
    /// Writes `head`, then the body; what is at hand goes out together.
    ///
    /// # Errors
    /// [`RelayError`] says which side failed.
    pub(crate) async fn run(mut self, head: BytesMut, limits: &Limits) -> Result<(), RelayError> {
        let mut rest = Rest::of(self.body, limits);
        // What must go out before the next piece of the body.
        let mut pending = head;
        loop {
            match rest
                .step(self.input.buffer)
                .map_err(RelayError::Malformed)?
            {
                Step::Data(data) => match &mut self.reading {
                    None => self.data(&mut pending, data).await?,
                    Some((inspector, events)) => {
                        let mut instead = BytesMut::new();
                        let read = inspector.events(events, &data, &mut instead);
                        if !instead.is_empty() {
                            self.data(&mut pending, instead.freeze()).await?;
                        }
                        if let Err(failure) = read {
                            self.end(&mut pending, &Fields::default()).await?;
                            return Err(RelayError::Refused(Box::new(failure)));
                        }
                    }
                },
                Step::End(trailers) => return self.end(&mut pending, &trailers).await,
                Step::Starved => {
                    self.send(&mut pending, Bytes::new()).await?;
                    let read = self.input.fill().await;
                    self.activity.touch();
                    match (read, &rest) {
                        (Ok(1..), _) => {}
                        (Ok(0), Rest::UntilClose) => {
                            return self.end(&mut pending, &Fields::default()).await;
                        }
                        (Ok(0) | Err(_), _) => return Err(RelayError::Source),
                    }
                }
            }
        }
    }

    async fn data(&mut self, pending: &mut BytesMut, data: Bytes) -> Result<(), RelayError> {
        match self.coding {
            Coding::Plain => self.send(pending, data).await,
            Coding::Chunked => {
                pending.extend_from_slice(&chunked::size_line(data.len()));
                self.send(pending, data).await?;
                pending.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }

    async fn end(&mut self, pending: &mut BytesMut, trailers: &Fields) -> Result<(), RelayError> {
        if self.coding == Coding::Chunked {
            chunked::write_end(pending, trailers);
        }
        self.send(pending, Bytes::new()).await
    }

    async fn send(&mut self, pending: &mut BytesMut, data: Bytes) -> Result<(), RelayError> {
        let length = pending.len() + data.len();
        if length == 0 {
            return Ok(());
        }
        let output = &mut *self.output;
        let write = async {
            if pending.is_empty() {
                output.send(&data).await
            } else {
                output.send_both(pending, data).await
            }
        };
        let written: io::Result<()> = self.activity.filling(self.to, write).await;
        written.map_err(|_| RelayError::Sink)?;
        self.activity.touch();
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(())
    }
}
