//! Two network namespaces, a node's and an origin's, joined by a link, and nothing else.
//!
//! They have no names, so that nothing is left of them however the test ends.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    deadline::{scaled, wait_for},
    netns::Netns,
    sniffer::{Packet, Sniffer},
};

/// The node's addresses, for documentation (RFC 5737, RFC 3849).
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// See [`NODE4`].
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The origin's addresses.
pub const ORIGIN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// See [`ORIGIN4`].
pub const ORIGIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Both ends of the link.
const LINK: &str = "way";
/// One end of the link: its addresses, the one of the link itself last.
struct End(Ipv4Addr, Ipv6Addr, &'static str);

const NODE_END: End = End(NODE4, NODE6, "02:00:00:00:00:01");
const ORIGIN_END: End = End(ORIGIN4, ORIGIN6, "02:00:00:00:00:02");

/// Port of the controls that bound every wait.
const CONTROL: u16 = 9;
/// How long one control is waited for while the link comes up.
const A_MOMENT: Duration = Duration::from_millis(50);
/// Longest that a control may take to arrive, before [`scaled`].
const PATIENCE: Duration = Duration::from_secs(10);

/// The two namespaces and the eyes in them.
#[derive(Debug)]
pub struct World {
    /// Where agents run.
    pub node: Netns,
    /// Where nothing may arrive.
    pub origin: Netns,
    arriving: Sniffer,
    local: Sniffer,
}

/// What was seen between two controls.
#[derive(Debug)]
pub struct Seen {
    /// At the origin.
    pub arrived: Vec<Packet>,
    /// On the node's loopback and its own end of the link.
    pub local: Vec<Packet>,
}

impl World {
    /// Makes both and joins them.
    ///
    /// # Errors
    /// If the caller is not root or `ip` is missing.
    pub fn new() -> anyhow::Result<Self> {
        let (node, origin) = (Netns::new()?, Netns::new()?);
        node.join(LINK, &origin, LINK)?;
        let (here, there) = (NODE_END, ORIGIN_END);
        address(&node, &here, &there)?;
        address(&origin, &there, &here)?;
        node.ip(&format!("-4 route add default via {ORIGIN4}"))?;
        node.ip(&format!("-6 route add default via {ORIGIN6}"))?;
        // So that ping sockets need no privilege here, as on most distributions.
        node.run(|| fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"))
            .context("opening ping to everybody")?;
        let world = Self {
            arriving: origin.run(Sniffer::arriving)?,
            local: node.run(Sniffer::passing)?,
            node,
            origin,
        };
        // A link that was brought up carries nothing for a moment, and drops what it is given.
        let mut try_number = 0;
        wait_for("the link between node and origin", || {
            try_number += 1;
            let out = world.controls(
                &format!("begin {try_number}"),
                &[ORIGIN4.into(), ORIGIN6.into()],
            )?;
            Ok(world.arriving.until(&out, scaled(A_MOMENT)).ok())
        })?;
        Ok(world)
    }

    /// All that was seen since the last call. What was sent before is in it or did not arrive:
    /// a control has come from every CPU, over the same path, by the time this answers.
    ///
    /// # Errors
    /// If a control does not arrive.
    pub fn seen(&self, tag: &str) -> anyhow::Result<Seen> {
        let out = self.controls(tag, &[ORIGIN4.into(), ORIGIN6.into()])?;
        let arrived = self
            .arriving
            .until(&out, scaled(PATIENCE))
            .context("at the origin")?;
        let around = self.controls(
            &format!("{tag}-local"),
            &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        )?;
        let local = self
            .local
            .until(&around, scaled(PATIENCE))
            .context("at the node")?;
        let not_control = |packet: &Packet| !packet.has_port(CONTROL);
        Ok(Seen {
            arrived: arrived.into_iter().filter(not_control).collect(),
            local: local.into_iter().filter(not_control).collect(),
        })
    }

    /// Waits until these bytes have arrived at the origin, in one packet or several; answers
    /// all that arrived until then.
    ///
    /// # Errors
    /// If they do not arrive.
    pub fn arrival(&self, bytes: &[Vec<u8>]) -> anyhow::Result<Vec<Packet>> {
        self.arriving.until(bytes, scaled(PATIENCE))
    }

    /// Sends a datagram to each address from each CPU; answers what they carry. Packets of one CPU keep their
    /// order, packets of several need not.
    fn controls(&self, tag: &str, to: &[IpAddr]) -> anyhow::Result<Vec<Vec<u8>>> {
        self.node.run(|| {
            let this = Pid::from_raw(0);
            let all = sched_getaffinity(this).context("asking for CPUs")?;
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            let mut markers = Vec::new();
            for cpu in (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)) {
                let mut one = CpuSet::new();
                one.set(cpu)?;
                sched_setaffinity(this, &one).context("going to a CPU")?;
                for address in to {
                    let marker = format!("[control {tag} {cpu} {address}]").into_bytes();
                    let mapped = match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped(),
                        IpAddr::V6(address) => *address,
                    };
                    socket.send_to(&marker, (mapped, CONTROL))?;
                    markers.push(marker);
                }
            }
            Ok(markers)
        })
    }
}

/// Brings up one end. The neighbour is known from the start: a packet that waits for it to be
/// found is overtaken by later ones, and a control would prove nothing.
fn address(namespace: &Netns, own: &End, neighbour: &End) -> anyhow::Result<()> {
    let End(v4, v6, link) = own;
    namespace.ip(&format!("link set {LINK} address {link}"))?;
    namespace.ip(&format!("address add {v4}/24 brd + dev {LINK}"))?;
    namespace.ip(&format!("address add {v6}/64 dev {LINK} nodad"))?;
    namespace.ip(&format!("link set {LINK} up"))?;
    let End(v4, v6, link) = neighbour;
    let known = format!("lladdr {link} dev {LINK} nud permanent");
    namespace.ip(&format!("neighbour replace {v4} {known}"))?;
    namespace.ip(&format!("neighbour replace {v6} {known}"))
}
