//! How long a body is (RFC 9112, 6.3), without the cases that readers differ on.

use super::{Version, fields::Fields};

/// Where a body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    /// There is none.
    Empty,
    /// After so many octets.
    Exactly(u64),
    /// With the last chunk.
    Chunked,
    /// Where the connection does. Responses only.
    UntilClose,
}

/// Why the length of a body is in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum FramingError {
    /// Several Content-Length fields, or a list in one.
    #[error("Content-Length is given more than once")]
    LengthRepeated,
    /// Content-Length is not 1 to 18 digits.
    #[error("Content-Length is not a plain number")]
    LengthMalformed,
    /// Content-Length beside Transfer-Encoding.
    #[error("both Content-Length and Transfer-Encoding are given")]
    LengthAndCoding,
    /// Transfer-Encoding is not exactly `chunked`, or came in HTTP/1.0.
    #[error("Transfer-Encoding is not exactly `chunked`")]
    Coding,
    /// A body where none can be.
    #[error("there is a body where none can be")]
    BodyNotAllowed,
}

impl FramingError {
    /// The stable label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::LengthRepeated => "content_length_repeated",
            Self::LengthMalformed => "content_length_malformed",
            Self::LengthAndCoding => "length_and_coding",
            Self::Coding => "transfer_encoding",
            Self::BodyNotAllowed => "body_not_allowed",
        }
    }
}

/// What the fields alone say; none if they say nothing.
fn declared(fields: &Fields, version: Version) -> Result<Option<Body>, FramingError> {
    let length = fields
        .only("content-length")
        .map_err(|_| FramingError::LengthRepeated)?;
    let coding = fields
        .only("transfer-encoding")
        .map_err(|_| FramingError::Coding)?;
    match (length, coding) {
        (Some(_), Some(_)) => Err(FramingError::LengthAndCoding),
        (None, None) => Ok(None),
        (None, Some(coding)) if version == Version::Http11 && is_chunked(coding) => {
            Ok(Some(Body::Chunked))
        }
        (None, Some(_)) => Err(FramingError::Coding),
        (Some(length), None) => parse_length(length).map(Body::Exactly).map(Some),
    }
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}

fn parse_length(text: &[u8]) -> Result<u64, FramingError> {
    if text.contains(&b',') {
        return Err(FramingError::LengthRepeated);
    }
    // 18 digits fit every integer type that a reader might use.
    if !(1..=18).contains(&text.len()) {
        return Err(FramingError::LengthMalformed);
    }
    text.iter().try_fold(0, |sum: u64, digit| match digit {
        b'0'..=b'9' => Ok(sum * 10 + u64::from(digit - b'0')),
        _other => Err(FramingError::LengthMalformed),
    })
}

/// The body of a request.
///
/// # Errors
/// [`FramingError`] if there is any doubt.
pub(super) fn of_request(fields: &Fields, version: Version) -> Result<Body, FramingError> {
    Ok(match declared(fields, version)? {
        None | Some(Body::Exactly(0)) => Body::Empty,
        Some(body) => body,
    })
}

/// The body of a response with this status to a HEAD or another request, and the length that a
/// response without one still announces.
///
/// # Errors
/// [`FramingError`] if there is any doubt.
pub(super) fn of_response(
    fields: &Fields,
    version: Version,
    status: u16,
    to_head: bool,
) -> Result<(Body, Option<u64>), FramingError> {
    let declared = declared(fields, version)?;
    let length = match declared {
        Some(Body::Exactly(length)) => Some(length),
        Some(Body::Empty | Body::Chunked | Body::UntilClose) | None => None,
    };
    if status < 200 || status == 204 {
        return match declared {
            None | Some(Body::Exactly(0)) => Ok((Body::Empty, None)),
            Some(_) => Err(FramingError::BodyNotAllowed),
        };
    }
    if to_head || status == 304 {
        return Ok((Body::Empty, length));
    }
    Ok((declared.unwrap_or(Body::UntilClose), length))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn fields(text: &str) -> Fields {
        let block = Bytes::from(format!("{text}\r\n"));
        Fields::parse_trailers(&block, 16).unwrap()
    }

    #[test]
    fn plain_lengths_are_read() {
        let request = |text| of_request(&fields(text), Version::Http11);
        assert_eq!(request(""), Ok(Body::Empty));
        assert_eq!(request("Content-Length: 0\r\n"), Ok(Body::Empty));
        assert_eq!(request("Content-Length:  17 \r\n"), Ok(Body::Exactly(17)));
        assert_eq!(request("Transfer-Encoding: Chunked\r\n"), Ok(Body::Chunked));
        assert_eq!(
            request("Content-Length: 999999999999999999\r\n"),
            Ok(Body::Exactly(999_999_999_999_999_999))
        );
    }

    #[test]
    fn doubt_is_an_error() {
        use FramingError::{Coding, LengthAndCoding, LengthMalformed, LengthRepeated};
        for (text, error) in [
            ("Content-Length: +1\r\n", LengthMalformed),
            ("Content-Length: -1\r\n", LengthMalformed),
            ("Content-Length: 1_0\r\n", LengthMalformed),
            ("Content-Length: 0x10\r\n", LengthMalformed),
            ("Content-Length: 1 0\r\n", LengthMalformed),
            ("Content-Length:\r\n", LengthMalformed),
            ("Content-Length: 1000000000000000000\r\n", LengthMalformed),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", LengthRepeated),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", LengthRepeated),
            ("Content-Length: 5, 5\r\n", LengthRepeated),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                LengthAndCoding,
            ),
            ("Transfer-Encoding: gzip, chunked\r\n", Coding),
            ("Transfer-Encoding: chunked, chunked\r\n", Coding),
            ("Transfer-Encoding: xchunked\r\n", Coding),
            ("Transfer-Encoding: \"chunked\"\r\n", Coding),
            ("Transfer-Encoding: chunked;a=b\r\n", Coding),
            ("Transfer-Encoding: identity\r\n", Coding),
            ("Transfer-Encoding:\r\n", Coding),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Coding,
            ),
        ] {
            let fields = fields(text);
            assert_eq!(of_request(&fields, Version::Http11), Err(error), "{text}");
            let response = of_response(&fields, Version::Http11, 200, false);
            assert_eq!(response, Err(error), "{text}");
        }
        let chunked = fields("Transfer-Encoding: chunked\r\n");
        assert_eq!(of_request(&chunked, Version::Http10), Err(Coding));
    }

    #[test]
    fn some_responses_have_no_body() {
        let response =
            |text, status, to_head| of_response(&fields(text), Version::Http11, status, to_head);
        assert_eq!(response("", 200, false), Ok((Body::UntilClose, None)));
        assert_eq!(
            response("Content-Length: 0\r\n", 200, false),
            Ok((Body::Exactly(0), Some(0)))
        );
        assert_eq!(
            response("Content-Length: 5\r\n", 200, true),
            Ok((Body::Empty, Some(5)))
        );
        assert_eq!(
            response("Content-Length: 5\r\n", 304, false),
            Ok((Body::Empty, Some(5)))
        );
        assert_eq!(response("", 204, false), Ok((Body::Empty, None)));
        assert_eq!(
            response("Content-Length: 5\r\n", 204, false),
            Err(FramingError::BodyNotAllowed)
        );
        assert_eq!(
            response("Transfer-Encoding: chunked\r\n", 103, false),
            Err(FramingError::BodyNotAllowed)
        );
    }
}
