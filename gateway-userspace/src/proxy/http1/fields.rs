//! Header and trailer fields, and which of them end at the gateway.

use bytes::{Bytes, BytesMut};

use super::{HeadError, from_httparse};

/// One field: a name as sent, and a value without the white space around it.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    name: Bytes,
    value: Bytes,
}

/// The fields of a head, in the order they came.
#[derive(Clone, Default, Debug)]
pub(crate) struct Fields(Vec<Field>);

/// There is more than one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Repeated;

/// Fields that concern one hop only (RFC 9110, 7.6.1), besides `Proxy-*` and those that
/// `Connection` names. `Trailer` is left: trailers are relayed.
///
/// Those of the WebSocket handshake are written anew from what was agreed on.
const HOP_BY_HOP: [&[u8]; 11] = [
    b"connection",
    b"keep-alive",
    b"te",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"sec-websocket-extensions",
    b"sec-websocket-protocol",
    b"sec-websocket-accept",
];

/// Fields that the gateway writes itself, from what it decided on.
const REWRITTEN: [&[u8]; 2] = [b"host", b"content-length"];

/// Fields by which some frameworks take another method or path than those that policy decided on.
const OVERRIDES: [&[u8]; 5] = [
    b"x-http-method-override",
    b"x-http-method",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
];

impl Fields {
    /// Copies what httparse found in `block`, by reference.
    pub(super) fn collect(block: &Bytes, parsed: &[httparse::Header<'_>]) -> Self {
        Self(
            parsed
                .iter()
                .map(|header| Field {
                    name: block.slice_ref(header.name.as_bytes()),
                    value: block.slice_ref(header.value),
                })
                .collect(),
        )
    }

    /// Parses a trailer section with its empty line, already passed by the scanner.
    ///
    /// # Errors
    /// A malformed line, or more than `most` fields.
    pub(super) fn parse_trailers(block: &Bytes, most: usize) -> Result<Self, HeadError> {
        let mut space = vec![httparse::EMPTY_HEADER; most];
        match httparse::parse_headers(block, &mut space) {
            Ok(httparse::Status::Complete((_, parsed))) => Ok(Self::collect(block, parsed)),
            Ok(httparse::Status::Partial) => Err(HeadError::FieldLine),
            Err(error) => Err(from_httparse(error)),
        }
    }

    /// All of them, with their names as sent. A name is a token, and so is text.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|field| {
            let name = std::str::from_utf8(&field.name).ok()?;
            Some((name, field.value.as_ref()))
        })
    }

    /// Those that the other end gets, and those that the gateway writes itself.
    pub(crate) fn end_to_end(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter()
            .filter(|(name, _)| !self.ends_here(name.as_bytes()) && !is_look_alike(name.as_bytes()))
    }

    /// The values of all fields of this (lower-case) name.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|field| field.value.as_ref())
    }

    /// All fields, in the order they came.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0
            .iter()
            .map(|field| (field.name.as_ref(), field.value.as_ref()))
    }

    /// The value of the only field of this name.
    ///
    /// # Errors
    /// [`Repeated`] if there are several.
    pub(crate) fn only(&self, name: &'static str) -> Result<Option<&[u8]>, Repeated> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            Some(_) => Err(Repeated),
            None => Ok(first),
        }
    }

    /// The members of a comma-separated list, over all fields of this name.
    pub(crate) fn list(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.all(name)
            .flat_map(|value| value.split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    }

    /// Whether a comma-separated list has this member.
    pub(crate) fn lists(&self, name: &'static str, member: &str) -> bool {
        self.list(name)
            .any(|found| found.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Writes the fields that are meant for the other end.
    pub(super) fn write_end_to_end(&self, out: &mut BytesMut) {
        for field in &self.0 {
            if !self.ends_here(&field.name) && !named_in(&REWRITTEN, &field.name) {
                write_field(out, &field.name, &field.value);
            }
        }
    }

    /// The same without the coding of a body that was undone, and what was said of it as it was.
    pub(super) fn write_decoded(&self, out: &mut BytesMut) {
        for field in &self.0 {
            if !self.ends_here(&field.name)
                && !named_in(&REWRITTEN, &field.name)
                && !is_of_encoded(&field.name)
            {
                write_field(out, &field.name, &field.value);
            }
        }
    }

    /// Writes trailer fields.
    pub(super) fn write_trailers(&self, out: &mut BytesMut) {
        for field in &self.0 {
            if !self.ends_here(&field.name) && is_trailer(&field.name) {
                write_field(out, &field.name, &field.value);
            }
        }
    }

    fn ends_here(&self, name: &[u8]) -> bool {
        is_for_one_hop(name)
            || self
                .list("connection")
                .any(|listed| listed.eq_ignore_ascii_case(name))
    }
}

/// Whether a field of this name is about the octets of a body as they were sent.
pub(crate) fn is_of_encoded(name: &[u8]) -> bool {
    const OF_OCTETS: [&[u8]; 7] = [
        b"accept-ranges",
        b"content-digest",
        b"content-encoding",
        b"content-md5",
        b"digest",
        b"repr-digest",
        b"trailer",
    ];
    named_in(&OF_OCTETS, name)
}

/// Whether some would take it for a field that the gateway writes itself.
fn is_look_alike(name: &[u8]) -> bool {
    named_in(&REWRITTEN, name) && name.contains(&b'_')
}

/// Whether a field of this name ends at the gateway, whatever `Connection` says.
pub(crate) fn is_for_one_hop(name: &[u8]) -> bool {
    let start = name.get(..6);
    named_in(&HOP_BY_HOP, name)
        || named_in(&OVERRIDES, name)
        || start.is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-"))
}

/// Whether a field of this name may stand in a trailer: never one that says how to read, route or
/// authorise a message.
pub(crate) fn is_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 8] = [
        b"authorization",
        b"cookie",
        b"content-encoding",
        b"content-type",
        b"content-range",
        b"expect",
        b"set-cookie",
        b"trailer",
    ];
    !is_for_one_hop(name) && !named_in(&REWRITTEN, name) && !named_in(&FORBIDDEN, name)
}

fn named_in(names: &[&[u8]], name: &[u8]) -> bool {
    let folded = |byte: &u8| match byte {
        b'_' => b'-',
        other => other.to_ascii_lowercase(),
    };
    names
        .iter()
        .any(|known| known.iter().copied().eq(name.iter().map(folded)))
}

/// Writes one field line.
pub(super) fn write_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        let block = Bytes::copy_from_slice(text.as_bytes());
        Fields::parse_trailers(&block, 16).unwrap()
    }

    fn end_to_end(text: &str) -> String {
        let mut out = BytesMut::new();
        fields(text).write_end_to_end(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn one_hop_fields_stay_here() {
        assert_eq!(
            end_to_end(
                "Host: a\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nx-other:  2 \r\n\
                 Proxy-Authorization: Basic x\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
                 Transfer-Encoding: chunked\r\nContent-Length: 3\r\nKeep-Alive: 5\r\n\
                 Upgrade: h2c\r\nTrailer: X-Sum\r\nAccept: */*\r\n\r\n"
            ),
            "x-other: 2\r\nTrailer: X-Sum\r\nAccept: */*\r\n"
        );
    }

    #[test]
    fn what_would_say_otherwise_than_the_decision_stays_here() {
        assert_eq!(
            end_to_end(
                "X-HTTP-Method-Override: DELETE\r\nx_http_method: PUT\r\nX-Original-URL: /admin\r\n\
                 X-Rewrite-URL: /admin\r\nTransfer_Encoding: chunked\r\nContent_Length: 9\r\n\
                 X-Original: 1\r\n\r\n"
            ),
            "X-Original: 1\r\n"
        );
    }

    #[test]
    fn conditions_see_what_the_other_end_gets() {
        let fields = fields(
            "Host: a\r\nConnection: X-Dry-Run, Content-Encoding\r\nX-Dry-Run: true\r\n\
             Content-Encoding: gzip\r\nX-Original-URL: /\r\nContent_Length: 9\r\n\
             Content-Length: 3\r\nX-Other: 1\r\n\r\n",
        );
        let seen: Vec<_> = fields.end_to_end().map(|(name, _)| name).collect();
        assert_eq!(seen, ["Host", "Content-Length", "X-Other"]);
    }

    #[test]
    fn trailers_say_nothing_on_framing_or_authority() {
        let mut out = BytesMut::new();
        fields("X-Sum: 1\r\nContent-Length: 9\r\nHost: b\r\nAuthorization: x\r\nTE: a\r\n\r\n")
            .write_trailers(&mut out);
        assert_eq!(&out[..], b"X-Sum: 1\r\n");
    }

    #[test]
    fn only_refuses_a_second() {
        let fields = fields("A: 1\r\na: 2\r\nB: x, y ,,z\r\n\r\n");
        assert_eq!(fields.only("a"), Err(Repeated));
        assert_eq!(fields.only("c"), Ok(None));
        assert!(fields.lists("b", "Y"));
        assert_eq!(fields.list("b").count(), 3);
    }
}
