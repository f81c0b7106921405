//! Two network namespaces, a node's and an origin's, joined by a link, and nothing else.
//!
//! They have no names, so that nothing is left of them however the test ends.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    panic::resume_unwind,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, setns, unshare},
    unistd::{Pid, gettid},
};

use crate::sniffer::{Packet, Sniffer};

/// The node's addresses, for documentation (RFC 5737, RFC 3849).
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// See [`NODE4`].
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The origin's addresses.
pub const ORIGIN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// See [`ORIGIN4`].
pub const ORIGIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Port of the controls that bound every wait.
const CONTROL: u16 = 9;
/// Longest that a control may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    fn new() -> anyhow::Result<Self> {
        let made = || {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            let file = File::open("/proc/thread-self/ns/net").context("opening it")?;
            run("ip", &["link", "set", "lo", "up"])?;
            anyhow::Ok(Self(file))
        };
        thread::scope(|scope| scope.spawn(made).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Does something inside, on a thread of its own. Processes started there stay there.
    ///
    /// # Errors
    /// What the work says, or that the namespace cannot be entered.
    pub fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// The two namespaces and the eyes in them.
#[derive(Debug)]
pub struct World {
    /// Where agents run.
    pub node: Namespace,
    /// Where nothing may arrive.
    pub origin: Namespace,
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
        let (node, origin) = (Namespace::new()?, Namespace::new()?);
        node.within(|| {
            let thread = gettid().to_string();
            origin.within(|| {
                let peer = ["peer", "name", "way", "netns", &thread];
                let link = ["link", "add", "way", "type", "veth"];
                run("ip", &[&link[..], &peer[..]].concat())?;
                address(ORIGIN4.into(), ORIGIN6.into())
            })?;
            address(NODE4.into(), NODE6.into())?;
            for family in ["-4", "-6"] {
                let gateway = if family == "-4" {
                    ORIGIN4.to_string()
                } else {
                    ORIGIN6.to_string()
                };
                run("ip", &[family, "route", "add", "default", "via", &gateway])?;
            }
            // So that ping sockets need no privilege here, as on most distributions.
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
                .context("opening ping to everybody")
        })?;
        Ok(Self {
            arriving: origin.within(Sniffer::arriving)?,
            local: node.within(Sniffer::passing)?,
            node,
            origin,
        })
    }

    /// All that was seen since the last call. What was sent before is in it or did not arrive:
    /// a control has come from every CPU, over the same path, by the time this answers.
    ///
    /// # Errors
    /// If a control does not arrive.
    pub fn seen(&self, tag: &str) -> anyhow::Result<Seen> {
        let out = self.controls(tag, ORIGIN4.into())?;
        let arrived = self
            .arriving
            .until(&out, PATIENCE)
            .context("at the origin")?;
        let around = self.controls(&format!("{tag}-local"), Ipv4Addr::LOCALHOST.into())?;
        let local = self.local.until(&around, PATIENCE).context("at the node")?;
        let not_control = |packet: &Packet| !packet.has_port(CONTROL);
        Ok(Seen {
            arrived: arrived.into_iter().filter(not_control).collect(),
            local: local.into_iter().filter(not_control).collect(),
        })
    }

    /// Waits until these bytes have arrived at the origin, in one packet or several.
    ///
    /// # Errors
    /// If they do not arrive.
    pub fn arrival(&self, bytes: &[Vec<u8>]) -> anyhow::Result<()> {
        self.arriving.until(bytes, PATIENCE).map(drop)
    }

    /// Sends one datagram from each CPU; answers what they carry. Packets of one CPU keep their
    /// order, packets of several need not.
    fn controls(&self, tag: &str, to: IpAddr) -> anyhow::Result<Vec<Vec<u8>>> {
        self.node.within(|| {
            let this = Pid::from_raw(0);
            let all = sched_getaffinity(this).context("asking for CPUs")?;
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let mut markers = Vec::new();
            for cpu in (0..CpuSet::count()).filter(|&cpu| all.is_set(cpu).unwrap_or(false)) {
                let mut one = CpuSet::new();
                one.set(cpu)?;
                sched_setaffinity(this, &one).context("going to a CPU")?;
                let marker = format!("[control {tag} {cpu}]").into_bytes();
                socket.send_to(&marker, (to, CONTROL))?;
                markers.push(marker);
            }
            Ok(markers)
        })
    }
}

fn address(v4: IpAddr, v6: IpAddr) -> anyhow::Result<()> {
    run(
        "ip",
        &[
            "address",
            "add",
            &format!("{v4}/24"),
            "brd",
            "+",
            "dev",
            "way",
        ],
    )?;
    let v6 = format!("{v6}/64");
    run("ip", &["address", "add", &v6, "dev", "way", "nodad"])?;
    run("ip", &["link", "set", "way", "up"])
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("starting {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
