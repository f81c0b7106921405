//! What is known of an HTTP request beside its host, method and path.

use serde_json::Value;

/// The scheme of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scheme {
    /// In the clear.
    #[default]
    Http,
    /// Inside TLS.
    Https,
}

impl Scheme {
    /// As a URL has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The body of a request, as far as it was read.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Content<'a> {
    /// There may be one; nobody looked.
    #[default]
    Unread,
    /// There is none.
    Empty,
    /// It was read to its end.
    Read {
        /// Octets.
        size: u64,
        /// What it says, if it is JSON. One with a name twice in an object has two readings and
        /// must not be given here.
        json: Option<&'a Value>,
    },
}

/// What rules may look at beside host, port, method and path. The default knows nothing: no
/// field, no query, and a body that nobody read.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Facts<'a> {
    /// Scheme.
    pub scheme: Scheme,
    /// What stands behind the `?`, without it.
    pub query: &'a str,
    /// Header fields, in the order they came, names in any case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Whether it opens a WebSocket.
    pub websocket: bool,
    /// Body.
    pub content: Content<'a>,
}

/// Facts that own what they are made of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OwnedFacts {
    /// Scheme.
    pub scheme: Scheme,
    /// Query, without the `?`.
    pub query: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Whether it opens a WebSocket.
    pub websocket: bool,
    /// The body, if there is one: its octets, and what it says if it is JSON.
    pub body: Option<(u64, Option<Value>)>,
}

impl OwnedFacts {
    /// Lends the facts.
    pub fn with<T>(&self, use_them: impl FnOnce(&Facts<'_>) -> T) -> T {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        use_them(&Facts {
            scheme: self.scheme,
            query: &self.query,
            headers: &headers,
            websocket: self.websocket,
            content: match &self.body {
                None => Content::Empty,
                Some((size, json)) => Content::Read {
                    size: *size,
                    json: json.as_ref(),
                },
            },
        })
    }
}
