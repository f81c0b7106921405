//! Chunked bodies (RFC 9112, 7.1), taken apart strictly and put together anew.
//!
//! Extensions are dropped: they concern one hop, and are where readers differ.

use std::io::Write as _;

use bytes::{Buf, Bytes, BytesMut};

use super::{HeadError, fields::Fields, scan::Scanner};

/// Octets of a chunk-size line with its extensions, without CRLF.
const SIZE_LINE_MAX: usize = 256;
/// Hexadecimal digits of a chunk size: what fits an `i64`.
const SIZE_DIGITS_MAX: usize = 15;

/// Why a chunked body is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ChunkError {
    /// Not 1 to 15 hexadecimal digits.
    #[error("a chunk size is not a plain hexadecimal number")]
    Size,
    /// The line that carries a size is too long or has characters that no extension has.
    #[error("a chunk extension is malformed or too long")]
    Extension,
    /// No CRLF behind a size or behind a chunk.
    #[error("a chunk does not end in CRLF")]
    End,
    /// The trailer section.
    #[error("trailer: {0}")]
    Trailer(HeadError),
}

impl ChunkError {
    /// The stable label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Size => "chunk_size",
            Self::Extension => "chunk_extension",
            Self::End => "chunk_end",
            Self::Trailer(_) => "trailer",
        }
    }
}

/// What one step over the bytes at hand brought.
#[derive(Debug)]
pub(crate) enum Step {
    /// Octets of the body.
    Data(Bytes),
    /// The end, with what followed it.
    End(Fields),
    /// Nothing more without more bytes.
    Starved,
}

#[derive(Debug)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailer(Scanner),
    Done,
}

/// Takes a chunked body apart as it arrives.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    trailer_bytes: usize,
    trailer_fields: usize,
}

impl Decoder {
    /// A decoder at the start of a body, with limits on its trailer section.
    pub(crate) const fn new(trailer_bytes: usize, trailer_fields: usize) -> Self {
        Self {
            state: State::Size,
            trailer_bytes,
            trailer_fields,
        }
    }

    /// Takes what it can from the front of `input`.
    ///
    /// # Errors
    /// [`ChunkError`] for anything that is not the one plain way to write it.
    pub(crate) fn step(&mut self, input: &mut BytesMut) -> Result<Step, ChunkError> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some(size) = take_size_line(input)? else {
                        return Ok(Step::Starved);
                    };
                    self.state = match size {
                        0 => State::Trailer(Scanner::default()),
                        size => State::Data(size),
                    };
                }
                State::Data(0) => self.state = State::DataEnd,
                State::Data(_) if input.is_empty() => return Ok(Step::Starved),
                State::Data(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let data = input.split_to(most.min(input.len())).freeze();
                    *left = left.saturating_sub(data.len() as u64);
                    return Ok(Step::Data(data));
                }
                State::DataEnd => match input.as_ref() {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Step::Starved),
                    [..] => return Err(ChunkError::End),
                },
                State::Trailer(scanner) => {
                    let Some(length) = scanner
                        .scan(input, self.trailer_bytes)
                        .map_err(ChunkError::Trailer)?
                    else {
                        return Ok(Step::Starved);
                    };
                    let block = input.split_to(length).freeze();
                    self.state = State::Done;
                    return Fields::parse_trailers(&block, self.trailer_fields)
                        .map(Step::End)
                        .map_err(ChunkError::Trailer);
                }
                State::Done => return Ok(Step::End(Fields::default())),
            }
        }
    }
}

/// Takes `SIZE [; extension] CRLF`; none if it is not complete.
fn take_size_line(input: &mut BytesMut) -> Result<Option<u64>, ChunkError> {
    let digits = input.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits > SIZE_DIGITS_MAX {
        return Err(ChunkError::Size);
    }
    let rest = input.get(digits..).unwrap_or_default();
    if digits == 0 && !rest.is_empty() {
        return Err(ChunkError::Size);
    }
    let line = match rest {
        [] | [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => digits,
        [b'\r', ..] => return Err(ChunkError::End),
        [b';', ..] => {
            let plain = |b: &u8| matches!(b, b'\t' | b' '..=b'~');
            let extension = rest.iter().take_while(|b| plain(b)).count();
            if digits + extension > SIZE_LINE_MAX {
                return Err(ChunkError::Extension);
            }
            match rest.get(extension..).unwrap_or_default() {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => digits + extension,
                [..] => return Err(ChunkError::Extension),
            }
        }
        [..] => return Err(ChunkError::Size),
    };
    let size = input
        .iter()
        .take(digits)
        .filter_map(|&b| char::from(b).to_digit(16))
        .fold(0, |sum: u64, digit| sum << 4 | u64::from(digit));
    input.advance(line + 2);
    Ok(Some(size))
}

/// The line before a chunk of this many octets.
pub(crate) fn size_line(length: usize) -> Bytes {
    let mut line = [0_u8; 18];
    let mut rest = line.as_mut_slice();
    let _fits = write!(rest, "{length:x}\r\n");
    let left = rest.len();
    Bytes::copy_from_slice(line.get(..line.len() - left).unwrap_or_default())
}

/// Writes the last chunk and the trailer section.
pub(crate) fn write_end(out: &mut BytesMut, trailers: &Fields) {
    out.extend_from_slice(b"0\r\n");
    trailers.write_trailers(out);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes and encodes again; `None` stands for a body that is not complete.
    fn relay(pieces: &[&[u8]]) -> Result<Option<(Vec<u8>, usize)>, ChunkError> {
        let mut decoder = Decoder::new(64, 4);
        let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
        let mut to_come: usize = pieces.iter().map(|piece| piece.len()).sum();
        for piece in pieces {
            input.extend_from_slice(piece);
            to_come -= piece.len();
            loop {
                match decoder.step(&mut input)? {
                    Step::Data(data) => {
                        out.extend_from_slice(&size_line(data.len()));
                        out.extend_from_slice(&data);
                        out.extend_from_slice(b"\r\n");
                    }
                    Step::End(trailers) => {
                        write_end(&mut out, &trailers);
                        // What follows the body is left, however it comes.
                        return Ok(Some((out.to_vec(), input.len() + to_come)));
                    }
                    Step::Starved => break,
                }
            }
        }
        Ok(None)
    }

    #[test]
    fn plain_bodies_pass() {
        for (text, expected) in [
            (&b"0\r\n\r\n"[..], &b"0\r\n\r\n"[..]),
            (b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
            (b"005\r\nhello\r\n000\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
            (
                b"A;x=\"y\"\r\n0123456789\r\n0;z\r\n\r\n",
                b"a\r\n0123456789\r\n0\r\n\r\n",
            ),
            (b"0\r\nX-Sum: 1\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n"),
        ] {
            let shown = text.escape_ascii();
            assert_eq!(relay(&[text]), Ok(Some((expected.to_vec(), 0))), "{shown}");
            let pieces: Vec<&[u8]> = text.chunks(1).collect();
            assert!(matches!(relay(&pieces), Ok(Some((_, 0)))), "{shown}");
        }
    }

    #[test]
    fn what_follows_is_left() {
        assert!(matches!(relay(&[b"0\r\n\r\nGET"]), Ok(Some((_, 3)))));
        assert_eq!(relay(&[b"5\r\nhel"]), Ok(None));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("5;{}\r\n", "x".repeat(SIZE_LINE_MAX - 1));
        for (text, error) in [
            ("\r\n", ChunkError::Size),
            ("g\r\n", ChunkError::Size),
            ("0x5\r\n", ChunkError::Size),
            ("+5\r\n", ChunkError::Size),
            ("-1\r\n", ChunkError::Size),
            ("1_0\r\n", ChunkError::Size),
            (" 5\r\n", ChunkError::Size),
            ("5 \r\n", ChunkError::Size),
            ("5\t;x\r\n", ChunkError::Size),
            ("5\n", ChunkError::Size),
            ("1000000000000000\r\n", ChunkError::Size),
            ("ffffffffffffffff1\r\n", ChunkError::Size),
            ("5\rhello", ChunkError::End),
            ("5\r\nhello0\r\n", ChunkError::End),
            ("5\r\nhello\n0\r\n", ChunkError::End),
            ("5\r\nhello\r\r\n", ChunkError::End),
            ("5;x\n", ChunkError::Extension),
            ("5;\0\r\n", ChunkError::Extension),
            ("5;x\rhello", ChunkError::Extension),
            (&long, ChunkError::Extension),
            (
                "0\r\nA: b\n\r\n",
                ChunkError::Trailer(HeadError::BareLineFeed),
            ),
            (
                "0\r\nA : b\r\n\r\n",
                ChunkError::Trailer(HeadError::FieldLine),
            ),
            (
                "0\r\n A: b\r\n\r\n",
                ChunkError::Trailer(HeadError::FieldLine),
            ),
        ] {
            assert_eq!(relay(&[text.as_bytes()]), Err(error), "{text:?}");
        }
    }

    #[test]
    fn limits_fit_exactly() {
        let line = format!("0;{}\r\n\r\n", "x".repeat(SIZE_LINE_MAX - 2));
        assert!(matches!(relay(&[line.as_bytes()]), Ok(Some(_))));
        let trailer = |length: usize| format!("0\r\nA: {}\r\n\r\n", "x".repeat(length));
        assert!(matches!(relay(&[trailer(57).as_bytes()]), Ok(Some(_))));
        let over = relay(&[trailer(58).as_bytes()]);
        assert_eq!(over, Err(ChunkError::Trailer(HeadError::TooLarge)));
        let fields = |count| format!("0\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert!(matches!(relay(&[fields(4).as_bytes()]), Ok(Some(_))));
        let over = relay(&[fields(5).as_bytes()]);
        assert_eq!(over, Err(ChunkError::Trailer(HeadError::TooManyFields)));
    }

    proptest! {
        /// Whatever is accepted becomes one plain body that says the same, however it came.
        #[test]
        fn one_reading_only(
            bytes in "([0-9a-fA-F]{1,2}(;[a-z=]{0,4})?\r\n[a-z\r\n]{0,6}(\r\n)?){0,3}(0\r\n\r\n)?",
            cut in 0_usize..40,
        ) {
            let bytes = bytes.as_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let whole = relay(&[bytes]);
            prop_assert_eq!(
                relay(&[head, tail]).map(|done| done.map(|(_, left)| left)),
                whole.clone().map(|done| done.map(|(_, left)| left))
            );
            if let Ok(Some((out, _))) = whole {
                prop_assert_eq!(relay(&[&out]), Ok(Some((out.clone(), 0))));
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _any = relay(&[&bytes]).is_ok();
        }
    }
}
