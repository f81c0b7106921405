//! HTTP/2 that is not meant well, frame by frame: each flood ends with the connection, and costs
//! the upstream nothing.

use gateway_userspace::config::Limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    rig::{Line, Rig, in_time, pick},
    secure::SecureOrigin,
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes of RFC 9113, 7.
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        Self {
            kind,
            flags,
            stream,
            payload,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([self.kind, self.flags]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// Fields of a GET, as HPACK literals that need no table.
fn fields(authority: &str, path: &str) -> Vec<u8> {
    // :method GET and :scheme http are in the static table.
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(1, authority), (4, path)] {
        block.push(index);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    block
}

struct Attacker {
    stream: TcpStream,
    authority: String,
}

impl Attacker {
    async fn begin(rig: &Rig, origin: &SecureOrigin) -> Self {
        let mut stream = rig.connect().await.0;
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(Frame::new(SETTINGS, 0, 0, []).encode());
        in_time(stream.write_all(&hello)).await.unwrap();
        Self {
            stream,
            authority: format!("origin.test:{}", origin.address.port()),
        }
    }

    fn get(&self, stream: u32, path: &str, flags: u8) -> Frame {
        let block = fields(&self.authority, path);
        Frame::new(HEADERS, END_HEADERS | flags, stream, block)
    }

    /// Sends as much as is taken.
    async fn try_send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let bytes: Vec<u8> = frames.into_iter().flat_map(|it| it.encode()).collect();
        let _refused = in_time(self.stream.write_all(&bytes)).await;
    }

    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        in_time(self.stream.read_exact(&mut head)).await.ok()?;
        let [a, b, c, kind, flags, s, t, u, v] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        let mut payload = vec![0; length];
        in_time(self.stream.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([s, t, u, v]);
        Some(Frame::new(kind, flags, stream, payload))
    }

    /// Reads until a frame of this kind.
    async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Why the connection was ended.
    async fn goodbye(&mut self) -> Option<u32> {
        let frame = self.until(GOAWAY).await?;
        frame.payload.get(4..8).map(code)
    }
}

fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

async fn rig() -> (SecureOrigin, Rig) {
    let origin = SecureOrigin::plain().await;
    let rig = Rig::start(&origin.rule("paths = [\"/open/**\"]\n"));
    rig.set_line(Line::Redirected(origin.address));
    (origin, rig)
}

#[tokio::test]
async fn frames_as_these_tests_make_them_are_understood() {
    let (origin, rig) = rig().await;
    let mut attacker = Attacker::begin(&rig, &origin).await;
    let get = attacker.get(1, "/open/a", END_STREAM);
    attacker.try_send([get]).await;
    let answer = attacker.until(HEADERS).await.unwrap();
    // :status 200 is in the static table.
    assert_eq!(answer.payload.first(), Some(&0x88));
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn resets_in_rapid_succession_end_the_connection() {
    let (origin, rig) = rig().await;
    let mut attacker = Attacker::begin(&rig, &origin).await;
    let frames: Vec<_> = (0..2000_u32)
        .flat_map(|n| {
            let stream = 2 * n + 1;
            let cancel = Frame::new(RST_STREAM, 0, stream, 8_u32.to_be_bytes());
            [attacker.get(stream, "/shut", END_STREAM), cancel]
        })
        .collect();
    attacker.try_send(frames).await;
    assert_eq!(attacker.goodbye().await, Some(ENHANCE_YOUR_CALM));
    assert_eq!(origin.seen(), []);
    drop(attacker);
    let records = rig.records().await;
    let last = records.last().unwrap();
    assert_eq!(
        pick(last, &["kind", "outcome", "reason", "blame"]),
        json!(["http", "deny", "agent_http2", "agent"])
    );
    assert!(records.len() < 200, "{} records", records.len());
}

#[tokio::test]
async fn no_more_streams_than_the_limit_are_open() {
    let (origin, rig) = rig().await;
    let mut attacker = Attacker::begin(&rig, &origin).await;
    // None of them ends, so each stays open.
    let frames: Vec<_> = (0..129)
        .map(|n| attacker.get(2 * n + 1, "/open/a", 0))
        .collect();
    attacker.try_send(frames).await;
    let refused = attacker.until(RST_STREAM).await.unwrap();
    assert_eq!(refused.stream, 2 * 128 + 1);
    assert_eq!(code(&refused.payload), REFUSED_STREAM);
}

#[tokio::test]
async fn heads_without_end_are_cut() {
    let (origin, rig) = rig().await;
    let mut attacker = Attacker::begin(&rig, &origin).await;
    let first = Frame::new(HEADERS, 0, 1, fields(&attacker.authority, "/open/a"));
    // `x: aaa…`, over and over, never ended.
    let mut block = vec![0, 1, b'x', 100];
    block.extend([b'a'; 100]);
    let block = block.repeat(150);
    let more = (0..2000).map(|_| Frame::new(CONTINUATION, 0, 1, block.clone()));
    attacker.try_send([first].into_iter().chain(more)).await;
    assert!(matches!(attacker.goodbye().await, Some(1..)));
    assert_eq!(origin.seen(), []);
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let (origin, rig) = rig().await;
    let mut attacker = Attacker::begin(&rig, &origin).await;
    let mut block = fields(&attacker.authority, "/open/a");
    for _ in 0..1000 {
        block.extend([0, 1, b'x', 100]);
        block.extend([b'a'; 100]);
    }
    let (first, rest) = block.split_at(16_000);
    let mut frames = vec![Frame::new(HEADERS, END_STREAM, 1, first)];
    let pieces: Vec<_> = rest.chunks(16_000).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let flags = if at + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        frames.push(Frame::new(CONTINUATION, flags, 1, *piece));
    }
    attacker.try_send(frames).await;
    let answer = attacker.until(HEADERS).await.unwrap();
    // :status with a literal value: 431.
    assert!(answer.payload.windows(3).any(|it| it == b"431") || answer.payload.len() < 40);
    assert_eq!(origin.seen(), []);
}

#[tokio::test]
async fn questions_that_nobody_listens_to_the_answers_of_are_not_taken_without_end() {
    for frame in [
        Frame::new(PING, 0, 0, [0; 8]),
        Frame::new(SETTINGS, 0, 0, []),
    ] {
        let (origin, rig) = rig().await;
        let mut attacker = Attacker::begin(&rig, &origin).await;
        let bytes = frame.encode().repeat(1000);
        let mut sent = 0;
        let pause = std::time::Duration::from_secs(1);
        // More than all buffers of both kernels hold.
        while sent < 64 << 20 {
            match tokio::time::timeout(pause, attacker.stream.write_all(&bytes)).await {
                Ok(Ok(())) => sent += bytes.len(),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        assert!(sent < 64 << 20, "all of it was taken: {}", frame.kind);
    }
}

#[tokio::test]
async fn empty_pieces_of_a_body_are_not_taken_without_end() {
    let (origin, rig) = rig().await;
    let mut attacker = Attacker::begin(&rig, &origin).await;
    let get = attacker.get(1, "/open/a", 0);
    let empty = (0..200_000).map(|_| Frame::new(DATA, 0, 1, []));
    attacker.try_send([get].into_iter().chain(empty)).await;
    assert_eq!(attacker.goodbye().await, Some(ENHANCE_YOUR_CALM));
}

/// It never says that it understood that there will be no more.
#[tokio::test]
async fn streams_beyond_the_limit_of_a_connection_are_refused() {
    let origin = SecureOrigin::plain().await;
    let limits = Limits {
        requests_per_connection: 2,
        ..Limits::default()
    };
    let rig = Rig::with_limits(&origin.rule(""), limits);
    rig.set_line(Line::Redirected(origin.address));
    let mut attacker = Attacker::begin(&rig, &origin).await;
    let streams = [1, 3, 5, 7];
    let gets = streams.map(|stream| attacker.get(stream, "/a", END_STREAM));
    attacker.try_send(gets).await;
    let (mut answered, mut refused) = (Vec::new(), Vec::new());
    while answered.len() + refused.len() < streams.len() {
        let frame = attacker.next().await.unwrap();
        match frame.kind {
            HEADERS => answered.push(frame.stream),
            RST_STREAM => {
                assert_eq!(code(&frame.payload), REFUSED_STREAM);
                refused.push(frame.stream);
            }
            _ => {}
        }
    }
    answered.sort_unstable();
    assert_eq!((answered, refused), (vec![1, 3], vec![5, 7]));
    assert_eq!(origin.seen().len(), 2);
}
