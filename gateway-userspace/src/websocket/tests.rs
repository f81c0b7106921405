use std::io::{self, Cursor, Read, Write};

use bytes::{Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use tungstenite::{Message, WebSocket, protocol::Role as TheirRole};

use super::{
    frame::{Header, Opcode},
    handshake::{Deflate, Negotiated},
    *,
};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const WITH_DEFLATE: Negotiated = Negotiated {
    deflate: Some(Deflate {
        server_no_takeover: false,
        client_no_takeover: false,
        server_bits: None,
        client_bits: None,
    }),
    protocol: None,
};

/// Writes a frame with this first octet.
fn frame(writer: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = if writer == Role::Client { 0x80 } else { 0 };
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(short as u8 | mask),
        middle @ 126..=0xffff => {
            out.push(126 | mask);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(127 | mask);
            out.extend((long as u64).to_be_bytes());
        }
    }
    let mut payload = payload.to_vec();
    if writer == Role::Client {
        out.extend(KEY);
        frame::mask(&mut payload, KEY);
    }
    out.extend(payload);
    out
}

/// Reads pieces as they come, up to the first error.
fn read_pieces<'a>(
    mut reader: Reader,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, Option<WsError>) {
    let (mut input, mut events) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match reader.feed(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(reader.feed(&mut input), Err(error), "an error stays");
                    return (events, Some(error));
                }
            }
        }
    }
    (events, None)
}

fn read(sender: Role, negotiated: &Negotiated, wire: &[u8]) -> Result<Vec<Event>, WsError> {
    let reader = || Reader::new(sender, negotiated, Limits::default());
    let whole = read_pieces(reader(), [wire]);
    assert_eq!(
        whole,
        read_pieces(reader(), wire.chunks(1)),
        "octet by octet"
    );
    whole.1.map_or(Ok(whole.0), Err)
}

fn plain(sender: Role, wire: &[u8]) -> Result<Vec<Event>, WsError> {
    read(sender, &Negotiated::default(), wire)
}

fn message(kind: Kind, payload: &[u8], wire: &[u8]) -> Event {
    let payload = Bytes::copy_from_slice(payload);
    Event {
        content: Content::Message { kind, payload },
        wire: Bytes::copy_from_slice(wire),
    }
}

#[test]
fn the_examples_of_the_standard() {
    // RFC 6455, 5.7.
    let text = [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    let hello = |wire: &[u8]| Ok(vec![message(Kind::Text, b"Hello", wire)]);
    assert_eq!(plain(Role::Server, &text), hello(&text));
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(plain(Role::Client, masked), hello(masked));
    let fragments = b"\x01\x03Hel\x80\x02lo";
    assert_eq!(plain(Role::Server, fragments), hello(fragments));
    let content = Content::Ping(Bytes::from_static(b"Hello"));
    let wire = Bytes::from_static(b"\x89\x05Hello");
    assert_eq!(
        plain(Role::Server, b"\x89\x05Hello"),
        Ok(vec![Event { content, wire }])
    );
    let content = Content::Pong(Bytes::from_static(b"Hello"));
    let wire = Bytes::from_static(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    assert_eq!(
        plain(Role::Client, &wire),
        Ok(vec![Event {
            content,
            wire: wire.clone()
        }])
    );
    for (octets, header) in [
        (256, &b"\x82\x7e\x01\x00"[..]),
        (65536, b"\x82\x7f\0\0\0\0\0\x01\0\0"),
    ] {
        let payload = vec![7; octets];
        let wire = [header, &payload].concat();
        let expected = message(Kind::Binary, &payload, &wire);
        assert_eq!(plain(Role::Server, &wire), Ok(vec![expected]));
    }
}

#[test]
fn the_examples_of_compression() {
    // RFC 7692, 7.2.3: one block, two fragments, a window taken over, no compression, a last block.
    let one = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00";
    let two = b"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00";
    let again = b"\xc1\x05\xf2\x00\x11\x00\x00";
    let stored = b"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00";
    let last = b"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00";
    let blocks = b"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00";
    let hello = |wire: &[u8]| message(Kind::Text, b"Hello", wire);
    for wire in [&one[..], two, stored, last, blocks] {
        assert_eq!(
            read(Role::Server, &WITH_DEFLATE, wire),
            Ok(vec![hello(wire)])
        );
    }
    assert_eq!(
        read(Role::Server, &WITH_DEFLATE, &[&one[..], again].concat()),
        Ok(vec![hello(one), hello(again)])
    );
    assert_eq!(
        read(Role::Server, &WITH_DEFLATE, again),
        Err(WsError::Deflate)
    );
    // Behind a last block there is nothing to refer to.
    assert_eq!(
        read(Role::Server, &WITH_DEFLATE, &[&last[..], again].concat()),
        Err(WsError::Deflate)
    );
    let forgets = Negotiated {
        deflate: Some(Deflate {
            server_no_takeover: true,
            ..Deflate::default()
        }),
        protocol: None,
    };
    assert_eq!(
        read(Role::Server, &forgets, &[&one[..], one].concat()),
        Ok(vec![hello(one), hello(one)])
    );
    assert_eq!(
        read(Role::Server, &forgets, &[&one[..], again].concat()),
        Err(WsError::Deflate)
    );
    let uncompressed = b"\x81\x05Hello";
    assert_eq!(
        read(Role::Server, &WITH_DEFLATE, uncompressed),
        Ok(vec![hello(uncompressed)])
    );
    assert_eq!(
        read(Role::Server, &WITH_DEFLATE, b"\xc1\x01\x00"),
        Ok(vec![message(Kind::Text, b"", b"\xc1\x01\x00")])
    );
}

#[test]
fn compressed_messages_end_at_the_end_of_a_block() {
    for payload in [
        &b""[..],
        // Cut short, in a block of Huffman codes and in a stored one.
        b"\xf2\x48\xcd",
        b"\x00\x05\x00\xfa\xff\x48",
        // The tail would be content.
        b"\x00\x09\x00\xf6\xff\x48\x65\x6c\x6c\x6f",
        // The tail is there already, or half of it.
        b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00",
        b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff",
        // A last block without the octet behind it, and with more.
        b"\xf3\x48\xcd\xc9\xc9\x07\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00\x00",
        b"\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x48\xcd\xc9\xc9\x07\x00",
        b"\xff",
    ] {
        let wire = frame(Role::Server, 0xc2, payload);
        assert_eq!(
            read(Role::Server, &WITH_DEFLATE, &wire),
            Err(WsError::Deflate),
            "{}",
            payload.escape_ascii()
        );
    }
}

#[test]
fn each_violation_has_its_error() {
    let server: [(&[u8], WsError); 27] = [
        (b"\x81\x80", WsError::Mask),
        (b"\x91", WsError::ReservedBit),
        (b"\xa1", WsError::ReservedBit),
        (b"\xc1", WsError::ReservedBit),
        (b"\x83", WsError::Opcode),
        (b"\x87", WsError::Opcode),
        (b"\x8b", WsError::Opcode),
        (b"\x8f", WsError::Opcode),
        (b"\x08", WsError::ControlFragmented),
        (b"\x09", WsError::ControlFragmented),
        (b"\x0a", WsError::ControlFragmented),
        (b"\x89\x7e", WsError::ControlTooLong),
        (b"\x88\x7f", WsError::ControlTooLong),
        (b"\x82\x7e\x00\x7d", WsError::Length),
        (b"\x82\x7f\0\0\0\0\0\0\xff\xff", WsError::Length),
        (b"\x82\x7f\x80\0\0\0\0\0\0\0", WsError::Length),
        (
            b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
            WsError::TooLarge,
        ),
        (b"\x80\x00", WsError::Continuation),
        (b"\x01\x00\x81\x00", WsError::Interleaved),
        (b"\x01\x00\x80\x00\x80\x00", WsError::Continuation),
        (b"\x81\x01\xff", WsError::Utf8),
        (b"\x01\x01\xc3\x80\x00", WsError::Utf8),
        (b"\x88\x01\x03", WsError::CloseCode),
        (b"\x88\x02\x03\xed", WsError::CloseCode),
        (b"\x88\x03\x03\xe8\xff", WsError::Utf8),
        (b"\x88\x00\x88", WsError::AfterClose),
        (b"\x88\x02\x03\xe8\x81\x00", WsError::AfterClose),
    ];
    for (wire, error) in server {
        let shown = wire.escape_ascii();
        let (_, found) = read_pieces(
            Reader::new(Role::Server, &Negotiated::default(), Limits::default()),
            wire.chunks(1),
        );
        assert_eq!(found, Some(error), "{shown}");
        assert_eq!(plain(Role::Server, wire), Err(error), "{shown}");
    }
    assert_eq!(plain(Role::Client, b"\x81\x05Hello"), Err(WsError::Mask));
    for wire in [&b"\x40\x00"[..], b"\xc9\x00", b"\x01\x00\xc0\x00"] {
        let result = read(Role::Server, &WITH_DEFLATE, wire);
        assert_eq!(result, Err(WsError::ReservedBit), "{}", wire.escape_ascii());
    }
    // A character may be cut by a fragment's end.
    let wire = b"\x01\x01\xc3\x80\x01\xa4";
    assert_eq!(
        plain(Role::Server, wire),
        Ok(vec![message(Kind::Text, "ä".as_bytes(), wire)])
    );
}

#[test]
fn close_codes_are_those_that_may_be_sent() {
    for code in 0..=u16::MAX {
        let result = plain_close(code);
        let allowed = (1000..5000).contains(&code)
            && !(1016..3000).contains(&code)
            && ![1004, 1005, 1006, 1015].contains(&code);
        assert_eq!(result.is_ok(), allowed, "{code}");
    }
}

fn plain_close(code: u16) -> Result<(Option<u16>, String), WsError> {
    close::parse(&code.to_be_bytes())
}

#[test]
fn control_frames_stand_between_fragments() {
    let (first, ping, rest) = (b"\x02\x01a", b"\x89\x01p", b"\x80\x01b");
    let wire = [&first[..], ping, rest].concat();
    let content = Content::Ping(Bytes::from_static(b"p"));
    let ping = Event {
        content,
        wire: Bytes::from_static(ping),
    };
    let whole = message(Kind::Binary, b"ab", b"\x02\x01a\x80\x01b");
    assert_eq!(plain(Role::Server, &wire), Ok(vec![ping, whole]));
}

#[test]
fn limits_fit_exactly() {
    let limits = Limits {
        message: 300,
        fragments: 3,
        ratio: 10,
        ratio_from: 200,
    };
    let read = |wire: &[u8]| {
        let reader = Reader::new(Role::Server, &WITH_DEFLATE, limits);
        let (events, error) = read_pieces(reader, [wire]);
        error.map_or(Ok(events.len()), Err)
    };
    let server = |first, octets| frame(Role::Server, first, &vec![b'x'; octets]);
    assert_eq!(read(&server(0x82, 300)), Ok(1));
    assert_eq!(read(&server(0x82, 301)[..4]), Err(WsError::TooLarge));
    let two = |second| [server(0x02, 150), server(0x80, second)].concat();
    assert_eq!(read(&two(150)), Ok(1));
    assert_eq!(read(&two(151)[..158]), Err(WsError::TooLarge));
    let three = [server(0x02, 0), server(0x00, 0), server(0x80, 0)].concat();
    assert_eq!(read(&three), Ok(1));
    let four = [
        server(0x02, 0),
        server(0x00, 0),
        server(0x00, 0),
        vec![0x80, 0],
    ]
    .concat();
    assert_eq!(read(&four), Err(WsError::TooManyFragments));

    let compressed = |octets: usize| {
        let payload = deflate(&mut fresh(), &vec![b'x'; octets]);
        (payload.len(), frame(Role::Server, 0xc2, &payload))
    };
    // Repeated octets take a dozen octets at most: the ratio holds where the limit does not.
    let (sent, wire) = compressed(200);
    assert!(sent * 10 < 200, "{sent}");
    assert_eq!(read(&wire), Ok(1));
    assert_eq!(read(&compressed(201).1), Err(WsError::Ratio));
    let text: Vec<u8> = b"abcdefghij".repeat(30);
    let payload = deflate(&mut fresh(), &text);
    let wire = frame(Role::Server, 0xc2, &payload);
    let open = Limits {
        ratio: 1000,
        ..limits
    };
    for (most, expected) in [(300, None), (299, Some(WsError::TooLarge))] {
        let limits = Limits {
            message: most,
            ..open
        };
        let reader = Reader::new(Role::Server, &WITH_DEFLATE, limits);
        assert_eq!(read_pieces(reader, [wire.as_slice()]).1, expected);
    }
}

#[test]
fn bombs_are_refused() {
    let mut compress = fresh();
    let payload = deflate(&mut compress, &vec![0; 32 << 20]);
    assert!(payload.len() < 40_000);
    let wire = frame(Role::Client, 0xc2, &payload);
    assert_eq!(
        read(Role::Client, &WITH_DEFLATE, &wire),
        Err(WsError::Ratio)
    );
}

#[test]
fn own_close_frames_are_read_by_others() {
    let long = "ä".repeat(100);
    for (reason, expected) in [("policy", "policy"), ("", ""), (&long, &"ä".repeat(61))] {
        for writer in [Role::Client, Role::Server] {
            let wire = close_frame(writer, 1008, reason, KEY);
            let content = Content::Close {
                code: Some(1008),
                reason: expected.to_owned(),
            };
            assert_eq!(
                plain(writer, &wire),
                Ok(vec![Event {
                    content,
                    wire: wire.clone()
                }])
            );
            let theirs = theirs(writer, &wire);
            let Some(Ok(Message::Close(Some(close)))) = theirs.first() else {
                panic!("no close frame: {theirs:?}");
            };
            assert_eq!(u16::from(close.code), 1008);
            assert_eq!(close.reason.as_str(), expected);
        }
    }
}

/// A raw compressor of the largest window.
fn fresh() -> Compress {
    Compress::new(Compression::default(), false)
}

/// Compresses a message as a sender does (RFC 7692, 7.2.1).
fn deflate(compress: &mut Compress, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 1024);
    let before = compress.total_in();
    let mut input = message;
    loop {
        compress
            .compress_vec(input, &mut out, FlushCompress::Sync)
            .unwrap();
        input = &message[(compress.total_in() - before) as usize..];
        if input.is_empty() && out.len() < out.capacity() {
            break;
        }
        out.reserve(1024);
    }
    if message.is_empty() && out.is_empty() {
        return vec![0];
    }
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

/// What is read from, and a place for what is written.
struct Wire(Cursor<Vec<u8>>);

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl Write for Wire {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite reads, up to its first error.
fn theirs(sender: Role, wire: &[u8]) -> Vec<tungstenite::Result<Message>> {
    let reader = match sender {
        Role::Client => TheirRole::Server,
        Role::Server => TheirRole::Client,
    };
    let mut socket = WebSocket::from_raw_socket(Wire(Cursor::new(wire.to_vec())), reader, None);
    let mut messages = Vec::new();
    loop {
        let next = socket.read();
        let failed = next.is_err();
        messages.push(next);
        if failed {
            return messages;
        }
    }
}

/// Ours in their words.
fn as_theirs(event: &Event) -> Message {
    match &event.content {
        Content::Message { kind, payload } => match kind {
            Kind::Text => Message::text(str::from_utf8(payload).unwrap()),
            Kind::Binary => Message::binary(payload.clone()),
        },
        Content::Ping(payload) => Message::Ping(payload.clone()),
        Content::Pong(payload) => Message::Pong(payload.clone()),
        Content::Close { code, reason } => {
            Message::Close(code.map(|code| tungstenite::protocol::CloseFrame {
                code: code.into(),
                reason: reason.as_str().into(),
            }))
        }
    }
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Client), Just(Role::Server)]
}

fn cut<'a>(wire: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = at.iter().map(|i| i.index(wire.len() + 1)).collect();
    ends.extend([0, wire.len()]);
    ends.sort_unstable();
    ends.windows(2).map(|w| &wire[w[0]..w[1]]).collect()
}

/// Frames that are often in order.
fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let first = prop::sample::select(vec![
        0x81, 0x82, 0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8a, 0x88, 0x83, 0xc1,
    ]);
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..8),
        "[a-zä]{0,70}".prop_map(String::into_bytes),
        Just(b"\x03\xe8bye".to_vec()),
        (120_usize..140).prop_map(|octets| vec![b'x'; octets]),
        (65_530_usize..65_545).prop_map(|octets| vec![b'x'; octets]),
    ];
    prop::collection::vec((first, payload), 0..10)
}

proptest! {
    #[test]
    fn what_tungstenite_writes_is_read(
        sender in roles(),
        messages in prop::collection::vec(
            prop_oneof![
                "[a-zä]{0,200}".prop_map(Message::text),
                prop::collection::vec(any::<u8>(), 0..70_000).prop_map(Message::binary),
                prop::collection::vec(any::<u8>(), 0..126).prop_map(|p| Message::Ping(p.into())),
                prop::collection::vec(any::<u8>(), 0..126).prop_map(|p| Message::Pong(p.into())),
            ],
            0..6,
        ),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let writer = match sender {
            Role::Client => TheirRole::Client,
            Role::Server => TheirRole::Server,
        };
        let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), writer, None);
        for message in &messages {
            socket.send(message.clone()).unwrap();
        }
        let wire = socket.get_ref().get_ref().clone();
        let reader = Reader::new(sender, &Negotiated::default(), Limits::default());
        let (events, error) = read_pieces(reader, cut(&wire, &at));
        prop_assert_eq!(error, None);
        let read: Vec<Message> = events.iter().map(as_theirs).collect();
        prop_assert!(read == messages);
        let forwarded: Vec<u8> = events.iter().flat_map(|event| event.wire.to_vec()).collect();
        prop_assert!(forwarded == wire);
    }

    #[test]
    fn what_is_read_tungstenite_reads_alike(
        sender in roles(),
        frames in frames(),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let wire: Vec<u8> = frames
            .iter()
            .flat_map(|(first, payload)| frame(sender, *first, payload))
            .collect();
        let reader = || Reader::new(sender, &Negotiated::default(), Limits::default());
        let (events, error) = read_pieces(reader(), cut(&wire, &at));
        let (whole, same) = read_pieces(reader(), [wire.as_slice()]);
        prop_assert!(events == whole && error == same);
        let read: Vec<Message> = events.iter().map(as_theirs).collect();
        let theirs = theirs(sender, &wire);
        // A text that is not UTF-8 is an error for them at its first wrong fragment, here at its end.
        let early = matches!(theirs.last(), Some(Err(tungstenite::Error::Utf8(_))));
        let theirs: Vec<Message> = theirs.into_iter().filter_map(Result::ok).collect();
        prop_assert!(
            theirs.starts_with(&read) || early && read.starts_with(&theirs),
            "{read:?} {theirs:?} {error:?}"
        );
        if error.is_none() && !early {
            prop_assert!(theirs.len() == read.len());
        }
    }

    #[test]
    fn compressed_messages_come_back(
        sender in roles(),
        takeover: bool,
        messages in prop::collection::vec(
            prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..20_000),
            0..6,
        ),
        splits in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let negotiated = Negotiated {
            deflate: Some(Deflate {
                server_no_takeover: !takeover,
                client_no_takeover: !takeover,
                ..Deflate::default()
            }),
            protocol: None,
        };
        let mut compress = fresh();
        let (mut wire, mut expected) = (Vec::new(), Vec::new());
        for payload in &messages {
            if !takeover {
                compress.reset();
            }
            let compressed = deflate(&mut compress, payload);
            let fragments = cut(&compressed, &splits);
            let count = fragments.len();
            let mut sent = Vec::new();
            for (n, fragment) in fragments.into_iter().enumerate() {
                let first = if n == 0 { 0x42 } else { 0 } | if n + 1 == count { 0x80 } else { 0 };
                sent.extend(frame(sender, first, fragment));
            }
            expected.push(message(Kind::Binary, payload, &sent));
            wire.extend(sent);
        }
        let reader = Reader::new(sender, &negotiated, Limits::default());
        let (events, error) = read_pieces(reader, cut(&wire, &at));
        prop_assert_eq!(error, None);
        prop_assert!(events == expected);
    }

    #[test]
    fn noise_never_panics(
        sender in roles(),
        wire in prop::collection::vec(any::<u8>(), 0..60),
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let _any = read(sender, &WITH_DEFLATE, &wire);
        let _any = read(sender, &WITH_DEFLATE, &frame(sender, 0xc2, &payload));
        if let Ok(Some(header)) = Header::parse(&wire, sender, true) {
            prop_assert!(header.size <= frame::HEADER_MAX);
            prop_assert!(header.last || !header.opcode.is_control());
            prop_assert!(header.opcode != Opcode::Continuation || !header.compressed);
        }
    }
}
