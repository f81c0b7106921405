//! The ClientHello.

use crate::proxy::hello::{Hello, HelloError, HelloReader};

const LIMIT: usize = 16 << 10;

/// It says the same wherever segments end, as far as it goes.
pub(super) fn client_hello(input: &[u8]) {
    let whole = read(input, usize::MAX);
    for piece in [1, 7] {
        let pieces = read(input, piece);
        // Behind a whole one, what is wrong with more may show or not.
        if let (Ok(whole), Ok(pieces)) = (&whole, &pieces) {
            assert_eq!(whole, pieces, "in pieces of {piece}");
        }
    }
}

fn read(input: &[u8], piece: usize) -> Result<Option<Hello>, HelloError> {
    let mut reader = HelloReader::default();
    let mut seen = 0;
    while seen < input.len() {
        seen = seen.saturating_add(piece).min(input.len());
        if let Some(hello) = reader.read(&input[..seen], LIMIT)? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}
