//! Heads and chunked bodies of HTTP/1.1.

use bytes::{Bytes, BytesMut};

use crate::proxy::http1::{
    chunked::{self, ChunkError, Decoder, Step},
    fields::Fields,
    framing::Body,
    request::RequestHead,
    response::ResponseHead,
    scan::Scanner,
    target::{PathAndQuery, Target},
};

const HEAD_MAX: usize = 4096;
/// What is written may be longer than what was read: it names the upstream.
const WRITTEN_MAX: usize = 2 * HEAD_MAX;
const FIELDS_MAX: usize = 64;

/// A head is found wherever segments end, has one reading, and is written as it was read.
pub(super) fn request_head(input: &[u8]) {
    let Some(block) = head(input, HEAD_MAX) else {
        return;
    };
    let Ok(head) = RequestHead::parse(&block, FIELDS_MAX) else {
        return;
    };
    assert_one_framing(&block);
    assert!(values(&block, "host").len() <= 1, "two Host fields");
    let path = match &head.target {
        Target::Authority(..) => return,
        Target::Absolute(_, path) | Target::Origin(path) => path,
    };
    assert_plain(path);

    let mut written = BytesMut::new();
    head.write(&mut written, path, "upstream.example", &[]);
    let block = self::head(&written, WRITTEN_MAX).expect("what is written is a head");
    assert_eq!(block, written.as_ref(), "and nothing but a head");
    let again = RequestHead::parse(&block, FIELDS_MAX + 4).expect("what is written is read");
    assert_eq!(again.method, head.method);
    assert_eq!(again.body, head.body);
    assert_eq!(values(&block, "host"), [b"upstream.example"]);
    match &again.target {
        Target::Origin(it) => assert_eq!(it, path),
        other => panic!("written as {other:?}"),
    }
    let mut rewritten = BytesMut::new();
    again.write(&mut rewritten, path, "upstream.example", &[]);
    assert_eq!(rewritten, written, "a second hop sees the same");
}

/// The first octet says whether it answers HEAD, and whether it may switch protocols.
pub(super) fn response_head(input: &[u8]) {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    let Some(block) = head(input, HEAD_MAX) else {
        return;
    };
    let (to_head, switches) = (kind & 1 == 1, kind & 2 == 2);
    let Ok(head) = ResponseHead::parse(&block, FIELDS_MAX, to_head, switches) else {
        return;
    };
    if head.status == 101 {
        return;
    }
    if head.body != Body::Empty {
        assert_one_framing(&block);
    }
    let version = crate::proxy::http1::Version::Http11;
    let mut written = BytesMut::new();
    head.write(&mut written, version, head.keep_alive);
    let block = self::head(&written, WRITTEN_MAX).expect("what is written is a head");
    assert_eq!(block, written.as_ref(), "and nothing but a head");
    let again = ResponseHead::parse(&block, FIELDS_MAX + 4, to_head, false)
        .expect("what is written is read");
    assert_eq!(again.status, head.status);
    if head.body != Body::UntilClose {
        assert_eq!(again.body, head.body);
    }
}

/// A body says the same wherever segments end, and once more when it is written.
pub(super) fn chunked(input: &[u8]) {
    let whole = decode(input, usize::MAX);
    assert_eq!(whole, decode(input, 1), "octet by octet");
    assert_eq!(whole, decode(input, 3), "in threes");
    let Ok(Some((body, rest))) = whole else {
        return;
    };
    let mut written = BytesMut::new();
    if !body.is_empty() {
        written.extend_from_slice(&chunked::size_line(body.len()));
        written.extend_from_slice(&body);
        written.extend_from_slice(b"\r\n");
    }
    chunked::write_end(&mut written, &Fields::default());
    written.extend_from_slice(&rest);
    assert_eq!(decode(&written, usize::MAX), Ok(Some((body, rest))));
}

type Decoded = Result<Option<(Vec<u8>, Vec<u8>)>, ChunkError>;

/// The body and what followed it; none if it did not end.
fn decode(input: &[u8], piece: usize) -> Decoded {
    let mut decoder = Decoder::new(HEAD_MAX, FIELDS_MAX);
    let (mut body, mut buffer) = (Vec::new(), BytesMut::new());
    let mut pieces = input.chunks(piece);
    loop {
        match decoder.step(&mut buffer)? {
            Step::Data(data) => body.extend_from_slice(&data),
            Step::End(_trailers) => {
                buffer.extend(pieces.flatten());
                return Ok(Some((body, buffer.to_vec())));
            }
            Step::Starved => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Ok(None),
            },
        }
    }
}

/// The head that the octets begin with, by whatever pieces it comes.
fn head(input: &[u8], most: usize) -> Option<Bytes> {
    let whole = Scanner::default().scan(input, most);
    let mut scanner = Scanner::default();
    let grown = (1..=input.len())
        .map(|length| scanner.scan(&input[..length], most))
        .find(|it| !matches!(it, Ok(None)))
        .unwrap_or(Ok(None));
    match (whole, grown) {
        // What is wrong with a line shows only at its end; that it is too long, before.
        (Err(_), Err(_)) => None,
        (whole, grown) => {
            assert_eq!(whole, grown, "octet by octet");
            let length = whole.ok().flatten()?;
            Some(Bytes::copy_from_slice(&input[..length]))
        }
    }
}

/// Values of the fields of this name, by splitting at line ends and colons.
fn values<'a>(block: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let lines = block.split(|&b| b == b'\n').skip(1);
    let fields = lines.filter_map(|line| {
        let at = line.iter().position(|&b| b == b':')?;
        Some((&line[..at], line[at + 1..].trim_ascii()))
    });
    fields
        .filter(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value)
        .collect()
}

/// Whoever reads the block finds the end of the body by one way.
fn assert_one_framing(block: &[u8]) {
    let lengths = values(block, "content-length");
    let codings = values(block, "transfer-encoding");
    assert!(lengths.is_empty() || codings.is_empty(), "two framings");
    assert!(codings.len() <= 1, "two codings");
    assert!(
        lengths.windows(2).all(|pair| pair[0] == pair[1]),
        "two lengths"
    );
}

/// No reader of the path can take it for another.
fn assert_plain(path: &PathAndQuery) {
    let text = path.path().to_ascii_lowercase();
    for segment in text.split('/') {
        let dots = segment.replace("%2e", ".");
        assert!(dots != "." && dots != "..", "dot segments in {text}");
    }
    for hidden in ["%2f", "%5c", "%00", "%0a", "\\"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
    assert_eq!(
        PathAndQuery::parse(&path.to_string()).as_ref(),
        Ok(path),
        "and it is read as it is written"
    );
}
