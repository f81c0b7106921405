//! A request as a person writes it on the command line.

use std::net::SocketAddr;

use url::Url;

use super::{OwnedFacts, Policy, Request, Scheme, settings::record_type};
use crate::names::{BadHost, Host, HostName};

/// An owned [`Request`].
#[derive(Clone, PartialEq, Debug)]
pub enum Query {
    /// A tunnel.
    Connect {
        /// Host.
        host: Host,
        /// Port.
        port: u16,
    },
    /// `http://…`, or what is inside TLS.
    Http {
        /// Host.
        host: Host,
        /// Port.
        port: u16,
        /// Method.
        method: String,
        /// Path.
        path: String,
        /// What else is known of it.
        facts: OwnedFacts,
    },
    /// `https://…`: method and path are hidden in TLS.
    Tls {
        /// Host.
        host: Host,
        /// Port.
        port: u16,
    },
    /// A connection that is neither.
    Tcp {
        /// Address.
        destination: SocketAddr,
        /// Names that stand for it.
        names: Vec<HostName>,
    },
    /// A DNS question.
    Dns {
        /// Name.
        name: HostName,
        /// Record type number.
        record_type: u16,
    },
}

/// Why a request cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadQuery {
    /// No URL.
    #[error("`{0}` is not a URL: write it in full, as in https://api.example.com/path")]
    Url(String),
    /// A URL of another scheme.
    #[error("`{0}` is neither http:// nor https://; for other protocols there is --tcp")]
    Scheme(String),
    /// No place.
    #[error("`{0}` is not a host with a port: write both, as in api.example.com:443")]
    Place(String),
    /// No address.
    #[error("`{0}` is not an address with a port: write both, as in 192.0.2.7:5432")]
    Address(String),
    /// No host.
    #[error("`{text}`: {bad}")]
    Host {
        /// As written.
        text: String,
        /// Why.
        bad: BadHost,
    },
    /// No record type.
    #[error("`{0}` is not a DNS record type: write its name, as in AAAA, or TYPE65")]
    RecordType(String),
}

impl Query {
    /// An HTTP request, for `https` the one inside TLS.
    ///
    /// # Errors
    /// [`BadQuery`] if it is no URL of HTTP.
    pub fn http(text: &str, method: &str) -> Result<Self, BadQuery> {
        let not_one = || BadQuery::Url(text.to_owned());
        let url = Url::parse(text).map_err(|_| not_one())?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(BadQuery::Scheme(other.to_owned())),
        };
        // As written, like a client sends it that does not tidy up: the URL standard reads
        // `0x7f.1` as an address and takes dot segments out of paths.
        let (host, path, query) = split(text).ok_or_else(not_one)?;
        let host = parse_host(host)?;
        let port = url.port_or_known_default().ok_or_else(not_one)?;
        Ok(Self::Http {
            host,
            port,
            method: method.to_owned(),
            path: path.to_owned(),
            facts: OwnedFacts {
                scheme: if tls { Scheme::Https } else { Scheme::Http },
                query: query.to_owned(),
                ..OwnedFacts::default()
            },
        })
    }

    /// The same as a gateway under this policy sees it: TLS that it does not open tells no more
    /// than the host.
    #[must_use]
    pub fn seen_under(self, policy: &Policy) -> Self {
        match self {
            Self::Http {
                host, port, facts, ..
            } if facts.scheme == Scheme::Https && !policy.inspects(&host, port) => {
                Self::Tls { host, port }
            }
            other => other,
        }
    }

    /// A tunnel to `host:port`.
    ///
    /// # Errors
    /// [`BadQuery`] if it is none.
    pub fn connect(text: &str) -> Result<Self, BadQuery> {
        parse_place(text).map(|(host, port)| Self::Connect { host, port })
    }

    /// TLS to `host:port`, unopened.
    ///
    /// # Errors
    /// [`BadQuery`] if it is none.
    pub fn tls(text: &str) -> Result<Self, BadQuery> {
        parse_place(text).map(|(host, port)| Self::Tls { host, port })
    }

    /// A connection by address.
    ///
    /// # Errors
    /// [`BadQuery`] if one of the names is none.
    pub fn tcp(destination: SocketAddr, names: &[String]) -> Result<Self, BadQuery> {
        let names = names.iter().map(|name| parse_name(name));
        Ok(Self::Tcp {
            destination,
            names: names.collect::<Result<_, _>>()?,
        })
    }

    /// A DNS question.
    ///
    /// # Errors
    /// [`BadQuery`] if name or type is none.
    pub fn dns(name: &str, kind: &str) -> Result<Self, BadQuery> {
        Ok(Self::Dns {
            name: parse_name(name)?,
            record_type: record_type(&kind.to_ascii_uppercase())
                .ok_or_else(|| BadQuery::RecordType(kind.to_owned()))?,
        })
    }

    /// Lends the request to decide.
    pub fn with<T>(&self, decide: impl FnOnce(&Request<'_>) -> T) -> T {
        match self {
            Self::Connect { host, port } => decide(&Request::Connect { host, port: *port }),
            Self::Http {
                host,
                port,
                method,
                path,
                facts,
            } => facts.with(|facts| {
                decide(&Request::Http {
                    host,
                    port: *port,
                    method,
                    path,
                    facts,
                })
            }),
            Self::Tls { host, port } => decide(&Request::Tls { host, port: *port }),
            Self::Tcp { destination, names } => decide(&Request::Tcp {
                destination: *destination,
                names,
            }),
            Self::Dns { name, record_type } => decide(&Request::Dns {
                name,
                record_type: *record_type,
            }),
        }
    }
}

impl Query {
    /// Where it goes; nowhere for a DNS question.
    #[must_use]
    pub fn place(&self) -> Option<(Host, u16)> {
        match self {
            Self::Connect { host, port }
            | Self::Http { host, port, .. }
            | Self::Tls { host, port } => Some((host.clone(), *port)),
            Self::Tcp { destination, .. } => Some((
                Host::Address(destination.ip().to_canonical()),
                destination.port(),
            )),
            Self::Dns { .. } => None,
        }
    }
}

/// `host:port`
fn parse_place(text: &str) -> Result<(Host, u16), BadQuery> {
    let not_one = || BadQuery::Place(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(not_one)?;
    let port = port.parse().map_err(|_| not_one())?;
    Ok((parse_host(host)?, port))
}

/// Host, path and query of a URL that the URL standard takes.
fn split(url: &str) -> Option<(&str, &str, &str)> {
    let (_, rest) = url.split_once("//")?;
    let rest = rest.split('#').next()?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let host = authority.rsplit('@').next()?;
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => host,
    };
    Some((host, path, query))
}

fn parse_host(text: &str) -> Result<Host, BadQuery> {
    Host::parse(text).map_err(|bad| BadQuery::Host {
        text: text.to_owned(),
        bad,
    })
}

fn parse_name(text: &str) -> Result<HostName, BadQuery> {
    HostName::parse(text).map_err(|bad| BadQuery::Host {
        text: text.to_owned(),
        bad,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(host: &str, port: u16, path: &str) -> Query {
        Query::Http {
            host: Host::parse(host).expect("a host"),
            port,
            method: "GET".into(),
            path: path.into(),
            facts: OwnedFacts::default(),
        }
    }

    fn tls(host: &str, port: u16) -> Query {
        Query::Tls {
            host: Host::parse(host).expect("a host"),
            port,
        }
    }

    #[test]
    fn urls_are_taken_as_written() {
        for (text, expected) in [
            ("http://a.example", http("a.example", 80, "/")),
            ("http://a.example#f?q", http("a.example", 80, "/")),
            ("http://a.example:8080/x?", http("a.example", 8080, "/x")),
            ("http://u:p@a.example/x", http("a.example", 80, "/x")),
            (
                "http://a.example/a/../%2e",
                http("a.example", 80, "/a/../%2e"),
            ),
            ("http://[::1]:8080/", http("::1", 8080, "/")),
            ("http://[::1]/", http("::1", 80, "/")),
        ] {
            assert_eq!(Query::http(text, "GET").as_ref(), Ok(&expected), "{text}");
        }
        let shut = Policy::locked_down();
        for (text, expected) in [
            ("https://a.example/x", tls("a.example", 443)),
            ("https://A.example:8443", tls("a.example", 8443)),
            ("http://a.example/x", http("a.example", 80, "/x")),
        ] {
            let query = Query::http(text, "GET").expect("a request");
            assert_eq!(query.seen_under(&shut), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_request_says_why() {
        let url = |text: &str| Query::http(text, "GET").expect_err("no request");
        assert_eq!(url("a.example"), BadQuery::Url("a.example".into()));
        assert_eq!(url("ftp://a.example"), BadQuery::Scheme("ftp".into()));
        assert_eq!(
            url("http://0x7f.1/"),
            BadQuery::Host {
                text: "0x7f.1".into(),
                bad: BadHost::AmbiguousAddress
            }
        );
        assert_eq!(
            Query::dns("a.example", "NONE"),
            Err(BadQuery::RecordType("NONE".into()))
        );
        assert!(Query::dns("a.example", "aaaa").is_ok());
        assert!(Query::dns("10.0.0.1", "A").is_err());
        let destination = SocketAddr::from(([1, 1, 1, 1], 22));
        assert!(Query::tcp(destination, &["a.example".into()]).is_ok());
        assert!(Query::tcp(destination, &["1.1.1.1".into()]).is_err());
    }
}
