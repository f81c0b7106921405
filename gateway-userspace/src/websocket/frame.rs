//! Frame headers (RFC 6455, 5.2).

use super::{Role, WsError};

/// Octets that the payload of a control frame may have.
pub const CONTROL_MAX: u64 = 125;
/// Octets that a header may have.
pub const HEADER_MAX: usize = 14;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// Goes on with a message.
    Continuation,
    /// Begins a text.
    Text,
    /// Begins a message of octets.
    Binary,
    /// Ends the connection.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Result<Self, WsError> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xa => Ok(Self::Pong),
            _ => Err(WsError::Opcode),
        }
    }

    /// Whether it may stand between the fragments of a message.
    pub const fn is_control(self) -> bool {
        match self {
            Self::Close | Self::Ping | Self::Pong => true,
            Self::Continuation | Self::Text | Self::Binary => false,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whether the message ends with this frame.
    pub last: bool,
    /// Whether the message that begins here is compressed.
    pub compressed: bool,
    /// What the frame is for.
    pub opcode: Opcode,
    /// The masking key of a client's frame.
    pub mask: Option<[u8; 4]>,
    /// Octets of the payload, below 2^63.
    pub length: u64,
    /// Octets of the header itself.
    pub size: usize,
}

impl Header {
    /// Parses the header at the start of `input`, which `sender` wrote; none if it is not complete.
    /// `deflate` says whether permessage-deflate was negotiated.
    ///
    /// # Errors
    /// [`WsError`], as soon as the octet at fault is there.
    pub fn parse(input: &[u8], sender: Role, deflate: bool) -> Result<Option<Self>, WsError> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let (last, compressed) = (first & 0x80 != 0, first & 0x40 != 0);
        if first & 0x30 != 0 {
            return Err(WsError::ReservedBit);
        }
        let opcode = Opcode::from_bits(first & 0x0f)?;
        let begins = matches!(opcode, Opcode::Text | Opcode::Binary);
        if compressed && !(deflate && begins) {
            return Err(WsError::ReservedBit);
        }
        if opcode.is_control() && !last {
            return Err(WsError::ControlFragmented);
        }

        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        let masked = second & 0x80 != 0;
        if masked != (sender == Role::Client) {
            return Err(WsError::Mask);
        }
        let short = u64::from(second & 0x7f);
        if opcode.is_control() && short > CONTROL_MAX {
            return Err(WsError::ControlTooLong);
        }
        let (length, rest) = match short {
            126 => match rest.split_first_chunk() {
                Some((octets, rest)) => (u64::from(u16::from_be_bytes(*octets)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((octets, rest)) => (u64::from_be_bytes(*octets), rest),
                None => return Ok(None),
            },
            short => (short, rest),
        };
        let shortest = match short {
            126 => 126..=0xffff,
            127 => 0x1_0000..=i64::MAX.cast_unsigned(),
            short => short..=short,
        };
        if !shortest.contains(&length) {
            return Err(WsError::Length);
        }
        let (mask, rest) = match (masked, rest.split_first_chunk()) {
            (false, _) => (None, rest),
            (true, Some((key, rest))) => (Some(*key), rest),
            (true, None) => return Ok(None),
        };
        Ok(Some(Self {
            last,
            compressed,
            opcode,
            mask,
            length,
            size: input.len() - rest.len(),
        }))
    }
}

/// Puts a mask on, or takes it off (RFC 6455, 5.3).
pub(super) fn mask(octets: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let twice = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = octets.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(eight) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(eight) ^ twice).to_ne_bytes());
        }
    }
    for (octet, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *octet ^= key;
    }
}
