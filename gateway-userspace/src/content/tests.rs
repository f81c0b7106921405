use std::io::Write as _;

use flate2::{
    Compression, GzBuilder,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use proptest::prelude::*;

use super::*;

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn bare(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn br(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 5, 22);
    encoder.write_all(data).unwrap();
    drop(encoder);
    out
}

fn zstd_frame(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A coding's name, and what encodes it.
struct Encoder(&'static str, fn(&[u8]) -> Vec<u8>);

const ENCODERS: [Encoder; 6] = [
    Encoder("gzip", gzip),
    Encoder("x-gzip", gzip),
    Encoder("deflate", zlib),
    Encoder("deflate", bare),
    Encoder("br", br),
    Encoder("zstd", zstd_frame),
];

const WIDE: Limits = Limits {
    output: 64 << 20,
    ratio: u64::MAX,
    ratio_from: 0,
};

fn decode_with(encodings: &str, limits: Limits, pieces: &[&[u8]]) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::for_encodings(&[encodings.as_bytes()], limits)?;
    let mut out = BytesMut::new();
    for piece in pieces {
        decoder.feed(piece, &mut out)?;
    }
    decoder.finish()?;
    Ok(out.to_vec())
}

fn decode(encodings: &str, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode_with(encodings, WIDE, &[body])
}

/// Text in which much repeats, and some does not.
fn sample() -> Vec<u8> {
    (0_u32..20_000)
        .flat_map(|n| format!("{} {:08x}\n", n % 7, n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect()
}

#[test]
fn each_coding_is_undone_octet_by_octet_and_at_once() {
    let data = sample();
    for Encoder(name, encode) in ENCODERS {
        let body = encode(&data);
        let single: Vec<&[u8]> = body.chunks(1).collect();
        assert!(decode(name, &body) == Ok(data.clone()), "{name}");
        assert!(
            decode_with(name, WIDE, &single) == Ok(data.clone()),
            "{name}"
        );
        assert_eq!(decode(name, &encode(b"")), Ok(Vec::new()), "{name}");
        assert_eq!(decode(name, b""), Ok(Vec::new()), "{name}");
    }
}

#[test]
fn decoders_go_from_thread_to_thread() {
    let decoder = Decoder::for_encodings(&[b"gzip, br, zstd"], WIDE).unwrap();
    std::thread::spawn(move || decoder.finish())
        .join()
        .unwrap()
        .unwrap();
}

#[test]
fn what_was_flushed_is_there_at_once() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(b"data: first\n\n").unwrap();
    encoder.flush().unwrap();
    let mut compressor = GzEncoder::new(Vec::new(), Compression::default());
    compressor.write_all(b"data: first\n\n").unwrap();
    compressor.flush().unwrap();
    let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    brotli.write_all(b"data: first\n\n").unwrap();
    brotli.flush().unwrap();
    for (name, begun) in [
        ("zstd", encoder.get_ref().as_slice()),
        ("gzip", compressor.get_ref()),
        ("br", brotli.get_ref()),
    ] {
        let mut decoder = Decoder::for_encodings(&[name.as_bytes()], WIDE).unwrap();
        let mut out = BytesMut::new();
        decoder.feed(begun, &mut out).unwrap();
        assert_eq!(out.as_ref(), b"data: first\n\n", "{name}");
        assert!(
            matches!(decoder.finish(), Err(DecodeError::Truncated(_))),
            "{name}"
        );
    }
}

#[test]
fn the_field_is_read_strictly() {
    let accepts = |values: &[&[u8]]| Decoder::for_encodings(values, WIDE).map(|d| d.stages.len());
    for (values, stages) in [
        (&[][..], Ok(0)),
        (&[&b""[..]][..], Ok(0)),
        (&[b"identity"], Ok(0)),
        (&[b"GZip"], Ok(1)),
        (&[b" gzip ,, identity"], Ok(1)),
        (&[b"gzip, br", b"zstd"], Ok(3)),
        (&[b"gzip, br", b"zstd,deflate"], Err(DecodeError::TooMany)),
        (&[b"compress"], Err(DecodeError::Unknown)),
        (&[b"gzip;q=1"], Err(DecodeError::Unknown)),
        (&[b"gzip br"], Err(DecodeError::Unknown)),
        (&[b"\"gzip\""], Err(DecodeError::Unknown)),
        (&[b"gzip\0"], Err(DecodeError::Unknown)),
        (&[b"dcb"], Err(DecodeError::Unknown)),
    ] {
        assert_eq!(accepts(values), stages, "{values:?}");
    }
}

#[test]
fn codings_are_undone_last_first() {
    let data = sample();
    let body = zstd_frame(&br(&gzip(&data)));
    assert!(decode("gzip, br, zstd", &body) == Ok(data));
    assert_eq!(
        decode("zstd, br, gzip", &body),
        Err(DecodeError::Corrupt(Coding::Gzip))
    );
}

#[test]
fn truncated_data_is_an_error_wherever_it_ends() {
    let data = b"a rose is a rose is a rose".repeat(3);
    for Encoder(name, encode) in ENCODERS {
        let body = encode(&data);
        for end in 1..body.len() {
            let result = decode(name, &body[..end]);
            assert!(
                matches!(result, Err(DecodeError::Truncated(_))),
                "{name} at {end}: {result:?}"
            );
        }
    }
}

#[test]
fn nothing_may_follow_the_end() {
    let data = b"a rose is a rose is a rose";
    for Encoder(name, encode) in ENCODERS {
        for tail in [encode(data), b"\0".to_vec(), b"\n".to_vec(), vec![0xff; 9]] {
            let body = [encode(data), tail.clone()].concat();
            let single: Vec<&[u8]> = body.chunks(1).collect();
            for pieces in [&[body.as_slice()][..], &single] {
                let result = decode_with(name, WIDE, pieces);
                assert!(
                    matches!(result, Err(DecodeError::Trailing(_))),
                    "{name}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn checksums_and_headers_are_checked() {
    let data = b"a rose is a rose is a rose";
    let broken = |body: &[u8], at: usize| {
        let mut body = body.to_vec();
        body[at] ^= 0x40;
        body
    };
    for (name, body, from_end) in [
        ("gzip", gzip(data), 8),
        ("gzip", gzip(data), 1),
        ("deflate", zlib(data), 1),
        ("zstd", zstd_frame(data), 1),
    ] {
        let at = body.len() - from_end;
        let result = decode(name, &broken(&body, at));
        assert!(
            matches!(result, Err(DecodeError::Corrupt(_))),
            "{name}: {result:?}"
        );
    }
    // A reserved flag, another method, another magic number.
    for at in [3, 2, 0] {
        let mut body = gzip(data);
        body[at] = 0xe0;
        assert_eq!(
            decode("gzip", &body),
            Err(DecodeError::Corrupt(Coding::Gzip))
        );
    }
    // A zlib header that asks for a dictionary.
    assert_eq!(
        decode("deflate", b"\x78\xbb\0\0\0\x01\x03\0"),
        Err(DecodeError::Corrupt(Coding::Deflate))
    );
    // Names and comments are passed over.
    let mut named = GzBuilder::new()
        .filename("x".repeat(2000))
        .comment("y".repeat(2000))
        .extra(vec![7; 2000])
        .write(Vec::new(), Compression::default());
    named.write_all(data).unwrap();
    let named = named.finish().unwrap();
    assert_eq!(decode("gzip", &named), Ok(data.to_vec()));
    assert_eq!(decode("x-gzip", &gzip(data)), Ok(data.to_vec()));
}

#[test]
fn a_distance_before_the_start_is_refused() {
    // Fixed Huffman codes: "a", then three octets from 2 back, where there is 1.
    assert_eq!(
        decode("deflate", &[0x4b, 0x04, 0x42, 0x00]),
        Err(DecodeError::Corrupt(Coding::Deflate))
    );
}

#[test]
fn the_output_limit_holds_to_the_octet() {
    for Encoder(name, encode) in ENCODERS {
        let limits = Limits {
            output: 1 << 20,
            ..WIDE
        };
        for (octets, fits) in [(1 << 20, true), ((1 << 20) + 1, false)] {
            let body = encode(&vec![b' '; octets]);
            for pieces in [
                vec![body.as_slice()],
                body.chunks(1).collect(),
                body.chunks(100).collect(),
            ] {
                let mut decoder = Decoder::for_encodings(&[name.as_bytes()], limits).unwrap();
                let mut out = BytesMut::new();
                let fed = pieces
                    .iter()
                    .try_for_each(|piece| decoder.feed(piece, &mut out));
                assert!(out.len() <= 1 << 20, "{name}");
                let expected = if fits {
                    Ok(())
                } else {
                    Err(DecodeError::TooLarge)
                };
                assert_eq!(fed, expected, "{name} {octets}");
                assert_eq!(decoder.finish(), expected, "{name} {octets}");
            }
        }
    }
    let plain = Limits { output: 4, ..WIDE };
    assert_eq!(
        decode_with("identity", plain, &[b"12", b"34"]),
        Ok(b"1234".to_vec())
    );
    assert_eq!(
        decode_with("identity", plain, &[b"12", b"345"]),
        Err(DecodeError::TooLarge)
    );
}

#[test]
fn the_ratio_limit_holds_to_the_octet() {
    let body = gzip(&vec![0; 500_000]);
    let ratio = 500_000_u64.div_ceil(body.len() as u64);
    let with = |ratio, ratio_from| {
        let limits = Limits {
            ratio,
            ratio_from,
            ..WIDE
        };
        decode_with("gzip", limits, &[&body]).map(|out| out.len())
    };
    assert_eq!(with(ratio, 0), Ok(500_000));
    assert_eq!(with(ratio - 1, 0), Err(DecodeError::Ratio));
    assert_eq!(with(1, 500_000), Ok(500_000));
    assert_eq!(with(1, 499_999), Err(DecodeError::Ratio));
}

#[test]
fn a_bomb_within_a_bomb_and_one_that_gives_nothing_are_refused() {
    let inner = zstd_frame(&vec![0; 200 << 20]);
    for layers in [
        ("zstd", inner.clone()),
        ("zstd, gzip", gzip(&inner)),
        ("zstd, gzip, br", br(&gzip(&inner))),
    ] {
        let result = decode_with(layers.0, Limits::default(), &[&layers.1]).map(|out| out.len());
        assert!(
            matches!(result, Err(DecodeError::Ratio | DecodeError::TooLarge)),
            "{result:?}"
        );
    }
    // Empty stored blocks: what the outer coding gives is counted, though the inner gives nothing.
    let idle = gzip(&b"\0\0\0\xff\xff".repeat(4 << 20));
    assert_eq!(
        decode_with("deflate, gzip", Limits::default(), &[&idle]),
        Err(DecodeError::Ratio)
    );
}

#[test]
fn zstd_windows_end_at_8_mib() {
    let framed = |log: u32| {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&vec![7; 9 << 20]).unwrap();
        encoder.finish().unwrap()
    };
    assert!(decode("zstd", &framed(23)).is_ok());
    assert_eq!(decode("zstd", &framed(24)), Err(DecodeError::Window));
}

#[test]
fn large_brotli_windows_are_refused() {
    let parameters = brotli::enc::BrotliEncoderParams {
        large_window: true,
        lgwin: 26,
        ..Default::default()
    };
    let mut body = Vec::new();
    brotli::BrotliCompress(&mut sample().as_slice(), &mut body, &parameters).unwrap();
    assert_eq!(
        decode("br", &body),
        Err(DecodeError::Corrupt(Coding::Brotli))
    );
}

#[test]
fn an_error_stays() {
    let mut decoder = Decoder::for_encodings(&[b"gzip"], WIDE).unwrap();
    let mut out = BytesMut::new();
    let error = Err(DecodeError::Corrupt(Coding::Gzip));
    assert_eq!(decoder.feed(b"plain text", &mut out), error);
    assert_eq!(decoder.feed(&gzip(b"x"), &mut out), error);
    assert_eq!(decoder.finish(), error);
    assert!(out.is_empty());
}

/// Cuts where the fractions say.
fn cut<'a>(body: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = at.iter().map(|i| i.index(body.len() + 1)).collect();
    ends.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in ends {
        pieces.push(&body[start..end]);
        start = end;
    }
    pieces.push(&body[start..]);
    pieces
}

proptest! {
    #[test]
    fn what_was_encoded_comes_back(
        data in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..40_000),
        layers in prop::collection::vec(0..ENCODERS.len(), 0..4),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut body = data.clone();
        let mut names = Vec::new();
        for layer in layers {
            let Encoder(name, encode) = ENCODERS[layer];
            body = encode(&body);
            names.push(name);
        }
        let result = decode_with(&names.join(","), WIDE, &cut(&body, &at));
        prop_assert!(result == Ok(data));
    }

    #[test]
    fn damage_never_panics_and_chunking_never_matters(
        data in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..2_000),
        coding in 0..ENCODERS.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let Encoder(name, encode) = ENCODERS[coding];
        let mut body = encode(&data);
        for (index, octet) in damage {
            let index = index.index(body.len());
            body[index] = octet;
        }
        let limits = Limits { output: 100_000, ..WIDE };
        let whole = decode_with(name, limits, &[&body]);
        let pieces = decode_with(name, limits, &cut(&body, &at));
        prop_assert_eq!(whole.is_ok(), pieces.is_ok());
        if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
            prop_assert!(whole == pieces);
        }
    }

    #[test]
    fn noise_never_panics(
        body in prop::collection::vec(any::<u8>(), 0..300),
        coding in 0..ENCODERS.len(),
    ) {
        let _any = decode_with(ENCODERS[coding].0, Limits::default(), &[&body]).is_ok();
    }
}
