//! `Sec-WebSocket-Extensions`, and the parameters of permessage-deflate (RFC 7692, 7.1).

use std::fmt;

use super::token;
use crate::websocket::Role;

/// Parameters that an extension may have.
const PARAMETERS_MAX: usize = 16;
const DEFLATE: &str = "permessage-deflate";

/// The field is not what RFC 6455, 9.1, says, or too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// One member of the field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Extension<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<&'a str>)>,
}

/// Reads the members of the field, at most `most`.
///
/// A value in quotes is a token as well, so that commas and semicolons always separate.
pub(super) fn parse<'a>(values: &[&'a [u8]], most: usize) -> Result<Vec<Extension<'a>>, Malformed> {
    let mut extensions = Vec::new();
    for member in super::members(values) {
        if extensions.len() == most {
            return Err(Malformed);
        }
        let mut words = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let name = words.next().and_then(token).ok_or(Malformed)?;
        let parameters = words
            .map(|word| parameter(word).ok_or(Malformed))
            .collect::<Result<Vec<_>, _>>()?;
        if parameters.len() > PARAMETERS_MAX {
            return Err(Malformed);
        }
        extensions.push(Extension { name, parameters });
    }
    Ok(extensions)
}

fn parameter(word: &[u8]) -> Option<(&str, Option<&str>)> {
    let Some(at) = word.iter().position(|&b| b == b'=') else {
        return token(word).map(|name| (name, None));
    };
    let (name, value) = word.split_at(at);
    let value = value.get(1..)?.trim_ascii();
    let value = match value {
        [b'"', value @ .., b'"'] => value,
        value => value,
    };
    Some((token(name.trim_ascii_end())?, Some(token(value)?)))
}

/// The four parameters, as they stand.
#[derive(Default)]
struct Raw<'a> {
    server_no_takeover: Option<Option<&'a str>>,
    client_no_takeover: Option<Option<&'a str>>,
    server_bits: Option<Option<&'a str>>,
    client_bits: Option<Option<&'a str>>,
}

impl<'a> Raw<'a> {
    /// None for another extension, and for parameters that are unknown or stand twice.
    fn collect(extension: &Extension<'a>) -> Option<Self> {
        let mut raw = Self::default();
        if !extension.name.eq_ignore_ascii_case(DEFLATE) {
            return None;
        }
        for (name, value) in &extension.parameters {
            let place = match *name {
                "server_no_context_takeover" => &mut raw.server_no_takeover,
                "client_no_context_takeover" => &mut raw.client_no_takeover,
                "server_max_window_bits" => &mut raw.server_bits,
                "client_max_window_bits" => &mut raw.client_bits,
                _ => return None,
            };
            if place.replace(*value).is_some() {
                return None;
            }
        }
        Some(raw)
    }
}

/// A parameter without a value.
const fn flag(raw: Option<Option<&str>>) -> Option<bool> {
    match raw {
        None => Some(false),
        Some(None) => Some(true),
        Some(Some(_)) => None,
    }
}

/// A window's size: 8 to 15, written plainly.
fn bits(value: &str) -> Option<u8> {
    (8..=15).find(|bits: &u8| bits.to_string() == value)
}

/// A parameter with a value.
#[expect(
    clippy::option_option,
    reason = "malformed, absent and present are three things"
)]
fn needed_bits(raw: Option<Option<&str>>) -> Option<Option<u8>> {
    match raw {
        None => Some(None),
        Some(value) => bits(value?).map(Some),
    }
}

/// One offer of permessage-deflate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DeflateOffer {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    client_bits: ClientBits,
}

/// What a client says on its own window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientBits {
    /// Nothing: the server must not ask for a smaller one.
    Absent,
    /// The server may ask for a smaller one.
    Any,
    /// It is no larger than this.
    Most(u8),
}

impl DeflateOffer {
    /// None for another extension, and for an offer that a server must decline.
    pub(super) fn from_extension(extension: &Extension<'_>) -> Option<Self> {
        let raw = Raw::collect(extension)?;
        Some(Self {
            server_no_takeover: flag(raw.server_no_takeover)?,
            client_no_takeover: flag(raw.client_no_takeover)?,
            server_bits: needed_bits(raw.server_bits)?,
            client_bits: match raw.client_bits {
                None => ClientBits::Absent,
                Some(None) => ClientBits::Any,
                Some(Some(value)) => ClientBits::Most(bits(value)?),
            },
        })
    }

    /// Whether an answer accepts this offer.
    pub(super) fn admits(self, answer: Deflate) -> bool {
        let server_takeover = answer.server_no_takeover || !self.server_no_takeover;
        let server_bits = match (self.server_bits, answer.server_bits) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(most), Some(bits)) => bits <= most,
        };
        let client_bits = match (self.client_bits, answer.client_bits) {
            (_, None) | (ClientBits::Any, Some(_)) => true,
            (ClientBits::Absent, Some(_)) => false,
            (ClientBits::Most(most), Some(bits)) => bits <= most,
        };
        server_takeover && server_bits && client_bits
    }
}

impl fmt::Display for DeflateOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_common(
            f,
            self.server_no_takeover,
            self.client_no_takeover,
            self.server_bits,
        )?;
        match self.client_bits {
            ClientBits::Absent => Ok(()),
            ClientBits::Any => f.write_str("; client_max_window_bits"),
            ClientBits::Most(bits) => write!(f, "; client_max_window_bits={bits}"),
        }
    }
}

/// The parameters of permessage-deflate that a server answered with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Deflate {
    /// The server's messages do not refer to those before.
    pub server_no_takeover: bool,
    /// The client's messages do not refer to those before.
    pub client_no_takeover: bool,
    /// Base two logarithm of the server's window, 8 to 15; 15 if absent.
    pub server_bits: Option<u8>,
    /// Base two logarithm of the client's window, 8 to 15; 15 if absent.
    pub client_bits: Option<u8>,
}

impl Deflate {
    /// None for another extension, and for an answer that a client must refuse.
    pub(super) fn from_extension(extension: &Extension<'_>) -> Option<Self> {
        let raw = Raw::collect(extension)?;
        Some(Self {
            server_no_takeover: flag(raw.server_no_takeover)?,
            client_no_takeover: flag(raw.client_no_takeover)?,
            server_bits: needed_bits(raw.server_bits)?,
            client_bits: needed_bits(raw.client_bits)?,
        })
    }

    /// Whether the messages of `sender` may refer to those before.
    pub const fn takeover(self, sender: Role) -> bool {
        match sender {
            Role::Client => !self.client_no_takeover,
            Role::Server => !self.server_no_takeover,
        }
    }
}

impl fmt::Display for Deflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_common(
            f,
            self.server_no_takeover,
            self.client_no_takeover,
            self.server_bits,
        )?;
        match self.client_bits {
            None => Ok(()),
            Some(bits) => write!(f, "; client_max_window_bits={bits}"),
        }
    }
}

fn write_common(
    f: &mut fmt::Formatter<'_>,
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
) -> fmt::Result {
    f.write_str(DEFLATE)?;
    if server_no_takeover {
        f.write_str("; server_no_context_takeover")?;
    }
    if client_no_takeover {
        f.write_str("; client_no_context_takeover")?;
    }
    match server_bits {
        None => Ok(()),
        Some(bits) => write!(f, "; server_max_window_bits={bits}"),
    }
}
