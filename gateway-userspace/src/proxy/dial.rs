//! The only place that opens connections to upstreams, and only with a permit in hand.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::policy::Permit;

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
    permit: &Permit,
    listening: &[SocketAddr],
    patience: Duration,
) -> Result<(TcpStream, SocketAddr), DialError> {
    let mut last = DialError::NoAddress;
    for &address in permit.addresses().iter().take(ADDRESSES_TRIED) {
        match dial_one(address, listening, patience).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => last = error,
        }
    }
    Err(last)
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
