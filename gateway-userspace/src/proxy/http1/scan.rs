//! Finds the end of a head while it arrives, and refuses line endings that readers differ on.

use super::HeadError;

/// Remembers how far it has looked, so that a head sent octet by octet costs no more.
#[derive(Default, Debug)]
pub(crate) struct Scanner {
    /// Where the current line begins.
    line: usize,
    /// Up to where line feeds were looked for.
    searched: usize,
}

impl Scanner {
    /// The length of the head at the start of `bytes`, its empty line included; none if it is not
    /// complete. Give it the same bytes again with more behind them.
    ///
    /// # Errors
    /// Over `limit` octets without an end, a bare LF or CR, a NUL, or a continued line.
    pub(crate) fn scan(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, HeadError> {
        while let Some(found) = bytes
            .get(self.searched..)
            .and_then(|rest| memchr::memchr(b'\n', rest))
        {
            let feed = self.searched + found;
            let line = bytes.get(self.line..feed).unwrap_or_default();
            let Some(content) = line.strip_suffix(b"\r") else {
                return Err(HeadError::BareLineFeed);
            };
            match memchr::memchr2(b'\r', 0, content).and_then(|at| content.get(at)) {
                Some(b'\r') => return Err(HeadError::BareCarriageReturn),
                Some(_) => return Err(HeadError::Nul),
                None => {}
            }
            if self.line > 0 && matches!(content.first(), Some(b' ' | b'\t')) {
                return Err(HeadError::Folded);
            }
            self.line = feed + 1;
            self.searched = self.line;
            if self.line > limit {
                return Err(HeadError::TooLarge);
            }
            if content.is_empty() {
                return Ok(Some(self.line));
            }
        }
        self.searched = bytes.len();
        if bytes.len() >= limit {
            return Err(HeadError::TooLarge);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        Scanner::default().scan(bytes, 64)
    }

    #[test]
    fn finds_the_end_and_leaves_the_rest() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\n\r\nrest"), Ok(Some(18)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\r\n"), Ok(None));
        assert_eq!(scan(b""), Ok(None));
    }

    #[test]
    fn refuses_what_readers_differ_on() {
        for (bytes, error) in [
            (
                &b"GET / HTTP/1.1\nA: b\r\n\r\n"[..],
                HeadError::BareLineFeed,
            ),
            (b"GET / HTTP/1.1\r\n\n", HeadError::BareLineFeed),
            (
                b"GET / HTTP/1.1\r\nA: b\rC: d\r\n",
                HeadError::BareCarriageReturn,
            ),
            (b"GET / HTTP/1.1\r\nA: b\0\r\n", HeadError::Nul),
            (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n", HeadError::Folded),
            (b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n", HeadError::Folded),
            (b"GET / HTTP/1.1\r\n \r\n", HeadError::Folded),
        ] {
            assert_eq!(scan(bytes), Err(error), "{:?}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_limit_itself_fits() {
        let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
        head.resize(60, b'x');
        head.extend_from_slice(b"\r\n\r\n");
        assert_eq!(scan(&head), Ok(Some(64)));
        head.insert(20, b'x');
        assert_eq!(scan(&head), Err(HeadError::TooLarge));
        assert_eq!(scan(&[b'x'; 63]), Ok(None));
        assert_eq!(scan(&[b'x'; 64]), Err(HeadError::TooLarge));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in "[A-Z: \r\n]{0,40}(\r\n\r\n)?[a-z]{0,5}",
            cuts in proptest::collection::vec(0_usize..50, 0..5),
        ) {
            let whole = scan(bytes.as_bytes());
            let mut scanner = Scanner::default();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let mut pieced = Ok(None);
            for cut in cuts {
                pieced = scanner.scan(&bytes.as_bytes()[..cut], 64);
                if pieced != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(pieced, whole);
        }
    }
}
