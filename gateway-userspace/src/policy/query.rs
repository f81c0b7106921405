//! A request as a person writes it on the command line.

use std::net::SocketAddr;

use url::Url;

use super::{Request, settings::record_type};
use crate::names::{BadHost, Host, HostName};

/// An owned [`Request`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// `http://…`.
    Http {
        /// Host.
        host: Host,
        /// Port.
        port: u16,
        /// Method.
        method: String,
        /// Path.
        path: String,
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
    /// An HTTP request, or for `https` the TLS connection around it.
    ///
    /// # Errors
    /// [`BadQuery`] if it is no URL of HTTP.
    pub fn url(text: &str, method: &str) -> Result<Self, BadQuery> {
        let not_one = || BadQuery::Url(text.to_owned());
        let url = Url::parse(text).map_err(|_| not_one())?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            other => return Err(BadQuery::Scheme(other.to_owned())),
        };
        // As written, like a client sends it that does not tidy up: the URL standard reads
        // `0x7f.1` as an address and takes dot segments out of paths.
        let (host, path) = split(text).ok_or_else(not_one)?;
        let host = parse_host(host)?;
        let port = url.port_or_known_default().ok_or_else(not_one)?;
        if tls {
            return Ok(Self::Tls { host, port });
        }
        Ok(Self::Http {
            host,
            port,
            method: method.to_owned(),
            path: path.to_owned(),
        })
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

    /// The request to decide.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        match self {
            Self::Http {
                host,
                port,
                method,
                path,
            } => Request::Http {
                host,
                port: *port,
                method,
                path,
            },
            Self::Tls { host, port } => Request::Tls { host, port: *port },
            Self::Tcp { destination, names } => Request::Tcp {
                destination: *destination,
                names,
            },
            Self::Dns { name, record_type } => Request::Dns {
                name,
                record_type: *record_type,
            },
        }
    }
}

/// Host and path of a URL that the URL standard takes.
fn split(url: &str) -> Option<(&str, &str)> {
    let (_, rest) = url.split_once("//")?;
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let host = authority.rsplit('@').next()?;
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) | None => host,
    };
    Some((host, path))
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
            ("http://a.example?q#f", http("a.example", 80, "/")),
            ("http://a.example:8080/x?q", http("a.example", 8080, "/x")),
            ("http://u:p@a.example/x", http("a.example", 80, "/x")),
            (
                "http://a.example/a/../%2e",
                http("a.example", 80, "/a/../%2e"),
            ),
            ("http://[::1]:8080/", http("::1", 8080, "/")),
            ("http://[::1]/", http("::1", 80, "/")),
            ("https://a.example/x", tls("a.example", 443)),
            ("https://A.example:8443", tls("a.example", 8443)),
        ] {
            assert_eq!(Query::url(text, "GET").as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_request_says_why() {
        let url = |text: &str| Query::url(text, "GET").expect_err("no request");
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
