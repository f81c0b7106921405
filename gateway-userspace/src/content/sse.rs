//! Server-sent events (WHATWG HTML, 9.2) for a relay that looks at each before it forwards it.
//!
//! A line ends with LF, CR or both. What is not UTF-8 is refused, since readers differ on it.

use bytes::{Bytes, BytesMut};

/// How large an event may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets as sent, comments and line ends included; 16 MiB by default.
    pub event: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { event: 16 << 20 }
    }
}

/// Why a stream is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SseError {
    /// More than [`Limits::event`].
    #[error("a server-sent event is larger than the limit")]
    TooLarge,
    /// An event that is not UTF-8.
    #[error("a server-sent event is not valid UTF-8")]
    Encoding,
}

impl SseError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "event_too_large",
            Self::Encoding => "event_encoding",
        }
    }
}

/// What stands between two empty lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its type; none for `message`.
    pub kind: Option<String>,
    /// The lines of data; none where there are only comments and the like, of which a client
    /// notices nothing.
    pub data: Option<String>,
    /// Whether a line is neither a comment nor of a field that the format knows: whoever does not
    /// take it for an event may read it as something else.
    pub odd: bool,
    /// The octets that it came in, with the empty line behind it: what a relay forwards.
    pub wire: Bytes,
}

impl Event {
    /// The same event with other data, which is one line.
    #[must_use]
    pub fn with_data(&self, data: &str) -> Bytes {
        let mut wire = BytesMut::with_capacity(data.len() + 64);
        let text = String::from_utf8_lossy(&self.wire);
        for line in text.split(['\n', '\r']).filter(|line| !line.is_empty()) {
            let (field, _) = line.split_once(':').unwrap_or((line, ""));
            if field.trim_start_matches('\u{feff}') != "data" {
                wire.extend_from_slice(line.as_bytes());
                wire.extend_from_slice(b"\n");
            }
        }
        wire.extend_from_slice(b"data: ");
        wire.extend_from_slice(data.as_bytes());
        wire.extend_from_slice(b"\n\n");
        wire.freeze()
    }
}

/// Reads a stream of events as it arrives.
#[derive(Debug, Default)]
pub struct Reader {
    limits: Limits,
    /// Where the current line begins in what was not taken yet.
    line: usize,
    /// Up to where its end was looked for.
    searched: usize,
    /// The line before ended with a CR; an LF behind it is no line of its own.
    after_return: bool,
    begun: bool,
    failed: Option<SseError>,
}

impl Reader {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes an event from the front of `input`; none if there is no whole one. What is there of
    /// it stays in `input`, up to [`Limits::event`]. At the end of a stream that is an event which
    /// clients drop.
    ///
    /// # Errors
    /// [`SseError`], again for each call after the first that failed.
    pub fn feed(&mut self, input: &mut BytesMut) -> Result<Option<Event>, SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let next = self.next_event(input);
        self.failed = next.as_ref().err().copied();
        next
    }

    fn next_event(&mut self, input: &mut BytesMut) -> Result<Option<Event>, SseError> {
        while let Some((content, next)) = self.next_line(input) {
            self.after_return = input.get(next - 1) == Some(&b'\r');
            self.line = next;
            self.searched = next;
            if next > self.limits.event {
                return Err(SseError::TooLarge);
            }
            if content == 0 {
                return self.take(input).map(Some);
            }
        }
        if input.len() > self.limits.event {
            return Err(SseError::TooLarge);
        }
        Ok(None)
    }

    /// The length of the current line, and where the one behind it begins; none if it is not whole.
    fn next_line(&mut self, input: &[u8]) -> Option<(usize, usize)> {
        if self.after_return {
            let first = input.get(self.line)?;
            if *first == b'\n' {
                self.line += 1;
                self.searched = self.line;
            }
            self.after_return = false;
        }
        let rest = input.get(self.searched..)?;
        let Some(found) = memchr::memchr2(b'\n', b'\r', rest) else {
            self.searched = input.len();
            return None;
        };
        let end = self.searched + found;
        Some((end - self.line, end + 1))
    }

    fn take(&mut self, input: &mut BytesMut) -> Result<Event, SseError> {
        // The second half of a line end goes with the first, where it is there already.
        let feed_follows = self.after_return && input.get(self.line) == Some(&b'\n');
        let end = self.line + usize::from(feed_follows);
        self.after_return &= !feed_follows;
        (self.line, self.searched) = (0, 0);
        let wire = input.split_to(end).freeze();
        let text = std::str::from_utf8(&wire).map_err(|_| SseError::Encoding)?;
        let text = match std::mem::replace(&mut self.begun, true) {
            false => text.strip_prefix('\u{feff}').unwrap_or(text),
            true => text,
        };
        let (mut kind, mut data, mut odd) = (None, None::<String>, false);
        for line in text.split(['\n', '\r']) {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => kind = Some(value.to_owned()).filter(|it| !it.is_empty()),
                "data" => match &mut data {
                    Some(lines) => {
                        lines.push('\n');
                        lines.push_str(value);
                    }
                    None => data = Some(value.to_owned()),
                },
                "" | "id" | "retry" => {}
                _other => odd = true,
            }
        }
        Ok(Event {
            kind,
            data,
            odd,
            wire,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Type and data of an event.
    type Said = (Option<String>, Option<String>);

    #[test]
    fn data_is_replaced_and_the_rest_stays() {
        let mut input = BytesMut::from(
            &b"\xef\xbb\xbfid: 7\r\nevent: message\r\ndata: {\ndata:}\n: note\nretry: 5\n\n"[..],
        );
        let event = Reader::default().feed(&mut input).unwrap().unwrap();
        assert_eq!(event.data.as_deref(), Some("{\n}"));
        let mut again = BytesMut::from(&event.with_data("[]")[..]);
        let again = Reader::default().feed(&mut again).unwrap().unwrap();
        assert_eq!(again.data.as_deref(), Some("[]"));
        assert_eq!(again.kind.as_deref(), Some("message"));
        let wire = String::from_utf8(again.wire.to_vec()).unwrap();
        assert!(
            wire.contains("id: 7\n") && wire.contains("retry: 5\n"),
            "{wire}"
        );
    }

    /// What a stream says when it arrives in these pieces, its octets again, and what is left.
    fn read(pieces: &[&[u8]]) -> (Vec<Said>, Vec<u8>, Vec<u8>) {
        let mut reader = Reader::default();
        let (mut events, mut wire) = (Vec::new(), Vec::new());
        let mut input = BytesMut::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Some(event) = reader.feed(&mut input).unwrap() {
                wire.extend_from_slice(&event.wire);
                events.push((event.kind, event.data));
            }
        }
        (events, wire, input.to_vec())
    }

    fn said(kind: Option<&str>, data: Option<&str>) -> Said {
        (kind.map(str::to_owned), data.map(str::to_owned))
    }

    #[test]
    fn fields_are_read_as_the_standard_has_them() {
        let stream = "\u{feff}data: a\ndata:b\ndata\n\n: comment\n\nevent: add\ndata:  c\nid: 1\n\n\
                      event\ndata: d:e\nretry: 1\nother: x\n\nevent: lost\n\ndata: unfinished\n";
        let (events, wire, rest) = read(&[stream.as_bytes()]);
        assert_eq!(
            events,
            [
                said(None, Some("a\nb\n")),
                said(None, None),
                said(Some("add"), Some(" c")),
                said(None, Some("d:e")),
                said(Some("lost"), None),
            ]
        );
        assert_eq!([wire, rest].concat(), stream.as_bytes());
    }

    #[test]
    fn a_line_ends_in_three_ways() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("data: a{end}data: b{end}{end}data: c{end}{end}");
            let (events, _wire, rest) = read(&[stream.as_bytes()]);
            assert_eq!(
                events,
                [said(None, Some("a\nb")), said(None, Some("c"))],
                "{end:?}"
            );
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn an_event_ends_before_what_might_be_the_rest_of_its_line_end() {
        let (events, _wire, rest) = read(&[b"data: a\r\r"]);
        assert_eq!(events, [said(None, Some("a"))]);
        assert!(rest.is_empty());
        let (events, _wire, rest) = read(&[b"data: a\r\n\r", b"\ndata: b\r\n\r\n"]);
        assert_eq!(events, [said(None, Some("a")), said(None, Some("b"))]);
        assert!(rest.is_empty());
    }

    #[test]
    fn an_event_may_be_as_large_as_the_limit_and_no_larger() {
        let limits = Limits { event: 10 };
        let event = |text: &str| {
            let mut reader = Reader::new(limits);
            let fed = reader.feed(&mut BytesMut::from(text));
            (fed.map(|it| it.is_some()), reader)
        };
        assert_eq!(event("data: ab\n\n").0, Ok(true));
        assert_eq!(event("data: abc\n\n").0, Err(SseError::TooLarge));
        assert_eq!(event("data: abcd").0, Ok(false));
        let (fed, mut reader) = event("data: abcde");
        assert_eq!(fed, Err(SseError::TooLarge));
        let again = reader.feed(&mut BytesMut::from("\n\n"));
        assert_eq!(again, Err(SseError::TooLarge));
    }

    #[test]
    fn what_is_not_utf8_is_refused() {
        let fed = Reader::default().feed(&mut BytesMut::from(b"data: \xff\n\n".as_slice()));
        assert_eq!(fed, Err(SseError::Encoding));
    }

    proptest! {
        #[test]
        fn pieces_say_what_the_whole_says(
            stream in "(\u{feff}|)((data|event|id|)(:| |x|)[ab ]{0,3}(\n|\r|\r\n)|\n|\r\n|\r){0,12}",
            at in any::<prop::sample::Index>(),
        ) {
            let bytes = stream.as_bytes();
            let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
            let (events, wire, rest) = read(&[first, second]);
            let (of_whole, ..) = read(&[bytes]);
            prop_assert_eq!(events, of_whole);
            prop_assert_eq!([wire, rest].concat(), bytes);
        }
    }
}
