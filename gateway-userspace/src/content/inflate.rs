//! Deflate data (RFC 1951), bare or wrapped.
//!
//! zlib-rs behaves as zlib does, which is what most readers use: unlike decoders that wrap a buffer
//! of zeros around, it refuses a distance that reaches before the start.

use flate2::{Decompress, FlushDecompress, Status};

/// Base two logarithm of the window: the largest, which reads data of any smaller one.
const WINDOW_BITS: u8 = 15;

/// What is around deflate data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wrapper {
    /// Nothing.
    Bare,
    /// RFC 1950.
    Zlib,
    /// RFC 1952: one member.
    Gzip,
}

/// The data is not valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Invalid;

/// What one step took and gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Octets taken from the input.
    pub(crate) read: usize,
    /// Octets written to the output.
    pub(crate) written: usize,
    /// The end of the data, checksum included.
    pub(crate) ended: bool,
}

/// An inflater: 32 KiB of window.
#[derive(Debug)]
pub(crate) struct Inflate {
    inner: Decompress,
}

impl Inflate {
    /// One at the start of a stream.
    pub(crate) fn new(wrapper: Wrapper) -> Self {
        Self {
            inner: match wrapper {
                Wrapper::Bare => Decompress::new(false),
                Wrapper::Zlib => Decompress::new(true),
                Wrapper::Gzip => Decompress::new_gzip(WINDOW_BITS),
            },
        }
    }

    /// Starts anew, on bare data with an empty window.
    pub(crate) fn reset_bare(&mut self) {
        self.inner.reset(false);
    }

    /// Lets bare data, at its start, refer to what was before: up to 32 KiB.
    ///
    /// # Errors
    /// [`Invalid`] where it is not at its start.
    pub(crate) fn look_back_on(&mut self, window: &[u8]) -> Result<(), Invalid> {
        self.inner
            .set_dictionary(window)
            .map(|_checksum| ())
            .map_err(|_| Invalid)
    }

    /// Takes some of `input`, fills some of `output`.
    ///
    /// # Errors
    /// [`Invalid`].
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Invalid> {
        let (read, written) = (self.inner.total_in(), self.inner.total_out());
        let status = self
            .inner
            .decompress(input, output, FlushDecompress::None)
            .map_err(|_| Invalid)?;
        let since = |now: u64, then: u64| usize::try_from(now - then).map_err(|_| Invalid);
        Ok(Step {
            read: since(self.inner.total_in(), read)?,
            written: since(self.inner.total_out(), written)?,
            ended: match status {
                Status::StreamEnd => true,
                Status::Ok | Status::BufError => false,
            },
        })
    }
}
