//! Message bodies made readable: content codings undone, forms, JSON and events taken apart.
//!
//! Pure: octets in, values or an error out. What two readers could read in two ways is an error, so
//! that what was inspected is what the other end understands. Nothing here changes what is
//! forwarded.

mod codec;
mod inflate;
pub mod json;
pub mod multipart;
pub mod sse;

use bytes::BytesMut;

use codec::Stage;
pub(crate) use inflate::{Inflate, Wrapper};

/// Codings that may be applied one over another.
pub const ENCODINGS_MAX: usize = 3;

/// A content coding (RFC 9110, 8.4.1) that can be undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// `gzip`, also by its old name `x-gzip` (RFC 1952): one member.
    Gzip,
    /// `deflate`: zlib (RFC 1950), or bare deflate data (RFC 1951) where no zlib header starts it,
    /// told apart as browsers do.
    Deflate,
    /// `br` (RFC 7932): windows up to 16 MiB, as the format has it, and no "large window".
    Brotli,
    /// `zstd` (RFC 8878): one frame, without a dictionary, windows up to 8 MiB (RFC 9659).
    Zstd,
}

impl Coding {
    /// The name in `Content-Encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// How much a body may become.
///
/// Both limits hold for what each coding gives, not only for the last: a stream of nothing but
/// empty blocks costs as much to read as any other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets that a coding may give; 64 MiB by default.
    pub output: u64,
    /// Octets that a coding may give for each octet that came over the wire so far; 200 by default.
    pub ratio: u64,
    /// Octets that a coding may give before the ratio is looked at; 1 MiB by default.
    pub ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            output: 64 << 20,
            ratio: 200,
            ratio_from: 1 << 20,
        }
    }
}

/// Why a body cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// `Content-Encoding` names what is not in [`Coding`], or is malformed.
    #[error("the content coding is not one of gzip, deflate, br, zstd and identity")]
    Unknown,
    /// More than [`ENCODINGS_MAX`] codings.
    #[error("more than 3 content codings are applied to the body")]
    TooMany,
    /// Not what the coding says.
    #[error("the body is not valid {}", .0.name())]
    Corrupt(Coding),
    /// The end is missing.
    #[error("the body ends in the middle of its {} data", .0.name())]
    Truncated(Coding),
    /// Octets behind the end: a second member or frame, or anything else. Some readers go on, some
    /// stop, some fail.
    #[error("octets follow the end of the {} data", .0.name())]
    Trailing(Coding),
    /// A window of more than 8 MiB.
    #[error("the zstd data needs a window of more than 8 MiB")]
    Window,
    /// More octets than [`Limits::output`].
    #[error("the decoded body is larger than the limit")]
    TooLarge,
    /// More octets for each one sent than [`Limits::ratio`].
    #[error("the body grows more than the limit when decoded")]
    Ratio,
    /// No memory for a decoder: ours, not the sender's.
    #[error("there is no memory for the decoder")]
    Memory,
}

impl DecodeError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "encoding_unknown",
            Self::TooMany => "encodings_too_many",
            Self::Corrupt(_) => "encoding_corrupt",
            Self::Truncated(_) => "encoding_truncated",
            Self::Trailing(_) => "encoding_trailing",
            Self::Window => "encoding_window",
            Self::TooLarge => "decoded_too_large",
            Self::Ratio => "decoded_ratio",
            Self::Memory => "decoder_memory",
        }
    }
}

/// Undoes the codings of one body as it arrives.
///
/// Holds the window of each coding and one block of 16 KiB for each; a body without a coding is
/// copied. A body of no octets at all decodes to none, whatever its coding.
#[derive(Debug)]
pub struct Decoder {
    /// In the order in which they are undone.
    stages: Vec<Stage>,
    meter: Meter,
    failed: Option<DecodeError>,
}

/// What came, and what may come of it.
#[derive(Debug)]
struct Meter {
    limits: Limits,
    wire: u64,
    /// Octets given where there is no coding.
    plain: u64,
}

impl Meter {
    /// Counts octets that a stage gave; `sum` is what it gave before.
    fn count(&self, sum: &mut u64, octets: usize) -> Result<(), DecodeError> {
        *sum = sum.saturating_add(octets as u64);
        if *sum > self.limits.output {
            return Err(DecodeError::TooLarge);
        }
        let most = self.wire.saturating_mul(self.limits.ratio);
        if *sum > self.limits.ratio_from && *sum > most {
            return Err(DecodeError::Ratio);
        }
        Ok(())
    }
}

impl Decoder {
    /// A decoder for the values of all `Content-Encoding` fields of a message, in their order; none
    /// for a body as it is.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`], [`DecodeError::TooMany`], [`DecodeError::Memory`].
    pub fn for_encodings(values: &[&[u8]], limits: Limits) -> Result<Self, DecodeError> {
        let mut codings = Vec::new();
        for name in values.iter().flat_map(|value| value.split(|&b| b == b',')) {
            let name = name.trim_ascii();
            let coding = match name.to_ascii_lowercase().as_slice() {
                b"" | b"identity" => continue,
                b"gzip" | b"x-gzip" => Coding::Gzip,
                b"deflate" => Coding::Deflate,
                b"br" => Coding::Brotli,
                b"zstd" => Coding::Zstd,
                _ => return Err(DecodeError::Unknown),
            };
            if codings.len() == ENCODINGS_MAX {
                return Err(DecodeError::TooMany);
            }
            codings.push(coding);
        }
        Ok(Self {
            stages: codings
                .into_iter()
                .rev()
                .map(Stage::new)
                .collect::<Result<_, _>>()?,
            meter: Meter {
                limits,
                wire: 0,
                plain: 0,
            },
            failed: None,
        })
    }

    /// Whether the body is readable as it is.
    pub const fn is_identity(&self) -> bool {
        self.stages.is_empty()
    }

    /// Decodes what arrived and appends to `out` all that follows from it.
    ///
    /// # Errors
    /// What is wrong with the body, again for each call after the first that failed. What was
    /// appended until then is what the octets before say.
    pub fn feed(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), DecodeError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.meter.wire = self.meter.wire.saturating_add(input.len() as u64);
        let fed = if self.stages.is_empty() {
            let mut plain = self.meter.plain;
            let counted = self.meter.count(&mut plain, input.len());
            self.meter.plain = plain;
            counted.map(|()| out.extend_from_slice(input))
        } else {
            push(&mut self.stages, &self.meter, input, out)
        };
        self.failed = fed.err();
        fed
    }

    /// The body is over.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or the error that a call before gave.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.failed {
            Some(error) => Err(error),
            None => self.stages.iter().try_for_each(Stage::finish),
        }
    }
}

/// Sends octets through the first stage, and what it gives through the rest.
fn push(
    stages: &mut [Stage],
    meter: &Meter,
    input: &[u8],
    out: &mut BytesMut,
) -> Result<(), DecodeError> {
    match stages.split_first_mut() {
        None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Some((stage, rest)) => {
            let mut given = stage.given;
            stage.decode(input, |octets| {
                meter.count(&mut given, octets.len())?;
                push(rest, meter, octets, out)
            })?;
            stage.given = given;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
