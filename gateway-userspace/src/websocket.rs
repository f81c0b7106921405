//! WebSocket (RFC 6455) for a relay that looks at messages before it forwards them.
//!
//! Pure: octets in, typed values or an error out; clock, sockets and randomness are the caller's.
//! Nothing is written anew but the gateway's own close: each event carries the octets that it came
//! in, and those are what is forwarded. Compression is permessage-deflate (RFC 7692) or none.

mod close;
mod deflate;
pub mod frame;
pub mod handshake;
pub mod message;

pub use close::close_frame;
pub use message::{Content, Event, Kind, Reader};

/// An end of a connection, as the writer of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The end that asked for the connection: its frames are masked.
    Client,
    /// The end that granted it: its frames are not.
    Server,
}

/// How much a message may be. While it is read, it takes up to three times its octets: as sent, as
/// unmasked, as inflated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of a message, both as sent (without frame headers) and as inflated; 16 MiB by
    /// default.
    pub message: usize,
    /// Frames that a message may come in; 1024 by default.
    pub fragments: usize,
    /// Octets that may come of each compressed one; 200 by default.
    pub ratio: usize,
    /// Octets that a message may inflate to before the ratio is looked at; 1 MiB by default.
    pub ratio_from: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 16 << 20,
            fragments: 1024,
            ratio: 200,
            ratio_from: 1 << 20,
        }
    }
}

/// Why a connection ends. The fault is that of the end whose frames were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WsError {
    /// A client's frame without a mask, or a server's with one.
    #[error("a client's frame is not masked, or a server's is")]
    Mask,
    /// A reserved bit without an extension that gives it a meaning.
    #[error("a frame has a reserved bit set")]
    ReservedBit,
    /// An opcode that has no meaning.
    #[error("a frame has an unknown opcode")]
    Opcode,
    /// A control frame in fragments.
    #[error("a control frame is fragmented")]
    ControlFragmented,
    /// A control frame of more than 125 octets.
    #[error("a control frame is longer than 125 octets")]
    ControlTooLong,
    /// A length that is not written in the shortest way, or with its highest bit set.
    #[error("the length of a frame is not written in the shortest way")]
    Length,
    /// A continuation of nothing.
    #[error("a frame continues a message where none was begun")]
    Continuation,
    /// A message that begins before the one before has ended.
    #[error("a message begins within another")]
    Interleaved,
    /// More than [`Limits::message`].
    #[error("a message is larger than the limit")]
    TooLarge,
    /// More than [`Limits::fragments`].
    #[error("a message comes in more frames than the limit")]
    TooManyFragments,
    /// Compressed data that is not valid, or does not end where its message does.
    #[error("a compressed message is not valid deflate data")]
    Deflate,
    /// More than [`Limits::ratio`].
    #[error("a compressed message grows more than the limit")]
    Ratio,
    /// A text that is not UTF-8, or such a reason for a close.
    #[error("a text is not valid UTF-8")]
    Utf8,
    /// A close frame with half a code, or with one that must not be sent.
    #[error("a close frame has no valid code")]
    CloseCode,
    /// Octets behind a close frame.
    #[error("octets follow a close frame")]
    AfterClose,
}

impl WsError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mask => "ws_mask",
            Self::ReservedBit => "ws_reserved_bit",
            Self::Opcode => "ws_opcode",
            Self::ControlFragmented => "ws_control_fragmented",
            Self::ControlTooLong => "ws_control_too_long",
            Self::Length => "ws_length",
            Self::Continuation => "ws_continuation",
            Self::Interleaved => "ws_interleaved",
            Self::TooLarge => "ws_message_too_large",
            Self::TooManyFragments => "ws_too_many_fragments",
            Self::Deflate => "ws_deflate",
            Self::Ratio => "ws_ratio",
            Self::Utf8 => "ws_utf8",
            Self::CloseCode => "ws_close_code",
            Self::AfterClose => "ws_after_close",
        }
    }

    /// The code that tells the sender (RFC 6455, 7.4.1).
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Mask
            | Self::ReservedBit
            | Self::Opcode
            | Self::ControlFragmented
            | Self::ControlTooLong
            | Self::Length
            | Self::Continuation
            | Self::Interleaved
            | Self::CloseCode
            | Self::AfterClose => 1002,
            Self::Deflate | Self::Utf8 => 1007,
            Self::TooLarge | Self::TooManyFragments | Self::Ratio => 1009,
        }
    }
}

#[cfg(test)]
mod tests;
