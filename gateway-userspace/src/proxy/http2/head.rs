//! Heads of HTTP/2 messages: in one reading only, and made anew for the other side.

use http::{HeaderMap, HeaderName, Request, Response, Uri, Version, header, request, uri};

use crate::{
    names::Host,
    proxy::{
        http1::{
            HeadError, fields,
            target::{Authority, PathAndQuery, TargetError},
        },
        session::{Scope, authority},
    },
};

/// A request as it is decided on.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) path: PathAndQuery,
}

/// Reads for which place and path a request is.
///
/// # Errors
/// Anything that is malformed, has two readings, or is for another place than the connection.
pub(super) fn read(
    head: &request::Parts,
    scope: &Scope,
    most_fields: usize,
) -> Result<Asked, HeadError> {
    let method = head.method.as_str();
    if method.len() > 32 || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        return Err(HeadError::Method);
    }
    if head.headers.len() > most_fields {
        return Err(HeadError::TooManyFields);
    }
    let scheme = match scope {
        Scope::Opened(..) => uri::Scheme::HTTPS,
        Scope::Explicit | Scope::Redirected(_) | Scope::Tunnel(..) => uri::Scheme::HTTP,
    };
    // CONNECT has none, and belongs to the gateway's own port.
    if head.uri.scheme() != Some(&scheme) || method == "CONNECT" {
        return Err(HeadError::Target(TargetError::Form));
    }
    let place = head.uri.authority().ok_or(HeadError::HostMissing)?;
    let place = Authority::parse(place.as_str()).map_err(HeadError::Target)?;
    let mut hosts = head.headers.get_all(header::HOST).iter();
    if let Some(host) = hosts.next() {
        let host = host.to_str().map_err(|_| HeadError::FieldLine)?;
        let host = Authority::parse(host).map_err(HeadError::Target)?;
        if hosts.next().is_some() {
            return Err(HeadError::HostRepeated);
        }
        if host.host != place.host || host.port != place.port {
            return Err(HeadError::HostMismatch);
        }
    }
    let text = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = PathAndQuery::parse(text).map_err(HeadError::Target)?;
    let (host, port) = scope.agrees(place)?;
    Ok(Asked { host, port, path })
}

/// The request for the upstream.
///
/// # Errors
/// If place and path do not make a URI, which what was read does.
pub(super) fn request(
    head: &request::Parts,
    asked: &Asked,
    scope: &Scope,
) -> Result<Request<()>, HeadError> {
    let scheme = match scope {
        Scope::Opened(..) => "https",
        Scope::Explicit | Scope::Redirected(_) | Scope::Tunnel(..) => "http",
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority(&asked.host, asked.port, scope.usual_port()))
        .path_and_query(asked.path.to_string())
        .build()
        .map_err(|_| HeadError::StartLine)?;
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = end_to_end(&head.headers);
    Ok(request)
}

/// The fields as conditions see them: those that the other end gets. The host is one of them,
/// which agrees with the authority.
pub(super) fn fields(all: &HeaderMap) -> Vec<(&str, &[u8])> {
    all.iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect()
}

/// Whether a field of this name is meant for the other end.
fn passes(name: &HeaderName) -> bool {
    // `te: trailers` is how gRPC asks for them; HTTP/2 knows no other.
    *name == header::TE || !fields::is_for_one_hop(name.as_str().as_bytes())
}

/// The response for the agent.
pub(super) fn response(head: &http::response::Parts) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.version_mut() = Version::HTTP_2;
    *response.headers_mut() = end_to_end(&head.headers);
    response
}

/// The response for an agent that gets a body without a content coding in place of what came: of
/// this length, where that is known.
pub(super) fn response_read(head: &http::response::Parts, length: Option<usize>) -> Response<()> {
    let mut response = response(head);
    let fields = response.headers_mut();
    let gone = fields.keys().filter(|name| {
        let name = name.as_str().as_bytes();
        name == b"content-length" || fields::is_of_encoded(name)
    });
    let gone: Vec<HeaderName> = gone.cloned().collect();
    for name in gone {
        fields.remove(name);
    }
    if let Some(length) = length {
        fields.insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

/// The fields that are meant for the other end.
pub(super) fn end_to_end(all: &HeaderMap) -> HeaderMap {
    let fields = all
        .iter()
        .filter(|(name, _)| *name != header::HOST && passes(name));
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Trailer fields that are meant for the other end.
pub(super) fn trailers(all: &HeaderMap) -> HeaderMap {
    let fields = all
        .iter()
        .filter(|(name, _)| fields::is_trailer(name.as_str().as_bytes()));
    fields
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
