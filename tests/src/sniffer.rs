//! The oracle: sees every packet that reaches a network namespace, whatever it is.
//!
//! That something did not arrive is only said once a later packet over the same path has.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt,
    },
};

/// Room for packets not yet read, bytes.
const ROOM: usize = 8 << 20;
/// Longest packet on a link of this kind, bytes.
const LONGEST: usize = 65_536;

/// A packet socket in one network namespace.
#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
    outgoing: bool,
}

/// What `PACKET_STATISTICS` answers.
#[repr(C)]
#[derive(Default)]
struct Statistics {
    packets: u32,
    dropped: u32,
}

impl Sniffer {
    /// Listens on every interface of the namespace that this thread is in, from now on.
    ///
    /// # Errors
    /// If the caller is not root.
    pub fn arriving() -> anyhow::Result<Self> {
        Self::open(false)
    }

    /// As above, with what leaves: for attempts that end on loopback.
    ///
    /// # Errors
    /// If the caller is not root.
    pub fn passing() -> anyhow::Result<Self> {
        Self::open(true)
    }

    fn open(outgoing: bool) -> anyhow::Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .context("opening a packet socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("giving it room")?;
        Ok(Self { socket, outgoing })
    }

    /// Every packet up to and including those that carry the `last` markers.
    ///
    /// # Errors
    /// If they do not come within `patience`, or the kernel had to drop packets.
    pub fn until(&self, last: &[Vec<u8>], patience: Duration) -> anyhow::Result<Vec<Packet>> {
        let deadline = Instant::now() + patience;
        let mut missing: Vec<&Vec<u8>> = last.iter().collect();
        let mut packets = Vec::new();
        while !missing.is_empty() {
            let packet = self
                .next(deadline)
                .with_context(|| format!("{} of {} controls missing", missing.len(), last.len()))?;
            missing.retain(|marker| !packet.carries(marker));
            packets.push(packet);
        }
        let dropped = self.dropped().context("asking for drops")?;
        anyhow::ensure!(dropped == 0, "{dropped} packets went by unseen");
        Ok(packets)
    }

    fn next(&self, deadline: Instant) -> anyhow::Result<Packet> {
        let mut buffer = vec![0; LONGEST];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let kind = from.map_or(0, |from| from.pkttype());
                    if self.outgoing || kind != libc::PACKET_OUTGOING {
                        buffer.truncate(length);
                        return Ok(Packet(buffer));
                    }
                }
                Err(Errno::EAGAIN) => self.wait(deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, deadline: Instant) -> anyhow::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut sockets, PollTimeout::try_from(left)?)?;
        anyhow::ensure!(ready > 0, "no packet came");
        Ok(())
    }

    fn dropped(&self) -> io::Result<u32> {
        let mut statistics = Statistics::default();
        let mut length = size_of::<Statistics>() as libc::socklen_t;
        // SAFETY: pointer and length are one variable's, of the layout that the kernel fills in.
        let answer = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        Errno::result(answer)?;
        Ok(statistics.dropped)
    }
}

/// A packet, from its network header on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet(Vec<u8>);

impl Packet {
    /// Whether these bytes are anywhere in it.
    #[must_use]
    pub fn carries(&self, marker: &[u8]) -> bool {
        self.0.windows(marker.len()).any(|bytes| bytes == marker)
    }

    /// Whether it comes from or goes to this port, under whatever header.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        let Some((protocol, body)) = self.transport() else {
            return false;
        };
        let known = [
            libc::IPPROTO_TCP,
            libc::IPPROTO_UDP,
            libc::IPPROTO_UDPLITE,
            libc::IPPROTO_SCTP,
            libc::IPPROTO_DCCP,
        ];
        known.contains(&i32::from(protocol))
            && [0, 2].iter().any(|&at| {
                body.get(at..at + 2)
                    .is_some_and(|bytes| bytes == port.to_be_bytes())
            })
    }

    /// Whether it is what kernels say on their own account: neighbour discovery and its kin, ARP,
    /// or a refusal to talk.
    #[must_use]
    pub fn is_housekeeping(&self) -> bool {
        const RESET: u8 = 4;
        /// Where the flags are in a TCP header.
        const FLAGS: usize = 13;
        match self.transport() {
            // Router and neighbour discovery, and reports of groups joined.
            Some((58, body)) => body
                .first()
                .is_some_and(|kind| (131..=137).contains(kind) || *kind == 143),
            Some((6, body)) => body.get(FLAGS).is_some_and(|flags| flags & RESET != 0),
            Some(_) => false,
            None => self
                .0
                .first()
                .is_none_or(|first| !matches!(first >> 4, 4 | 6)),
        }
    }

    /// Protocol number and what follows the IP header, options and extension headers.
    fn transport(&self) -> Option<(u8, &[u8])> {
        match self.0.first()? >> 4 {
            4 => {
                let length = usize::from(self.0.first()? & 15) * 4;
                Some((*self.0.get(9)?, self.0.get(length..)?))
            }
            6 => {
                let mut protocol = *self.0.get(6)?;
                let mut body = self.0.get(40..)?;
                // Hop-by-hop options, routing, fragment, destination options.
                while matches!(protocol, 0 | 43 | 44 | 60) {
                    let length = match protocol {
                        44 => 8,
                        _ => (usize::from(*body.get(1)?) + 1) * 8,
                    };
                    (protocol, body) = (*body.first()?, body.get(length..)?);
                }
                Some((protocol, body))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Packet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = self.transport().map(|(protocol, _)| protocol);
        write!(formatter, "protocol {protocol:?}")?;
        if let Some(Ok(ends)) = self.0.get(12..20).map(<[u8; 8]>::try_from)
            && self.0[0] >> 4 == 4
        {
            let [a, b, c, d, e, f, g, h] = ends;
            let (from, to) = (Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h));
            write!(formatter, " {from} -> {to}")?;
        } else if let Some(Ok(to)) = self.0.get(24..40).map(<[u8; 16]>::try_from)
            && self.0[0] >> 4 == 6
        {
            write!(formatter, " -> {}", Ipv6Addr::from(to))?;
        }
        write!(formatter, " {:02x?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_behind_options_and_extension_headers() {
        let mut v4 = vec![0x46; 24];
        v4[9] = 17;
        v4.extend([0x12, 0x34, 0, 80]);
        let packet = Packet(v4);
        assert!(packet.has_port(0x1234) && packet.has_port(80) && !packet.has_port(81));

        let mut v6 = vec![0x60; 40];
        v6[6] = 43;
        v6.extend([6, 0, 4, 0, 0, 0, 0, 0]);
        v6.extend([0, 80, 0x12, 0x34]);
        assert!(Packet(v6).has_port(80));
    }

    #[test]
    fn short_packets_have_no_ports() {
        for length in 0..44 {
            let mut v6 = vec![0x60; length];
            if let Some(next) = v6.get_mut(6) {
                *next = 43;
            }
            assert!(!Packet(v6).has_port(0x6060), "{length}");
        }
    }

    #[test]
    fn discovery_is_housekeeping_and_an_echo_is_not() {
        let message = |kind: u8| {
            let mut packet = vec![0x60; 40];
            packet[6] = 58;
            packet.extend([kind, 0]);
            Packet(packet)
        };
        assert!(message(135).is_housekeeping());
        assert!(!message(128).is_housekeeping());
    }
}
