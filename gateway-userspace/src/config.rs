//! Static configuration of the gateway: limits on everything that a peer can make large or slow.
//!
//! Not policy: nothing here decides who may reach what, and nothing here changes while running.

use std::time::Duration;

/// How much of everything the gateway allows. What goes over a limit is refused with a reason of
/// its own, never cut short in silence.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets of a request, response or trailer head, and of a ClientHello. Default: 65,536.
    pub head_bytes: usize,
    /// Fields in a head or trailer. Default: 100.
    pub head_fields: usize,
    /// Octets of a request body that is read before the decision, where a condition is about it;
    /// a larger one counts as unread. Default: 1 MiB.
    pub body_ahead: usize,
    /// Octets that may be held of WebSocket messages that are not whole yet, over all connections;
    /// those beyond wait. Default: 256 MiB.
    pub held_bytes: usize,
    /// Bodies that are read ahead at once; others wait, as long as a connection may be idle.
    /// Default: 32.
    pub bodies_ahead: usize,
    /// Octets of an answer that is read whole before the agent gets any of it, as it came and
    /// decoded; a larger one is refused. Default: 8 MiB.
    pub answer_bytes: usize,
    /// Answers that are read whole at once; others wait. Default: 32.
    pub answers_held: usize,
    /// From the first octet of a head to its last, and how long a new connection may stay silent.
    /// Default: 10 s.
    pub head_timeout: Duration,
    /// How long a connection may stay without an octet either way. Default: 5 min.
    pub idle_timeout: Duration,
    /// One attempt to connect to one upstream address. Default: 10 s.
    pub connect_timeout: Duration,
    /// One resolution of a name, retries included. Default: 5 s.
    pub resolve_timeout: Duration,
    /// Life of a connection from an agent. Default: 24 h.
    pub total_timeout: Duration,
    /// Open connections of one agent. Default: 1,024.
    pub connections_per_agent: usize,
    /// HTTP requests, or DNS questions, on one connection; the last answer closes it.
    /// Default: 10,000.
    pub requests_per_connection: u32,
    /// DNS questions being worked on at once; those beyond are answered with SERVFAIL.
    /// Default: 256.
    pub dns_in_flight: usize,
    /// Addresses remembered for one agent from DNS answers; beyond, the one that expires first is
    /// forgotten. Default: 4,096.
    pub pins_per_agent: usize,
    /// How long an address from a DNS answer stands for its name. Default: 10 min.
    pub pin_lifetime: Duration,
    /// Age at which a tunnel is recorded as open, before its end. Default: 5 s.
    pub open_record_after: Duration,
    /// How long connections may finish their work after a drain began. Default: 10 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            head_fields: 100,
            held_bytes: 256 << 20,
            bodies_ahead: 32,
            body_ahead: 1024 * 1024,
            answer_bytes: 8 << 20,
            answers_held: 32,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(5),
            connect_timeout: Duration::from_secs(10),
            resolve_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_hours(24),
            connections_per_agent: 1024,
            requests_per_connection: 10_000,
            dns_in_flight: 256,
            pins_per_agent: 4096,
            pin_lifetime: Duration::from_mins(10),
            open_record_after: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
