//! What comes message by message: WebSocket and server-sent events.

use bytes::BytesMut;

use crate::{
    content::sse,
    websocket::{
        Content, Limits, Reader, Role, WsError,
        handshake::{Deflate, Negotiated},
    },
};

/// Messages are the same wherever segments end, and their octets are those that came. The first
/// octet says who sends, and whether it may compress.
pub(super) fn websocket(input: &[u8]) {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    let sender = match kind & 1 {
        0 => Role::Client,
        _ => Role::Server,
    };
    let negotiated = Negotiated {
        deflate: (kind & 2 == 2).then(Deflate::default),
        protocol: None,
    };
    let whole = messages(sender, &negotiated, input, usize::MAX);
    assert_eq!(whole, messages(sender, &negotiated, input, 1));
    let (events, _error) = whole;
    let mut wire = 0;
    for (content, octets) in &events {
        wire += octets;
        match content {
            Content::Ping(it) | Content::Pong(it) => assert!(it.len() <= 125),
            Content::Close { reason, .. } => assert!(reason.len() <= 123),
            Content::Message { payload, .. } => assert!(payload.len() <= LIMITS.message),
        }
    }
    assert!(wire <= input.len(), "more is forwarded than came");
}

const LIMITS: Limits = Limits {
    message: 4096,
    fragments: 16,
    ratio: 200,
    ratio_from: 1024,
};

/// What was read, with the octets that each came in, and what ended it.
fn messages(
    sender: Role,
    negotiated: &Negotiated,
    input: &[u8],
    piece: usize,
) -> (Vec<(Content, usize)>, Option<WsError>) {
    let mut reader = Reader::new(sender, negotiated, LIMITS);
    let (mut events, mut buffer) = (Vec::new(), BytesMut::new());
    for piece in input.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match reader.feed(&mut buffer) {
                Ok(Some(event)) => events.push((event.content, event.wire.len())),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

/// Events are the same wherever segments end, and their octets are those that came.
pub(super) fn sse(input: &[u8]) {
    let whole = events(input, usize::MAX);
    let pieces = events(input, 1);
    if whole.failed || pieces.failed {
        return;
    }
    assert_eq!(whole.said, pieces.said);
    for it in [whole, pieces] {
        assert_eq!(it.octets, input);
    }
}

struct Events {
    said: Vec<(Option<String>, Option<String>)>,
    octets: Vec<u8>,
    failed: bool,
}

fn events(input: &[u8], piece: usize) -> Events {
    let mut reader = sse::Reader::new(sse::Limits { event: 4096 });
    let mut buffer = BytesMut::new();
    let mut read = Events {
        said: Vec::new(),
        octets: Vec::new(),
        failed: false,
    };
    for piece in input.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match reader.feed(&mut buffer) {
                Ok(Some(event)) => {
                    read.octets.extend_from_slice(&event.wire);
                    read.said.push((event.kind, event.data));
                }
                Ok(None) => break,
                Err(_) => {
                    read.failed = true;
                    return read;
                }
            }
        }
    }
    read.octets.extend_from_slice(&buffer);
    read
}
