//! HTTP/1.1 messages as values: bytes in, a typed head or an error out.
//!
//! Pure: no sockets, no clock, no policy. Anything that two readers could read in two ways is an
//! error here, for requests and for responses alike; nothing is forwarded but what was parsed.

pub(crate) mod chunked;
pub(crate) mod fields;
pub(crate) mod framing;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod scan;
pub(crate) mod target;

/// Protocol version of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Why a head is refused. Whose fault it is depends on which side sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum HeadError {
    /// A line ends in LF alone.
    #[error("a line ends in a bare line feed")]
    BareLineFeed,
    /// A CR that no LF follows.
    #[error("a carriage return stands alone")]
    BareCarriageReturn,
    /// An octet 0.
    #[error("the head contains a NUL")]
    Nul,
    /// A continued field line (obs-fold).
    #[error("a field is continued on a second line")]
    Folded,
    /// More octets than allowed.
    #[error("the head is too large")]
    TooLarge,
    /// More fields than allowed.
    #[error("the head has too many fields")]
    TooManyFields,
    /// The first line is not one.
    #[error("the first line is malformed")]
    StartLine,
    /// A field line is not one.
    #[error("a field line is malformed")]
    FieldLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("the HTTP version is not 1.0 or 1.1")]
    Version,
    /// A method that is not made of upper-case letters and hyphens.
    #[error("the method is not made of upper-case letters")]
    Method,
    /// The request target.
    #[error("request target: {0}")]
    Target(target::TargetError),
    /// No Host where one is needed.
    #[error("the Host field is missing")]
    HostMissing,
    /// More than one Host.
    #[error("there is more than one Host field")]
    HostRepeated,
    /// Host and request target name different places.
    #[error("the Host field and the request target differ")]
    HostMismatch,
    /// How long the body is.
    #[error("framing: {0}")]
    Framing(framing::FramingError),
    /// An expectation other than 100-continue.
    #[error("the expectation is not 100-continue")]
    Expectation,
    /// A protocol switch.
    #[error("protocol upgrades are not relayed")]
    Upgrade,
    /// A status code outside 100 to 599.
    #[error("the status code is not one")]
    Status,
}

impl HeadError {
    /// The stable label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::BareLineFeed => "bare_line_feed",
            Self::BareCarriageReturn => "bare_carriage_return",
            Self::Nul => "nul_in_head",
            Self::Folded => "folded_field",
            Self::TooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::StartLine => "start_line",
            Self::FieldLine => "field_line",
            Self::Version => "http_version",
            Self::Method => "method_syntax",
            Self::Target(error) => error.label(),
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostMismatch => "host_mismatch",
            Self::Framing(error) => error.label(),
            Self::Expectation => "expectation",
            Self::Upgrade => "upgrade_unsupported",
            Self::Status => "status_code",
        }
    }

    /// The status that tells an agent what is wrong with its request.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyFields => 431,
            Self::Version => 505,
            Self::Expectation => 417,
            Self::Upgrade => 501,
            Self::BareLineFeed
            | Self::BareCarriageReturn
            | Self::Nul
            | Self::Folded
            | Self::StartLine
            | Self::FieldLine
            | Self::Method
            | Self::Target(_)
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostMismatch
            | Self::Framing(_)
            | Self::Status => 400,
        }
    }
}

/// Sorts what httparse found wrong.
fn from_httparse(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::FieldLine,
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::NewLine | httparse::Error::Token | httparse::Error::Status => {
            HeadError::StartLine
        }
    }
}
