//! Compressed messages (RFC 7692), inflated.
//!
//! Each message is read by an inflater that starts at a block's start, with the window that the
//! messages before left. That a message also ends at a block's end is checked: otherwise what comes
//! next would be read by another rule than the sender's.

use bytes::{Bytes, BytesMut};

use super::{Limits, WsError};
use crate::content::{Inflate, Wrapper};

/// Octets to look back on.
const WINDOW: usize = 32 << 10;
/// Octets inflated at a time.
const BLOCK: usize = 16 << 10;
/// What a sender takes off the end of a message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// An empty last block: the data ends with it only if a block starts where it does.
const END: [u8; 5] = [1, 0, 0, 0xff, 0xff];

/// Inflates one end's messages.
#[derive(Debug)]
pub(super) struct Inflater {
    inflate: Inflate,
    /// The last octets of the messages before, where messages refer to them.
    window: Option<Vec<u8>>,
    block: Box<[u8]>,
}

impl Inflater {
    pub(super) fn new(takeover: bool) -> Self {
        Self {
            inflate: Inflate::new(Wrapper::Bare),
            window: takeover.then(Vec::new),
            block: vec![0; BLOCK].into_boxed_slice(),
        }
    }

    pub(super) fn message(&mut self, payload: &[u8], limits: &Limits) -> Result<Bytes, WsError> {
        self.inflate.reset_bare();
        if let Some(window) = self.window.as_deref().filter(|window| !window.is_empty()) {
            self.inflate
                .look_back_on(window)
                .map_err(|_| WsError::Deflate)?;
        }
        let mut out = Output {
            octets: BytesMut::new(),
            most: limits
                .ratio_from
                .max(payload.len().saturating_mul(limits.ratio)),
            limit: limits.message,
        };
        let ended = match self.run(payload, &mut out)? {
            // A last block, by which some senders flush: one octet of an empty block follows, which
            // the tail completes.
            Some([0]) => true,
            Some(_) => return Err(WsError::Deflate),
            None => {
                let before = out.octets.len();
                let open = self.run(&TAIL, &mut out)?.is_none();
                let whole = self.run(&END, &mut out)? == Some(&[]);
                if !open || !whole || out.octets.len() != before {
                    return Err(WsError::Deflate);
                }
                false
            }
        };
        if let Some(window) = &mut self.window {
            if ended {
                // Some readers forget what was before a last block: none may refer to it.
                window.clear();
            } else {
                keep(window, &out.octets);
            }
        }
        Ok(out.octets.freeze())
    }

    /// Inflates all of `input`, or up to the end of the data: then says what is left.
    fn run<'a>(
        &mut self,
        mut input: &'a [u8],
        out: &mut Output,
    ) -> Result<Option<&'a [u8]>, WsError> {
        loop {
            let step = self
                .inflate
                .step(input, &mut self.block)
                .map_err(|_| WsError::Deflate)?;
            out.take(self.block.get(..step.written).unwrap_or_default())?;
            input = input.get(step.read..).unwrap_or_default();
            if step.ended {
                return Ok(Some(input));
            }
            if step.written < self.block.len() && input.is_empty() {
                return Ok(None);
            }
            if step.read == 0 && step.written == 0 {
                return Err(WsError::Deflate);
            }
        }
    }
}

struct Output {
    octets: BytesMut,
    /// Octets by the ratio.
    most: usize,
    limit: usize,
}

impl Output {
    fn take(&mut self, octets: &[u8]) -> Result<(), WsError> {
        let sum = self.octets.len() + octets.len();
        if sum > self.limit {
            return Err(WsError::TooLarge);
        }
        if sum > self.most {
            return Err(WsError::Ratio);
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }
}

/// Moves the window to the end of what was inflated.
fn keep(window: &mut Vec<u8>, octets: &[u8]) {
    let new = octets.len().saturating_sub(WINDOW);
    let new = octets.get(new..).unwrap_or_default();
    let old = (window.len() + new.len()).saturating_sub(WINDOW);
    window.drain(..old.min(window.len()));
    window.extend_from_slice(new);
}
