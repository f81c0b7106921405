//! Bodies: codings, JSON, forms.

use std::io::Read as _;

use bytes::BytesMut;

use crate::content::{Decoder, Limits, json, multipart};

const LIMITS: Limits = Limits {
    output: 64 << 10,
    ratio: 200,
    ratio_from: 4 << 10,
};

const CODINGS: [&[u8]; 6] = [
    b"gzip",
    b"deflate",
    b"br",
    b"zstd",
    b"gzip, br",
    b"identity",
];

/// A body says the same wherever segments end, within the limits, and what others say. The first
/// octet says the coding.
pub(super) fn coded(input: &[u8]) {
    let Some((coding, input)) = input.split_first() else {
        return;
    };
    let coding = CODINGS[usize::from(*coding) % CODINGS.len()];
    let (Some(whole), Some(pieces)) = (decode(coding, input, usize::MAX), decode(coding, input, 1))
    else {
        return;
    };
    assert_eq!(whole, pieces, "octet by octet");
    let limit = usize::try_from(LIMITS.output).unwrap();
    assert!(whole.len() <= limit);
    if input.is_empty() {
        return;
    }
    let mut theirs = Vec::new();
    match coding {
        b"gzip" => flate2::read::GzDecoder::new(input).read_to_end(&mut theirs),
        b"identity" => {
            theirs.extend_from_slice(input);
            Ok(theirs.len())
        }
        _no_other_reader => return,
    }
    .expect("others read it");
    assert_eq!(whole, theirs, "others read the same");
}

/// The body; none if it is refused or not whole.
fn decode(coding: &[u8], input: &[u8], piece: usize) -> Option<Vec<u8>> {
    let mut decoder = Decoder::for_encodings(&[coding], LIMITS).ok()?;
    let mut body = BytesMut::new();
    for piece in input.chunks(piece) {
        decoder.feed(piece, &mut body).ok()?;
    }
    decoder.finish().ok()?;
    Some(body.to_vec())
}

/// What is read is what others read, and what they cannot read is refused.
pub(super) fn json(input: &[u8]) {
    let theirs = serde_json::from_slice::<serde_json::Value>(input);
    match json::parse(input) {
        Ok(ours) => assert_eq!(Some(&ours), theirs.as_ref().ok(), "others read the same"),
        Err(json::JsonError::Syntax { .. }) => {
            assert!(theirs.is_err(), "others read {theirs:?}");
        }
        Err(_limits) => {}
    }
}

/// The parts are what stands between the delimiters. The first line is the content type.
pub(super) fn multipart(input: &[u8]) {
    let Some(at) = input.iter().position(|&b| b == b'\n') else {
        return;
    };
    let (kind, body) = (&input[..at], &input[at + 1..]);
    let Ok(boundary) = multipart::Boundary::from_content_type(kind) else {
        return;
    };
    let Ok(parts) = multipart::parse(body, &boundary, multipart::Limits::default()) else {
        return;
    };
    let sum: usize = parts.iter().map(|it| it.body.len()).sum();
    assert!(sum <= body.len(), "parts overlap");
    for part in &parts {
        let range = body.as_ptr_range();
        assert!(part.body.is_empty() || range.contains(&part.body.as_ptr()));
    }
}
