//! Every way out, what proves that it is one, and what a boundary does about it.

pub mod outside;
pub mod pins;
pub mod rows;
pub mod session;
pub mod world;

use session::{Direct, Record, Who};

/// Where an attempt that works is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oracle {
    /// At the origin.
    Origin,
    /// On the node itself: the destination is there.
    Node,
    /// With the caller: it has what it should not have.
    Caller,
    /// With the process outside that was to be ended.
    Mortal,
    /// In the audit log.
    Audit,
}

/// What a boundary does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Errno that the caller gets; none if every call succeeds, or it does not live to see it.
    pub errno: Option<i32>,
    /// The signal that ends the caller.
    pub signal: Option<i32>,
    /// Why nothing stands in the way here.
    pub open: Option<&'static str>,
    /// Kind, method and reason of the record; `None` for the method means any.
    pub record: Option<(&'static str, Option<&'static str>, &'static str)>,
}

/// One way out.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in [`crate::vector`].
    pub name: &'static str,
    /// Where it is seen without a boundary.
    pub oracle: Oracle,
    /// By these errors kernels say that they were built without it.
    pub absent: &'static [i32],
    /// Who it takes, unconfined. What takes root is also tried by nobody, inside.
    pub control: Who,
    /// Why there is no control, where there can be none.
    pub uncontrolled: Option<&'static str>,
    /// With direct connections redirected.
    pub redirect: Expected,
    /// With direct connections refused.
    pub deny: Expected,
    /// For an unprivileged agent under the launcher, where that differs.
    pub agent: Option<Expected>,
    /// For root under the launcher, where that differs.
    pub rooted: Option<Expected>,
    /// For root with a container's capabilities, without the launcher, where that differs.
    pub attached: Option<Expected>,
    /// The launcher's controls that stand in the way.
    pub by: &'static [&'static str],
    /// How the names of threads begin by which the kernel acts for the caller.
    pub thread: Option<&'static str>,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An unprivileged agent under the launcher.
    Agent,
    /// Root under the launcher.
    Rooted,
    /// Root with a container's capabilities, in the cgroup and without the launcher.
    Attached,
}

impl Row {
    /// What is expected in this mode and place.
    #[must_use]
    pub fn expected(&self, direct: Direct, place: Place) -> Expected {
        let base = match direct {
            Direct::Redirect => self.redirect,
            Direct::Deny => self.deny,
        };
        match place {
            Place::Agent => self.agent,
            Place::Rooted => self.rooted.or(self.agent),
            Place::Attached => self.attached,
        }
        .unwrap_or(base)
    }

    const fn origin(name: &'static str, redirect: Expected, deny: Expected) -> Self {
        Self {
            name,
            oracle: Oracle::Origin,
            absent: &[],
            control: Who::Nobody,
            uncontrolled: None,
            redirect,
            deny,
            agent: None,
            rooted: None,
            attached: None,
            by: &[],
            thread: None,
        }
    }

    const fn both(name: &'static str, expected: Expected) -> Self {
        Self::origin(name, expected, expected)
    }

    const fn tcp(name: &'static str, hook: &'static str) -> Self {
        Self::origin(name, GATEWAY, refused(libc::EACCES, hook, "direct_connect"))
    }

    const fn dns(name: &'static str) -> Self {
        Self::both(name, RESOLVER)
    }

    const fn at(mut self, oracle: Oracle) -> Self {
        self.oracle = oracle;
        self
    }

    const fn unless(mut self, absent: &'static [i32]) -> Self {
        self.absent = absent;
        self
    }

    /// Takes root: what the agent and a root without capabilities get.
    const fn by_root(mut self, without: Expected) -> Self {
        self.control = Who::Root;
        self.agent = Some(without);
        self
    }

    /// What root without capabilities gets, where it is not what an agent gets.
    const fn rooted(mut self, expected: Expected) -> Self {
        self.rooted = Some(expected);
        self
    }

    /// Refused to agents by the launcher before any program sees it.
    const fn launcher(mut self, by: &'static [&'static str], expected: Expected) -> Self {
        self.by = by;
        self.agent = Some(expected);
        self
    }

    /// What holds without the launcher.
    const fn attached(mut self, expected: Expected) -> Self {
        self.attached = Some(expected);
        self
    }

    /// Carried out by a thread of the kernel's with a name of its own.
    const fn by_thread(mut self, thread: &'static str) -> Self {
        self.thread = Some(thread);
        self
    }

    /// Without a control, and why.
    const fn uncontrolled(mut self, why: &'static str) -> Self {
        self.uncontrolled = Some(why);
        self
    }
}

/// Refused without a record: by the launcher's controls, or by the kernel's own rules.
#[must_use]
pub const fn fails(errno: i32) -> Expected {
    Expected {
        errno: Some(errno),
        record: None,
        signal: None,
        open: None,
    }
}

/// Goes well, as far as the caller can tell, and nothing comes of it.
const fn passes() -> Expected {
    Expected {
        errno: None,
        record: None,
        signal: None,
        open: None,
    }
}

/// Ended by the kernel, without a record.
const fn killed(signal: i32) -> Expected {
    Expected {
        errno: None,
        record: None,
        signal: Some(signal),
        open: None,
    }
}

/// Ended on its way out, with this record.
const fn left(hook: &'static str, reason: &'static str) -> Expected {
    Expected {
        errno: None,
        record: Some(("direct", Some(hook), reason)),
        signal: Some(libc::SIGKILL),
        open: None,
    }
}

/// Not closed here, and why.
const fn open(why: &'static str) -> Expected {
    Expected {
        errno: None,
        record: None,
        signal: None,
        open: Some(why),
    }
}

/// The connection ends at the gateway, which refuses by policy.
const GATEWAY: Expected = Expected {
    errno: None,
    signal: None,
    open: None,
    record: Some(("tcp", None, "no_rule")),
};

/// The question ends at the gateway's resolver, which refuses by policy.
const RESOLVER: Expected = Expected {
    errno: None,
    signal: None,
    open: None,
    record: Some(("dns", None, "no_rule")),
};

/// What a refusal of the kernel half looks like.
#[must_use]
pub const fn refused(errno: i32, hook: &'static str, reason: &'static str) -> Expected {
    Expected {
        errno: Some(errno),
        signal: None,
        open: None,
        record: Some(("direct", Some(hook), reason)),
    }
}

const SOCKET: Expected = refused(libc::EPROTONOSUPPORT, "sock_create", "socket_type");

/// The option that it takes is refused.
const OPTION: Expected = refused(libc::EACCES, "setsockopt", "socket_option");

const fn datagram(hook: &'static str) -> Expected {
    refused(libc::EACCES, hook, "datagram")
}

/// Dropped on its way out, which the kernel tells the caller of a datagram.
const fn dropped(reason: &'static str) -> Expected {
    refused(libc::EPERM, "egress", reason)
}

/// Not built in, and no module to load.
const NO_PROTOCOL: &[i32] = &[libc::EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT];
/// As above, or switched off.
const NO_MPTCP: &[i32] = &[libc::EPROTONOSUPPORT, libc::ENOPROTOOPT];

/// A record in few words.
#[must_use]
pub fn brief(record: &Record) -> String {
    let field = |path: &str| record.pointer(path).and_then(Record::as_str).unwrap_or("-");
    format!(
        "{} {} {} {}",
        field("/process/comm"),
        field("/kind"),
        field("/method"),
        field("/reason")
    )
}

/// Whether this record is the one; where none is expected, none is.
#[must_use]
pub fn is_record(record: &Record, expected: &Expected, port: u16) -> bool {
    let command = format!("v{port}");
    is_record_of(record, expected, |name| name == command)
}

/// The same where the caller has another name: a thread of the kernel's that acts for it.
#[must_use]
pub fn is_record_of(record: &Record, expected: &Expected, of: impl Fn(&str) -> bool) -> bool {
    let Some((kind, method, reason)) = expected.record else {
        return false;
    };
    let field = |name: &str| record.get(name).and_then(Record::as_str);
    let command = record.pointer("/process/comm").and_then(Record::as_str);
    field("kind") == Some(kind)
        && method.is_none_or(|method| field("method") == Some(method))
        && field("reason") == Some(reason)
        && field("outcome") == Some("deny")
        && command.is_some_and(of)
}

/// The table.
pub const ROWS: &[Row] = &[
    Row::tcp("tcp4", "connect4"),
    Row::tcp("tcp6", "connect6"),
    Row::tcp("tcp-mapped", "connect6"),
    Row::tcp("tcp-blocking", "connect4"),
    Row::tcp("tcp-any4", "connect4").at(Oracle::Node),
    Row::tcp("tcp-any6", "connect6").at(Oracle::Node),
    Row::tcp("tcp-local4", "connect4").at(Oracle::Node),
    Row::tcp("tcp-local6", "connect6").at(Oracle::Node),
    Row::tcp("tcp-fastopen-sendto", "connect4"),
    Row::tcp("tcp-fastopen-connect", "connect4"),
    Row::tcp("tcp-reconnect", "connect4"),
    Row::both("tcp-device", OPTION),
    Row::both("tcp-mptcp", SOCKET).unless(NO_MPTCP),
    Row::both("tcp-mptcp6", SOCKET).unless(NO_MPTCP),
    Row::dns("dns-tcp"),
    Row::dns("dns-tcp6"),
    Row::dns("dns-udp4"),
    Row::dns("dns-udp6"),
    Row::dns("dns-elsewhere"),
    Row::both("udp-connect", datagram("connect4")),
    Row::both("udp6-connect", datagram("connect6")),
    Row::both("udp-sendto", datagram("sendmsg4")),
    Row::both("udp-sendmmsg", datagram("sendmsg4")),
    Row::both("udp-elsewhere", datagram("sendmsg4")),
    Row::both("udp-cork", datagram("sendmsg4")),
    Row::both("udp6-sendto", datagram("sendmsg6")),
    Row::both("udp-mapped", datagram("sendmsg4")),
    Row::both("udp-mapped-connect", datagram("connect6")),
    Row::both("udp6-inet", datagram("sendmsg4")),
    Row::both("udp6-inet-connect", datagram("connect4")),
    Row::both("udp-local", datagram("sendmsg4")).at(Oracle::Node),
    Row::both("udp-reconnect", datagram("connect4")),
    Row::both("udp-more", datagram("sendmsg4")),
    Row::both("udp-unspec", datagram("sendmsg4")),
    Row::both("udp-device", OPTION),
    Row::both("udp-multicast", OPTION),
    Row::both("udp6-multicast", datagram("sendmsg6")),
    Row::both("udp-broadcast", OPTION),
    Row::both("udplite4", SOCKET).unless(NO_PROTOCOL),
    Row::both("udplite6", SOCKET).unless(NO_PROTOCOL),
    Row::both("sctp", SOCKET).unless(NO_PROTOCOL),
    Row::both("dccp", SOCKET).unless(NO_PROTOCOL),
    Row::both("ping4", SOCKET),
    Row::both("ping6", SOCKET),
    Row::both("raw4", SOCKET).by_root(fails(libc::EPERM)),
    Row::both("raw6", SOCKET).by_root(fails(libc::EPERM)),
    Row::both("raw-header", SOCKET).by_root(fails(libc::EPERM)),
    // To the gateway's address, out of an interface where somebody else has it.
    Row::both("device-udp", OPTION),
    Row::both("interface-udp4", OPTION),
    Row::both("interface-udp6", OPTION),
    Row::both("info-cmsg4", dropped("interface")),
    Row::both("info-cmsg6", dropped("interface")),
    Row::both("rthdr-tcp", OPTION),
    Row::both("rthdr-udp", OPTION),
    // The one kind that a control message may carry takes CONFIG_IPV6_MIP6.
    Row::both(
        "rthdr-cmsg",
        refused(libc::EPERM, "egress", "extension_header"),
    )
    .unless(&[libc::EINVAL]),
    Row::both("srr-tcp", OPTION).by_root(OPTION),
    Row::both("srr-udp", OPTION).by_root(OPTION),
    Row::both("srr-cmsg", refused(libc::EPERM, "egress", "header_options"))
        .by_root(fails(libc::EPERM)),
];

/// What is recorded where somebody connects in.
#[must_use]
pub const fn inbound_refused() -> Expected {
    refused(libc::ETIMEDOUT, "ingress", "inbound_refused")
}

/// What is recorded where a group is joined.
#[must_use]
pub const fn group_refused() -> Expected {
    refused(libc::EACCES, "setsockopt", "group_membership")
}
