//! Messages put together from frames, each with the octets that it came in.

use bytes::{Bytes, BytesMut};

use super::{
    Limits, Role, WsError, close,
    deflate::Inflater,
    frame::{self, Header, Opcode},
    handshake::Negotiated,
};

/// Something that came whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// What it says.
    pub content: Content,
    /// The frame or frames that it came in, octet by octet: what a relay forwards. A control frame
    /// that stood between the fragments of a message is an event before it.
    pub wire: Bytes,
}

/// What an event says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A message, unmasked and inflated. A text is UTF-8.
    Message {
        /// Text or octets.
        kind: Kind,
        /// What it says.
        payload: Bytes,
    },
    /// A ping, with up to 125 octets.
    Ping(Bytes),
    /// A pong, with up to 125 octets.
    Pong(Bytes),
    /// The end: nothing may follow.
    Close {
        /// The code, if there is one: always one that may be sent.
        code: Option<u16>,
        /// The reason, up to 123 octets.
        reason: String,
    },
}

/// The two kinds of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Octets.
    Binary,
}

/// Reads what one end of a connection writes.
#[derive(Debug)]
pub struct Reader {
    sender: Role,
    limits: Limits,
    inflater: Option<Inflater>,
    begun: Option<Begun>,
    closed: bool,
    failed: Option<WsError>,
}

/// A message of which there is more to come.
#[derive(Debug)]
struct Begun {
    kind: Kind,
    compressed: bool,
    fragments: usize,
    payload: BytesMut,
    wire: BytesMut,
}

impl Reader {
    /// A reader of what `sender` writes behind the handshake.
    pub fn new(sender: Role, negotiated: &Negotiated, limits: Limits) -> Self {
        Self {
            sender,
            limits,
            inflater: negotiated
                .deflate
                .map(|deflate| Inflater::new(deflate.takeover(sender))),
            begun: None,
            closed: false,
            failed: None,
        }
    }

    /// Takes frames from the front of `input` until an event is whole; none without more octets.
    ///
    /// A frame that is not complete stays in `input`, which so holds up to [`Limits::message`] and a
    /// header; what is larger is refused by its header.
    ///
    /// # Errors
    /// [`WsError`], again for each call after the first that failed.
    pub fn feed(&mut self, input: &mut BytesMut) -> Result<Option<Event>, WsError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let next = self.next_event(input);
        self.failed = next.as_ref().err().copied();
        next
    }

    /// Octets, as sent, of a message that was begun and has not ended.
    pub fn held(&self) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.wire.len())
    }

    /// Whether the sender closed.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    fn next_event(&mut self, input: &mut BytesMut) -> Result<Option<Event>, WsError> {
        loop {
            if self.closed && !input.is_empty() {
                return Err(WsError::AfterClose);
            }
            let Some(header) = Header::parse(input, self.sender, self.inflater.is_some())? else {
                return Ok(None);
            };
            self.admit(&header)?;
            // Admitted: it is no longer than a limit that is a `usize`.
            let length = usize::try_from(header.length).map_err(|_| WsError::TooLarge)?;
            let total = header.size.saturating_add(length);
            if input.len() < total {
                return Ok(None);
            }
            let wire = input.split_to(total).freeze();
            if let Some(event) = self.take(&header, wire)? {
                return Ok(Some(event));
            }
        }
    }

    /// Whether a frame may come now.
    fn admit(&self, header: &Header) -> Result<(), WsError> {
        let (octets, fragments) = match (header.opcode, &self.begun) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, Some(begun)) => (begun.payload.len(), begun.fragments),
            (Opcode::Text | Opcode::Binary, None) => (0, 0),
            (Opcode::Continuation, None) => return Err(WsError::Continuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(WsError::Interleaved),
        };
        if header.length > (self.limits.message.saturating_sub(octets)) as u64 {
            return Err(WsError::TooLarge);
        }
        if fragments >= self.limits.fragments {
            return Err(WsError::TooManyFragments);
        }
        Ok(())
    }

    /// Takes one whole frame.
    fn take(&mut self, header: &Header, wire: Bytes) -> Result<Option<Event>, WsError> {
        let payload = wire.slice(header.size..);
        let payload = match header.mask {
            None => payload,
            Some(key) => {
                let mut payload = BytesMut::from(payload.as_ref());
                frame::mask(&mut payload, key);
                payload.freeze()
            }
        };
        let kind = match header.opcode {
            Opcode::Text => Kind::Text,
            Opcode::Binary => Kind::Binary,
            Opcode::Continuation => return self.go_on(header, &payload, &wire),
            Opcode::Ping => {
                let content = Content::Ping(payload);
                return Ok(Some(Event { content, wire }));
            }
            Opcode::Pong => {
                let content = Content::Pong(payload);
                return Ok(Some(Event { content, wire }));
            }
            Opcode::Close => {
                let (code, reason) = close::parse(&payload)?;
                self.closed = true;
                let content = Content::Close { code, reason };
                return Ok(Some(Event { content, wire }));
            }
        };
        if header.last {
            return self.whole(kind, header.compressed, payload, wire).map(Some);
        }
        self.begun = Some(Begun {
            kind,
            compressed: header.compressed,
            fragments: 1,
            payload: BytesMut::from(payload.as_ref()),
            wire: BytesMut::from(wire.as_ref()),
        });
        Ok(None)
    }

    /// Takes one more fragment.
    fn go_on(
        &mut self,
        header: &Header,
        payload: &[u8],
        wire: &[u8],
    ) -> Result<Option<Event>, WsError> {
        let begun = self.begun.as_mut().ok_or(WsError::Continuation)?;
        begun.fragments = begun.fragments.saturating_add(1);
        begun.payload.extend_from_slice(payload);
        begun.wire.extend_from_slice(wire);
        match self.begun.take_if(|_| header.last) {
            None => Ok(None),
            Some(begun) => self
                .whole(
                    begun.kind,
                    begun.compressed,
                    begun.payload.freeze(),
                    begun.wire.freeze(),
                )
                .map(Some),
        }
    }

    fn whole(
        &mut self,
        kind: Kind,
        compressed: bool,
        payload: Bytes,
        wire: Bytes,
    ) -> Result<Event, WsError> {
        let payload = match (compressed, &mut self.inflater) {
            (false, _) => payload,
            (true, Some(inflater)) => inflater.message(&payload, &self.limits)?,
            (true, None) => return Err(WsError::ReservedBit),
        };
        if kind == Kind::Text && str::from_utf8(&payload).is_err() {
            return Err(WsError::Utf8);
        }
        let content = Content::Message { kind, payload };
        Ok(Event { content, wire })
    }
}
