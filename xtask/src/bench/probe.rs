//! The agent that is measured: does on command what an agent does, and says how long it took.

use std::{
    io::{self, BufRead as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// How often a thing is done for one answer.
const TIMES: usize = 400;

/// What it can be told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    /// `connect(2)` over TCP to a listener on loopback that takes everybody.
    Connect(u16),
    /// `connect(2)` of a UDP socket to an address of no host (RFC 5737): no packet is sent.
    Datagram,
    /// `socket(2)`, TCP.
    Socket,
}

/// Answers jobs, a line of JSON each, until standard input ends: medians in nanoseconds.
pub(crate) fn run() -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    for line in io::stdin().lock().lines() {
        let job = serde_json::from_str(&line?).context("a job")?;
        let median = measure(job)?;
        writeln!(out, "{median}")?;
    }
    Ok(())
}

fn measure(job: Job) -> Result<u64> {
    let mut taken = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        taken.push(once(job)?);
    }
    taken.sort_unstable();
    taken
        .get(TIMES / 2)
        .copied()
        .context("nothing was measured")
}

/// One time, in nanoseconds; what has to be there first and is cleared away after is not in it.
#[expect(
    clippy::disallowed_methods,
    reason = "connect(2) as an agent calls it is what is measured; xtask has no upstream"
)]
fn once(job: Job) -> Result<u64> {
    let start;
    let end;
    match job {
        Job::Connect(port) => {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            start = Instant::now();
            let stream = TcpStream::connect(to).context("connecting")?;
            end = Instant::now();
            drop(stream);
        }
        Job::Datagram => {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a UDP socket")?;
            start = Instant::now();
            let connected = socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9));
            end = Instant::now();
            // Refused inside a boundary; outside there may be no route. Either is an answer.
            drop(connected);
        }
        Job::Socket => {
            start = Instant::now();
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            );
            end = Instant::now();
            if let Err(error) = socket {
                bail!("a TCP socket: {error}");
            }
        }
    }
    u64::try_from(end.duration_since(start).as_nanos()).context("a time that fits")
}
