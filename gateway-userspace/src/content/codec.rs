//! One coding undone: octets in, blocks of octets out.

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use zstd::stream::raw::{DParameter, Decoder as Frames, InBuffer, Operation as _, OutBuffer};

use super::{
    Coding, DecodeError, Inflate, Wrapper,
    inflate::{Invalid, Step},
};

/// Octets given at a time.
pub(super) const BLOCK: usize = 16 << 10;
/// Base two logarithm of the largest zstd window (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;
/// What libzstd calls a window that is larger.
const ZSTD_WINDOW_ERROR: &str = "Frame requires too much memory for decoding";

/// A coding at work.
#[derive(Debug)]
pub(super) struct Stage {
    coding: Coding,
    codec: Codec,
    block: Box<[u8]>,
    progress: Progress,
    /// Octets given so far.
    pub(super) given: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    /// Nothing came.
    Fresh,
    Within,
    Ended,
}

enum Codec {
    Inflate(Inflate),
    /// `deflate`, before it is known what is around it.
    Unwrapped(Option<u8>),
    Brotli(Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>),
    Zstd(Frames<'static>),
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inflate(_) => "Inflate",
            Self::Unwrapped(_) => "Unwrapped",
            Self::Brotli(_) => "Brotli",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl Stage {
    pub(super) fn new(coding: Coding) -> Result<Self, DecodeError> {
        Ok(Self {
            coding,
            codec: match coding {
                Coding::Gzip => Codec::Inflate(Inflate::new(Wrapper::Gzip)),
                Coding::Deflate => Codec::Unwrapped(None),
                Coding::Brotli => Codec::Brotli(Box::new(BrotliState::new_strict(
                    StandardAlloc::default(),
                    StandardAlloc::default(),
                    StandardAlloc::default(),
                ))),
                Coding::Zstd => Codec::Zstd(frames().map_err(|_| DecodeError::Memory)?),
            },
            block: vec![0; BLOCK].into_boxed_slice(),
            progress: Progress::Fresh,
            given: 0,
        })
    }

    /// Decodes all of `input`, a block at a time.
    pub(super) fn decode(
        &mut self,
        input: &[u8],
        mut give: impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if input.is_empty() {
            return Ok(());
        }
        match self.progress {
            Progress::Fresh => self.progress = Progress::Within,
            Progress::Within => {}
            Progress::Ended => return Err(DecodeError::Trailing(self.coding)),
        }
        if let Codec::Unwrapped(first) = self.codec {
            let (first, rest) = match (first, input) {
                (Some(first), rest) => (first, rest),
                (None, [first, rest @ ..]) => (*first, rest),
                (None, []) => return Ok(()),
            };
            let Some(&second) = rest.first() else {
                self.codec = Codec::Unwrapped(Some(first));
                return Ok(());
            };
            let wrapper = match is_zlib(first, second) {
                true => Wrapper::Zlib,
                false => Wrapper::Bare,
            };
            self.codec = Codec::Inflate(Inflate::new(wrapper));
            self.run(&[first], &mut give)?;
            return match self.progress {
                Progress::Ended => Err(DecodeError::Trailing(self.coding)),
                Progress::Fresh | Progress::Within => self.run(rest, &mut give),
            };
        }
        self.run(input, &mut give)
    }

    fn run(
        &mut self,
        mut input: &[u8],
        give: &mut impl FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        loop {
            let step = self.codec.step(self.coding, input, &mut self.block)?;
            give(self.block.get(..step.written).unwrap_or_default())?;
            input = input.get(step.read..).unwrap_or_default();
            if step.ended {
                self.progress = Progress::Ended;
                return match input {
                    [] => Ok(()),
                    [..] => Err(DecodeError::Trailing(self.coding)),
                };
            }
            // A block that is not full means that all that can be given was given.
            if step.written < self.block.len() && input.is_empty() {
                return Ok(());
            }
            if step.read == 0 && step.written == 0 {
                return Err(DecodeError::Corrupt(self.coding));
            }
        }
    }

    pub(super) const fn finish(&self) -> Result<(), DecodeError> {
        match self.progress {
            Progress::Fresh | Progress::Ended => Ok(()),
            Progress::Within => Err(DecodeError::Truncated(self.coding)),
        }
    }
}

impl Codec {
    fn step(
        &mut self,
        coding: Coding,
        input: &[u8],
        block: &mut [u8],
    ) -> Result<Step, DecodeError> {
        let corrupt = DecodeError::Corrupt(coding);
        match self {
            Self::Inflate(inflate) => inflate.step(input, block).map_err(|Invalid| corrupt),
            Self::Unwrapped(_) => Err(corrupt),
            Self::Brotli(state) => {
                let (mut left, mut read) = (input.len(), 0);
                let (mut space, mut written, mut total) = (block.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut read,
                    input,
                    &mut space,
                    &mut written,
                    block,
                    &mut total,
                    state,
                );
                Ok(Step {
                    read,
                    written,
                    ended: match result {
                        BrotliResult::ResultSuccess => true,
                        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => false,
                        BrotliResult::ResultFailure => return Err(corrupt),
                    },
                })
            }
            Self::Zstd(frames) => {
                let mut source = InBuffer::around(input);
                let mut target = OutBuffer::around(block);
                let hint = frames.run(&mut source, &mut target).map_err(|error| {
                    match error.to_string() == ZSTD_WINDOW_ERROR {
                        true => DecodeError::Window,
                        false => corrupt,
                    }
                })?;
                Ok(Step {
                    read: source.pos(),
                    written: target.pos(),
                    ended: hint == 0,
                })
            }
        }
    }
}

/// A zstd decoder with the window that HTTP allows.
fn frames() -> std::io::Result<Frames<'static>> {
    let mut frames = Frames::new()?;
    frames.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
    Ok(frames)
}

/// Whether two octets are a zlib header (RFC 1950, 2.2).
fn is_zlib(method: u8, flags: u8) -> bool {
    method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}
