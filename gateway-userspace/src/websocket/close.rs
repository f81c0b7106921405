//! Close frames (RFC 6455, 5.5.1): those that came, and the gateway's own.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    Role, WsError,
    frame::{self, CONTROL_MAX},
};

/// Octets of a reason, at most.
const REASON_MAX: usize = CONTROL_MAX as usize - 2;

/// Writes a close frame as `writer`, the role in which the gateway faces the end that reads it.
///
/// A reason of more than 123 octets is cut at a character. The `key` masks the frame where the
/// writer is a client, and should not be foreseeable.
pub fn close_frame(writer: Role, code: u16, reason: &str, key: [u8; 4]) -> Bytes {
    let reason = reason
        .get(..reason.floor_char_boundary(REASON_MAX))
        .unwrap_or_default();
    let mut payload = BytesMut::with_capacity(CONTROL_MAX as usize);
    payload.put_u16(code);
    payload.extend_from_slice(reason.as_bytes());

    let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
    let mut out = BytesMut::with_capacity(payload.len() + 6);
    out.put_u8(0x88);
    match writer {
        Role::Client => {
            out.put_u8(length | 0x80);
            out.extend_from_slice(&key);
            frame::mask(&mut payload, key);
        }
        Role::Server => out.put_u8(length),
    }
    out.extend_from_slice(&payload);
    out.freeze()
}

/// Takes the payload of a close frame apart.
pub(super) fn parse(payload: &[u8]) -> Result<(Option<u16>, String), WsError> {
    let (code, reason) = match payload.split_first_chunk() {
        Some((code, reason)) => (u16::from_be_bytes(*code), reason),
        None if payload.is_empty() => return Ok((None, String::new())),
        None => return Err(WsError::CloseCode),
    };
    if !may_be_sent(code) {
        return Err(WsError::CloseCode);
    }
    let reason = str::from_utf8(reason).map_err(|_| WsError::Utf8)?;
    Ok((Some(code), reason.to_owned()))
}

/// Whether a code may stand in a frame: those registered but 1005, 1006 and 1015, and those left to
/// libraries and applications.
const fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
