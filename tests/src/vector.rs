//! Ways out, one small function each, run by the `vector` program inside and outside a boundary.
//!
//! A way answers with the first call that failed. Whether bytes arrived is not for it to say:
//! the [sniffer](crate::sniffer) at the other end is asked that.

pub mod call;
mod descriptors;
mod devices;
mod disarm;
pub mod families;
pub mod helpers;
mod icmp;
pub mod inbound;
pub mod local;
mod processes;
mod ring;
mod routed;
pub mod stage;
mod streams;
mod tcp;
mod udp;
mod unix;

use std::{
    ffi::CString,
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use stage::Stage;

/// Longest that a call may take which a boundary leaves unanswered.
#[must_use]
pub fn patience() -> Duration {
    crate::deadline::in_vain(Duration::from_millis(1_500))
}

/// Where a way is to lead, and what it carries.
#[derive(Debug)]
pub struct Target {
    /// The way's name.
    pub name: String,
    /// What all attempts of this test begin with.
    pub tag: String,
    /// What stands outside.
    pub stage: Stage,
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
    /// The arguments of a `vector` program that makes this attempt alone.
    fn arguments(&self) -> Vec<String> {
        let stage = serde_json::to_string(&self.stage).unwrap_or_default();
        let target = [self.v4.to_string(), self.v6.to_string(), self.tag.clone()];
        let way = format!("{}={}", self.name, self.port);
        target.into_iter().chain([stage, way]).collect()
    }

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

impl Failed {
    fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(libc::EIO)
    }
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
    /// The signal that ended the process instead.
    pub signal: Option<i32>,
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
            signal: None,
            pid: std::process::id(),
        }
    }

    /// What to say of a process that did not get to say it.
    #[must_use]
    pub fn ended(vector: &str, pid: u32, signal: i32) -> Self {
        Self {
            vector: vector.to_owned(),
            ok: false,
            call: None,
            errno: None,
            seen: None,
            signal: Some(signal),
            pid,
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

/// What the bytes of every attempt begin with; a C library that asks a name service says otherwise.
pub const MARKER: &[u8] = b"x-";

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

/// Ways that wait for whoever runs them.
pub const PATIENT: &[&str] = &["wait", "listen-bind", "listen-unbound"];

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
    ("uring-tcp", ring::tcp),
    ("uring-tcp-polled", ring::tcp_polled),
    ("uring-udp", ring::udp),
    ("uring-udp-polled", ring::udp_polled),
    ("splice", streams::splice),
    ("sendfile", streams::send_file),
    ("quic", streams::quic),
    ("metadata", helpers::metadata),
    ("sweep", families::sweep),
    ("packet-raw", families::packet_raw),
    ("packet-dgram", families::packet_datagram),
    ("packet-namespace", families::packet_by_namespace),
    ("xdp", families::xdp),
    ("vsock", families::vsock),
    ("pppox", families::pppox),
    ("rds", families::rds),
    ("tipc", families::tipc),
    ("key", families::key),
    ("alg", families::alg),
    ("bluetooth", families::bluetooth),
    ("can", families::can),
    ("netlink-diag", families::netlink_diag),
    ("gate-udp", families::gate_udp),
    ("gate-packet", families::gate_packet),
    ("x32", families::x32),
    ("tun", devices::tun),
    ("kmsg", devices::kmsg),
    ("made-tun", devices::made_tun),
    ("made-kmsg", devices::made_kmsg),
    ("made-mem", devices::made_mem),
    ("made-vhost-net", devices::made_vhost_net),
    ("made-vhost-vsock", devices::made_vhost_vsock),
    ("made-ppp", devices::made_ppp),
    ("made-vsock", devices::made_vsock),
    ("ptrace", processes::trace),
    ("process-write", processes::write),
    ("process-memory", processes::memory),
    ("process-take", processes::take),
    ("process-reopen", processes::reopen),
    ("process-compare", processes::compare),
    ("process-kill", processes::end),
    ("terminal", processes::type_at_terminal),
    ("passed-path", unix::passed),
    ("passed-abstract", unix::passed),
    ("unix-stream", unix::connected),
    ("unix-packets", unix::connected),
    ("unix-datagram", unix::unconnected),
    ("unix-datagram-connected", unix::connected),
    ("unix-abstract", unix::connected),
    ("unix-abstract-datagram", unix::unconnected),
    ("docker", unix::connected),
    ("containerd", unix::connected),
    ("dbus", unix::connected),
    ("systemd", unix::connected),
    ("journald", unix::unconnected),
    ("syslog", unix::unconnected),
    ("nscd", unix::connected),
    ("resolved", unix::connected),
    ("ssh-agent", unix::connected),
    ("tmux", unix::connected),
    ("setuid", helpers::setuid),
    ("upcall", helpers::upcall),
    ("cgroup-root", disarm::to_root),
    ("cgroup-parent", disarm::to_parent),
    ("cgroup-sibling", disarm::to_sibling),
    ("cgroup-threads", disarm::thread_to_sibling),
    ("cgroup-born", disarm::born_outside),
    ("cgroup-child", disarm::to_child),
    ("cgroup-threaded", disarm::to_threaded),
    ("cgroup-remove", disarm::remove_cgroup),
    ("cgroup-freeze", disarm::freeze_gateway),
    ("namespace-user", disarm::user_namespace),
    ("namespace-mount", disarm::mount_namespace),
    ("namespace-cgroup", disarm::cgroup_namespace),
    ("namespace-network", disarm::network_namespace),
    ("bpf-links-pinned", disarm::pinned_links),
    ("bpf-links", disarm::links_by_id),
    ("bpf-programs", disarm::programs_by_id),
    ("bpf-detach", disarm::detach_program),
    ("bpf-unpin", disarm::unpin),
    ("bpf-unmount", disarm::unmount),
    ("gateway-signal", disarm::signal_gateway),
    ("gateway-ptrace", disarm::trace_gateway),
    ("gateway-memory", disarm::gateway_memory),
    ("gateway-descriptor", disarm::gateway_descriptor),
    ("audit", disarm::audit),
    ("sysrq", disarm::magic_key),
    ("core-pattern", disarm::core_pattern),
    ("bind4", local::bind4),
    ("bind6", local::bind6),
    ("device", local::device),
    ("unix-connect", local::unix_connect),
    ("unix-sendmsg", local::unix_sendmsg),
];
