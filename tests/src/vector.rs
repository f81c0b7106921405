//! Ways out, one small function each, run by the `vector` program inside and outside a boundary.
//!
//! A way answers with the first call that failed. Whether bytes arrived is not for it to say:
//! the [sniffer](crate::sniffer) at the other end is asked that.

pub mod call;
mod descriptors;
mod icmp;
pub mod inbound;
pub mod local;
mod routed;
mod tcp;
mod udp;

use std::{
    ffi::CString,
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Longest that a call may take which a boundary leaves unanswered.
pub const PATIENCE: Duration = Duration::from_millis(1_500);

/// Where a way is to lead, and what it carries.
#[derive(Debug)]
pub struct Target {
    /// The origin's IPv4 address.
    pub v4: Ipv4Addr,
    /// The origin's IPv6 address.
    pub v6: Ipv6Addr,
    /// A port of this attempt alone.
    pub port: u16,
    /// Bytes of this attempt alone.
    pub marker: Vec<u8>,
    /// The gateway's port; none outside a boundary.
    pub gateway: Option<u16>,
}

impl Target {
    fn v4(&self) -> SocketAddr {
        (self.v4, self.port).into()
    }

    fn v6(&self) -> SocketAddr {
        (self.v6, self.port).into()
    }

    fn mapped(&self) -> SocketAddr {
        (self.v4.to_ipv6_mapped(), self.port).into()
    }

    /// The one port that the hooks let pass; outside a boundary any will do.
    fn passable(&self) -> u16 {
        self.gateway.unwrap_or(self.port)
    }
}

/// A call that failed.
#[derive(Debug)]
pub struct Failed {
    call: &'static str,
    error: io::Error,
}

/// What came of a way; where it got somewhere, an address that it saw there.
pub type Outcome = Result<Option<SocketAddr>, Failed>;

/// One way out.
pub type Way = fn(&Target) -> Outcome;

/// Names the call that failed.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(io::Error) -> Failed {
    move |error| Failed { call, error }
}

/// What the program prints of one attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// The way's name.
    pub vector: String,
    /// Whether every call succeeded.
    pub ok: bool,
    /// The call that failed.
    pub call: Option<String>,
    /// Its errno.
    pub errno: Option<i32>,
    /// The address seen: a peer's, or for `wait` and `listening` the own.
    pub seen: Option<SocketAddr>,
    /// The process.
    pub pid: u32,
}

impl Attempt {
    /// Puts an outcome into words.
    #[must_use]
    pub fn of(vector: &str, outcome: Outcome) -> Self {
        let (seen, failure) = match outcome {
            Ok(seen) => (seen, None),
            Err(failure) => (None, Some(failure)),
        };
        Self {
            vector: vector.to_owned(),
            ok: failure.is_none(),
            errno: failure.as_ref().and_then(|it| it.error.raw_os_error()),
            call: failure.map(|it| it.call.to_owned()),
            seen,
            pid: std::process::id(),
        }
    }

    /// Prints it as a line of JSON, at once.
    ///
    /// # Errors
    /// If standard output is gone.
    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

/// The bytes of one attempt, fit for a label of a DNS name.
#[must_use]
pub fn marker(tag: &str, name: &str) -> Vec<u8> {
    format!("x-{tag}-{name}-x").into_bytes()
}

/// What the process is called while it makes the attempt with this port.
#[must_use]
pub fn command_name(port: u16) -> CString {
    CString::new(format!("v{port}")).unwrap_or_default()
}

/// The gateway's port, as Sluice tells its agent.
#[must_use]
pub fn gateway_port() -> Option<u16> {
    let proxy = std::env::var("HTTP_PROXY").ok()?;
    let (_, port) = proxy.rsplit_once(':')?;
    port.parse().ok()
}

/// The way of this name.
#[must_use]
pub fn find(name: &str) -> Option<Way> {
    WAYS.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, way)| *way)
}

/// Says that the program waits, and waits for a line.
fn wait(_: &Target) -> Outcome {
    pause("waiting", None)?;
    Ok(None)
}

/// Prints that something is under way, and waits for a line on standard input.
fn pause(what: &str, seen: Option<SocketAddr>) -> Result<(), Failed> {
    Attempt::of(what, Ok(seen))
        .print()
        .map_err(failed("print"))?;
    io::stdin()
        .read_line(&mut String::new())
        .map(drop)
        .map_err(failed("stdin"))
}

const WAYS: &[(&str, Way)] = &[
    ("wait", wait),
    ("tcp4", tcp::v4),
    ("tcp6", tcp::v6),
    ("tcp-mapped", tcp::mapped),
    ("tcp-blocking", tcp::blocking),
    ("tcp-any4", tcp::any4),
    ("tcp-any6", tcp::any6),
    ("tcp-local4", tcp::local4),
    ("tcp-local6", tcp::local6),
    ("tcp-fastopen-sendto", tcp::fast_open_sendto),
    ("tcp-fastopen-connect", tcp::fast_open_connect),
    ("tcp-mptcp", tcp::mptcp),
    ("tcp-mptcp6", tcp::mptcp6),
    ("tcp-reconnect", tcp::reconnect),
    ("tcp-device", tcp::device),
    ("tcp-peer4", tcp::peer4),
    ("tcp-peer6", tcp::peer6),
    ("dns-tcp", tcp::dns),
    ("dns-tcp6", tcp::dns6),
    ("udp-connect", udp::connect),
    ("udp-sendto", udp::send_to),
    ("udp-sendmmsg", udp::send_mmsg),
    ("udp-elsewhere", udp::elsewhere),
    ("udp-cork", udp::cork),
    ("udp6-connect", udp::connect6),
    ("udp6-sendto", udp::send_to6),
    ("udp-mapped", udp::mapped),
    ("udp-mapped-connect", udp::mapped_connect),
    ("udp6-inet", udp::inet_on_6),
    ("udp6-inet-connect", udp::inet_on_6_connect),
    ("udp-local", udp::local),
    ("udp-reconnect", udp::reconnect),
    ("udp-more", udp::more),
    ("udp-unspec", udp::unspec),
    ("udp-device", udp::device),
    ("udp-multicast", udp::multicast),
    ("udp6-multicast", udp::multicast6),
    ("udp-broadcast", udp::broadcast),
    ("udplite4", udp::lite4),
    ("udplite6", udp::lite6),
    ("dns-udp4", udp::dns4),
    ("dns-udp6", udp::dns6),
    ("dns-elsewhere", udp::dns_elsewhere),
    ("sctp", icmp::sctp),
    ("dccp", icmp::dccp),
    ("ping4", icmp::ping4),
    ("ping6", icmp::ping6),
    ("raw4", icmp::raw4),
    ("raw6", icmp::raw6),
    ("raw-header", icmp::raw_header),
    ("rthdr-tcp", routed::header_tcp),
    ("rthdr-udp", routed::header_udp),
    ("rthdr-cmsg", routed::header_cmsg),
    ("srr-tcp", routed::option_tcp),
    ("srr-udp", routed::option_udp),
    ("srr-cmsg", routed::option_cmsg),
    ("device-udp", routed::device_udp),
    ("interface-udp4", routed::interface_udp4),
    ("interface-udp6", routed::interface_udp6),
    ("info-cmsg4", routed::info_cmsg4),
    ("info-cmsg6", routed::info_cmsg6),
    ("listen-bind", inbound::bound),
    ("listen-unbound", inbound::unbound),
    ("join4", inbound::join4),
    ("join6", inbound::join6),
    ("inherited", descriptors::inherited),
    ("bind4", local::bind4),
    ("bind6", local::bind6),
    ("device", local::device),
    ("unix-connect", local::unix_connect),
    ("unix-sendmsg", local::unix_sendmsg),
];
