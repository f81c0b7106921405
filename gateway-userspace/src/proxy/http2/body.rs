//! Passes the body of one stream on to another, no faster than the other takes it.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};

use super::head::trailers;
use crate::{
    inspect::{Events, Inspector},
    proxy::{
        activity::{Activity, End},
        failure::Failure,
    },
};

/// Which side of a direction broke.
#[derive(Debug)]
pub(super) enum Broken {
    Source,
    Sink,
}

/// Passes on all data and the trailers, to the end of the stream.
pub(super) async fn pump(
    source: &mut RecvStream,
    (sink, to): (&mut SendStream<Bytes>, End),
    activity: &Activity,
    count: &AtomicU64,
) -> Result<(), Broken> {
    while let Some(data) = source.data().await {
        let data = data.map_err(|_| Broken::Source)?;
        activity.touch();
        let length = data.len();
        push((sink, to), data, activity, count).await?;
        // Only now may the other end send as much again.
        let release = source.flow_control().release_capacity(length);
        release.map_err(|_| Broken::Source)?;
    }
    match source.trailers().await.map_err(|_| Broken::Source)? {
        Some(fields) => sink.send_trailers(trailers(&fields)),
        None => sink.send_data(Bytes::new(), true),
    }
    .map_err(|_| Broken::Sink)
}

/// Passes on a stream of events as somebody reads it, without trailers.
///
/// # Errors
/// Which side broke, or why no more passes; the agent was told then.
pub(super) async fn pump_read(
    source: &mut RecvStream,
    sink: &mut SendStream<Bytes>,
    (inspector, events): (&mut Inspector<'_>, &mut Events),
    activity: &Activity,
    count: &AtomicU64,
) -> Result<(), BrokenOr> {
    while let Some(data) = source.data().await {
        let data = data.map_err(|_| Broken::Source)?;
        activity.touch();
        let mut instead = BytesMut::new();
        let read = inspector.events(events, &data, &mut instead);
        push((sink, End::Agent), instead.freeze(), activity, count).await?;
        if let Err(failure) = read {
            sink.send_data(Bytes::new(), true)
                .map_err(|_| Broken::Sink)?;
            return Err(BrokenOr::Refused(failure));
        }
        let release = source.flow_control().release_capacity(data.len());
        release.map_err(|_| Broken::Source)?;
    }
    let ended = sink.send_data(Bytes::new(), true);
    ended.map_err(|_| Broken::Sink.into())
}

/// Why a stream that is read does not go on.
#[derive(Debug)]
pub(super) enum BrokenOr {
    Broken(Broken),
    Refused(Failure),
}

impl From<Broken> for BrokenOr {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// Passes on one piece.
pub(super) async fn push(
    (sink, to): (&mut SendStream<Bytes>, End),
    data: Bytes,
    activity: &Activity,
    count: &AtomicU64,
) -> Result<(), Broken> {
    let length = data.len() as u64;
    let sent = activity.filling(to, send(sink, data, activity)).await;
    sent.map_err(|_| Broken::Sink)?;
    count.fetch_add(length, Ordering::Relaxed);
    Ok(())
}

/// Reads a body up to somewhat over this many octets. Answers with what came, and whether that is
/// all of it.
pub(super) async fn read_ahead(
    source: &mut RecvStream,
    most: usize,
    activity: &Activity,
) -> Result<(Bytes, bool), Broken> {
    let mut ahead = BytesMut::new();
    while let Some(data) = source.data().await {
        let data = data.map_err(|_| Broken::Source)?;
        activity.touch();
        let release = source.flow_control().release_capacity(data.len());
        release.map_err(|_| Broken::Source)?;
        ahead.extend_from_slice(&data);
        if ahead.len() > most {
            return Ok((ahead.freeze(), false));
        }
    }
    Ok((ahead.freeze(), true))
}

/// Sends a piece as room for it comes.
async fn send(
    sink: &mut SendStream<Bytes>,
    mut data: Bytes,
    activity: &Activity,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        sink.reserve_capacity(data.len());
        let room = match poll_fn(|context| sink.poll_capacity(context)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        activity.touch();
        sink.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}
