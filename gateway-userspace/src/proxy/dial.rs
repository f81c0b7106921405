//! The only place that opens connections to upstreams, and only with a permit in hand.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::{
    policy::Permit,
    worker::{DialPath, Purpose},
};

/// Most addresses of one name that are tried: what a name resolves to may be the agent's doing,
/// and each takes its time.
const ADDRESSES_TRIED: usize = 4;

/// Why no upstream address could be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The address is the gateway's own.
    #[error("{0} is the gateway itself")]
    Itself(SocketAddr),
    /// No answer.
    #[error("{address} did not answer in time")]
    TimedOut {
        /// The last address tried.
        address: SocketAddr,
    },
    /// Refused, unreachable, or something local.
    #[error("connecting to {address}: {source}")]
    Failed {
        /// The last address tried.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A permit without addresses, which policy does not make.
    #[error("there is no address to connect to")]
    NoAddress,
}

/// Connects to the first of the permitted addresses that answers, each within `patience`, and no
/// more than the first few of them.
///
/// # Errors
/// [`DialError`] of the last address tried.
pub(crate) async fn dial(
    path: Option<&DialPath>,
    permit: &Permit,
    listening: &[SocketAddr],
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut last = DialError::NoAddress;
    for &address in permit.addresses().iter().take(ADDRESSES_TRIED) {
        let dialled = match path {
            None => dial_one(address, listening, patience).await,
            Some(path) => ask_for(path, address, patience).await,
        };
        match dialled {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks the supervisor, which looks at the address again.
async fn ask_for(
    path: &DialPath,
    address: SocketAddr,
    patience: Duration,
) -> Result<TcpStream, DialError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::TimedOut => DialError::TimedOut { address },
        io::ErrorKind::ResourceBusy => DialError::Itself(address),
        _ => DialError::Failed { address, source },
    };
    let opened = path.open(Purpose::Upstream, address, patience).await;
    let stream = std::net::TcpStream::from(opened.map_err(failed)?);
    TcpStream::from_std(stream).map_err(failed)
}

/// Connects for the worker.
///
/// # Errors
/// As the system's; `ResourceBusy` stands for the gateway itself.
pub(crate) async fn dial_address(
    address: SocketAddr,
    listening: &[SocketAddr],
    patience: Duration,
) -> io::Result<TcpStream> {
    let dialled = dial_one(address, listening, patience).await;
    dialled.map_err(|error| match error {
        DialError::Itself(_) => rustix::io::Errno::BUSY.into(),
        DialError::TimedOut { .. } => io::ErrorKind::TimedOut.into(),
        DialError::Failed { source, .. } => source,
        DialError::NoAddress => io::ErrorKind::AddrNotAvailable.into(),
    })
}

async fn dial_one(
    address: SocketAddr,
    listening: &[SocketAddr],
    patience: Duration,
) -> Result<TcpStream, DialError> {
    if listening.contains(&address) {
        return Err(DialError::Itself(address));
    }
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let connecting = TcpStream::connect(address);
    let stream = match tokio::time::timeout(patience, connecting).await {
        Err(_) => return Err(DialError::TimedOut { address }),
        Ok(Err(source)) => return Err(DialError::Failed { address, source }),
        Ok(Ok(stream)) => stream,
    };
    // Other spellings of the own address, such as 0.0.0.0, show only now. Nothing was sent yet.
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
        return Ok(stream);
    };
    let this_host = peer.ip().is_loopback() || peer.ip() == local.ip();
    let reached_itself = listening.iter().any(|own| {
        own.port() == peer.port()
            && (own.ip() == peer.ip() || own.ip().is_unspecified() && this_host)
    });
    if reached_itself {
        return Err(DialError::Itself(address));
    }
    Ok(stream)
}
