//! Forms with files (`multipart/form-data`, RFC 7578) in one body that is whole.
//!
//! Strict: the one way in which browsers and common clients write them. Preambles, padding, a
//! boundary that also stands elsewhere, quoted pairs, parameters twice or in extended notation are
//! errors, as readers differ in what they make of them.

mod disposition;

use memchr::memmem::Finder;

use disposition::Parameters;

/// How much a form may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Parts; 1024 by default.
    pub parts: usize,
    /// Octets of a part's header, with its empty line; 4096 by default.
    pub header: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parts: 1024,
            header: 4096,
        }
    }
}

/// Why a form is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MultipartError {
    /// `Content-Type` is not a well-formed `multipart/form-data`.
    #[error("the content type is not a well-formed multipart/form-data")]
    ContentType,
    /// No boundary, more than one, or one that is not 1 to 70 of the allowed characters.
    #[error("the boundary is missing, repeated or malformed")]
    Boundary,
    /// The body does not start with the boundary.
    #[error("the body does not start with its boundary")]
    Preamble,
    /// The boundary stands where it ends nothing, or is continued by something else.
    #[error("the boundary also stands where it is none")]
    Ambiguous,
    /// The last boundary is missing.
    #[error("the body ends before its last boundary")]
    Unterminated,
    /// Octets behind the last boundary, other than one CRLF.
    #[error("octets follow the last boundary")]
    Epilogue,
    /// More than [`Limits::parts`].
    #[error("the form has more parts than the limit")]
    TooManyParts,
    /// More than [`Limits::header`].
    #[error("the header of a part is larger than the limit")]
    HeaderTooLarge,
    /// A header line that is not one.
    #[error("the header of a part is malformed")]
    Header,
    /// A field twice of which there is one.
    #[error("a field stands twice in the header of a part")]
    RepeatedField,
    /// No `Content-Disposition: form-data` with one name, or one that readers read in two ways.
    #[error("the disposition of a part is missing, malformed or ambiguous")]
    Disposition,
    /// The content of a part is encoded once more, or not as long as the part says.
    #[error("the content of a part is encoded, or not as long as the part says")]
    Content,
}

impl MultipartError {
    /// The stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ContentType => "multipart_content_type",
            Self::Boundary => "multipart_boundary",
            Self::Preamble => "multipart_preamble",
            Self::Ambiguous => "multipart_ambiguous",
            Self::Unterminated => "multipart_unterminated",
            Self::Epilogue => "multipart_epilogue",
            Self::TooManyParts => "multipart_parts",
            Self::HeaderTooLarge => "multipart_header_size",
            Self::Header => "multipart_header",
            Self::RepeatedField => "multipart_repeated_field",
            Self::Disposition => "multipart_disposition",
            Self::Content => "multipart_content",
        }
    }
}

/// What separates the parts, with the hyphens in front.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boundary(Vec<u8>);

/// One part of a form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    /// The field's name, as written: percent signs are not decoded.
    pub name: &'a str,
    /// The file's name, as written; may be empty.
    pub filename: Option<&'a str>,
    /// The value of `Content-Type`.
    pub content_type: Option<&'a str>,
    /// The content.
    pub body: &'a [u8],
}

impl Boundary {
    /// Takes the boundary from the value of the message's only `Content-Type`.
    ///
    /// # Errors
    /// [`MultipartError::ContentType`], [`MultipartError::Boundary`].
    pub fn from_content_type(value: &[u8]) -> Result<Self, MultipartError> {
        let value = str::from_utf8(value).map_err(|_| MultipartError::ContentType)?;
        let (media, mut parameters) = disposition::split(value);
        if !media.eq_ignore_ascii_case("multipart/form-data") {
            return Err(MultipartError::ContentType);
        }
        let mut boundary = None;
        while let Some((name, value)) = parameters
            .next_parameter()
            .map_err(|_| MultipartError::ContentType)?
        {
            if name.eq_ignore_ascii_case("boundary") && boundary.replace(value).is_some() {
                return Err(MultipartError::Boundary);
            }
            if name.contains('*') {
                return Err(MultipartError::ContentType);
            }
        }
        let boundary = boundary.ok_or(MultipartError::Boundary)?;
        // RFC 2046, 5.1.1, without the space, which some readers cut off.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
        match boundary.len() {
            1..=70 if boundary.bytes().all(allowed) => {
                Ok(Self([b"--", boundary.as_bytes()].concat()))
            }
            _ => Err(MultipartError::Boundary),
        }
    }
}

/// Takes a form apart; the parts borrow from `body`.
///
/// # Errors
/// [`MultipartError`].
pub fn parse<'a>(
    body: &'a [u8],
    boundary: &Boundary,
    limits: Limits,
) -> Result<Vec<Part<'a>>, MultipartError> {
    let finder = Finder::new(&boundary.0);
    let mut rest = body
        .strip_prefix(boundary.0.as_slice())
        .ok_or(MultipartError::Preamble)?;
    let mut parts = Vec::new();
    loop {
        rest = match rest {
            [b'-', b'-'] | [b'-', b'-', b'\r', b'\n'] => return Ok(parts),
            [b'-', b'-', epilogue @ ..] => {
                return Err(match finder.find(epilogue) {
                    Some(_) => MultipartError::Ambiguous,
                    None => MultipartError::Epilogue,
                });
            }
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r' | b'-'] => return Err(MultipartError::Unterminated),
            [..] => return Err(MultipartError::Ambiguous),
        };
        if parts.len() == limits.parts {
            return Err(MultipartError::TooManyParts);
        }
        let at = finder.find(rest).ok_or(MultipartError::Unterminated)?;
        let (part, behind) = rest.split_at(at);
        let part = part
            .strip_suffix(b"\r\n")
            .ok_or(MultipartError::Ambiguous)?;
        parts.push(parse_part(part, limits)?);
        rest = behind.get(boundary.0.len()..).unwrap_or_default();
    }
}

fn parse_part(part: &[u8], limits: Limits) -> Result<Part<'_>, MultipartError> {
    let seen = part.get(..limits.header).unwrap_or(part);
    let end = memchr::memmem::find(seen, b"\r\n\r\n").ok_or(if seen.len() < part.len() {
        MultipartError::HeaderTooLarge
    } else {
        MultipartError::Header
    })?;
    let (header, body) = part.split_at(end);
    let body = body.get(4..).unwrap_or_default();
    let header = str::from_utf8(header).map_err(|_| MultipartError::Header)?;

    let mut fields = Fields::default();
    for line in header.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(MultipartError::Header)?;
        if !disposition::is_token(name) || value.chars().any(is_control) {
            return Err(MultipartError::Header);
        }
        fields.take(name, value.trim_matches([' ', '\t']))?;
    }
    fields.part(body)
}

/// The fields of a part's header that matter; others have no effect (RFC 7578, 4.8).
#[derive(Default)]
struct Fields<'a> {
    disposition: Option<&'a str>,
    content_type: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
    length: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a str) -> Result<(), MultipartError> {
        let field = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => &mut self.disposition,
            "content-type" => &mut self.content_type,
            "content-transfer-encoding" => &mut self.transfer_encoding,
            "content-length" => &mut self.length,
            "content-encoding" => return Err(MultipartError::Content),
            _ => return Ok(()),
        };
        match field.replace(value) {
            None => Ok(()),
            Some(_) => Err(MultipartError::RepeatedField),
        }
    }

    fn part(self, body: &'a [u8]) -> Result<Part<'a>, MultipartError> {
        let plain = |encoding: &str| {
            ["binary", "8bit", "7bit"]
                .iter()
                .any(|known| encoding.eq_ignore_ascii_case(known))
        };
        let fits = |length: &str| length == body.len().to_string();
        if !self.transfer_encoding.is_none_or(plain) || !self.length.is_none_or(fits) {
            return Err(MultipartError::Content);
        }
        let disposition = self.disposition.ok_or(MultipartError::Disposition)?;
        let (kind, parameters) = disposition::split(disposition);
        if !kind.eq_ignore_ascii_case("form-data") {
            return Err(MultipartError::Disposition);
        }
        let (name, filename) = names(parameters).ok_or(MultipartError::Disposition)?;
        Ok(Part {
            name,
            filename,
            content_type: self.content_type,
            body,
        })
    }
}

/// The name and the file's name in the parameters of a disposition.
fn names(mut parameters: Parameters<'_>) -> Option<(&str, Option<&str>)> {
    let (mut name, mut filename) = (None, None);
    while let Some((parameter, value)) = parameters.next_parameter().ok()? {
        let place = match parameter.to_ascii_lowercase().as_str() {
            "name" => &mut name,
            "filename" => &mut filename,
            // Extended notation and continuations, by which some readers take another name.
            other if other.contains('*') => return None,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    Some((name?, filename))
}

/// Whether a character has no place in a field's value.
const fn is_control(c: char) -> bool {
    c != '\t' && c.is_ascii_control()
}

#[cfg(test)]
mod tests;
