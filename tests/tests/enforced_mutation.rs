//! Each program is needed: with any one of them gone, something shows.
//!
//! In one run a way is tried, one program is taken away, and the way is tried again.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use gateway_userspace::kernel::{AGENT_PROGRAMS, GATEWAY_PROGRAM, OPTIONAL_PROGRAMS, probe};
use sluice_tests::{
    deadline::in_vain,
    skip,
    vector::{Attempt, marker},
    vectors::{
        brief, pins,
        session::{Bench, Direct, Record, Session, Who},
        world::{NODE4, ORIGIN4, ORIGIN6, Seen, World},
    },
};

/// How long a peer knocks on a door that may be shut.
const KNOCK: Duration = Duration::from_secs(1);
/// The way's port while all programs are there, and afterwards.
const BEFORE: u16 = 2401;
const AFTER: u16 = 2402;

/// One try and what is known of it.
struct Try {
    attempt: Attempt,
    arrived: bool,
    port: u16,
    records: Vec<Record>,
}

impl Try {
    /// Whether there is a record of this try with these fields.
    fn has(&self, kind: &str, method: Option<&str>, reason: &str) -> bool {
        let command = format!("v{}", self.port);
        self.records.iter().any(|record| {
            record["kind"] == kind
                && method.is_none_or(|method| record["method"] == method)
                && record["reason"] == reason
                && record["process"]["comm"] == command.as_str()
        })
    }
}

/// What the program does, and what is left of it when it is gone.
struct Needed {
    program: &'static str,
    way: &'static str,
    with: fn(&Try) -> bool,
    without: fn(&Try) -> bool,
}

const NEEDED: &[Needed] = &[
    Needed {
        program: "sock_create",
        way: "ping4",
        with: |it| it.has("direct", Some("sock_create"), "socket_type"),
        without: |it| it.attempt.call.as_deref() != Some("socket"),
    },
    // A real leak, by a packet that belongs to no socket: see `enforced_inbound`.
    Needed {
        program: "setsockopt",
        way: "join4",
        with: |it| it.has("direct", Some("setsockopt"), "group_membership"),
        without: |it| it.attempt.ok,
    },
    Needed {
        program: "connect4",
        way: "tcp4",
        with: |it| it.attempt.ok,
        without: |it| it.has("direct", Some("egress"), "interface"),
    },
    Needed {
        program: "connect6",
        way: "tcp6",
        with: |it| it.attempt.ok,
        without: |it| it.has("direct", Some("egress"), "interface"),
    },
    Needed {
        program: "sendmsg4",
        way: "udp-sendto",
        with: |it| it.has("direct", Some("sendmsg4"), "datagram"),
        without: |it| it.has("direct", Some("egress"), "interface"),
    },
    Needed {
        program: "sendmsg6",
        way: "udp6-sendto",
        with: |it| it.has("direct", Some("sendmsg6"), "datagram"),
        without: |it| it.has("direct", Some("egress"), "interface"),
    },
    Needed {
        program: "recvmsg4",
        way: "dns-udp4",
        with: |it| it.attempt.seen == Some((ORIGIN4, 53).into()),
        without: |it| is_loopback(it.attempt.seen),
    },
    Needed {
        program: "recvmsg6",
        way: "dns-udp6",
        with: |it| it.attempt.seen == Some((ORIGIN6, 53).into()),
        without: |it| is_loopback(it.attempt.seen),
    },
    Needed {
        program: "getpeername4",
        way: "tcp-peer4",
        with: |it| it.attempt.seen == Some((ORIGIN4, 53).into()),
        without: |it| is_loopback(it.attempt.seen),
    },
    Needed {
        program: "getpeername6",
        way: "tcp-peer6",
        with: |it| it.attempt.seen == Some((ORIGIN6, 53).into()),
        without: |it| is_loopback(it.attempt.seen),
    },
    // A real leak: nothing but this program stands in the way.
    Needed {
        program: "egress",
        way: "info-cmsg6",
        with: |it| !it.arrived && it.has("direct", Some("egress"), "interface"),
        without: |it| it.arrived,
    },
    // What an option steers is stopped by `egress` as well, by a time-out or at once.
    Needed {
        program: "setsockopt",
        way: "rthdr-udp",
        with: |it| it.has("direct", Some("setsockopt"), "socket_option"),
        without: |it| !it.arrived && it.has("direct", Some("egress"), "extension_header"),
    },
    Needed {
        program: "setsockopt",
        way: "interface-udp4",
        with: |it| it.has("direct", Some("setsockopt"), "socket_option"),
        without: |it| !it.arrived && it.has("direct", Some("egress"), "interface"),
    },
    // Nothing leaks without these two: the packet hooks let nobody in whatever is bound.
    Needed {
        program: "bind4",
        way: "bind4",
        with: |it| it.has("direct", Some("bind4"), "bind_address"),
        without: |it| it.attempt.ok,
    },
    Needed {
        program: "bind6",
        way: "bind6",
        with: |it| it.has("direct", Some("bind6"), "bind_address"),
        without: |it| it.attempt.ok,
    },
    Needed {
        program: "device",
        way: "device",
        with: |it| it.has("direct", Some("device"), "device"),
        // A kernel may have no such driver.
        without: |it| it.attempt.ok || it.attempt.errno == Some(libc::ENXIO),
    },
    // What arrives where is asked in `enforced_unix`.
    Needed {
        program: "unix_connect",
        way: "unix-connect",
        with: |it| it.has("direct", Some("unix_connect"), "unix_socket"),
        without: |it| it.attempt.errno == Some(libc::ECONNREFUSED),
    },
    Needed {
        program: "unix_sendmsg",
        way: "unix-sendmsg",
        with: |it| it.has("direct", Some("unix_sendmsg"), "unix_socket"),
        without: |it| it.attempt.errno == Some(libc::ECONNREFUSED),
    },
    // The answer to the peer is still stopped, by `egress`.
    Needed {
        program: "ingress",
        way: "listen-bind",
        with: |it| it.has("direct", Some("ingress"), "inbound_refused"),
        without: |it| !it.has("direct", Some("ingress"), "inbound_refused"),
    },
    Needed {
        program: "agent_ops",
        way: "tcp4",
        with: |it| it.has("tcp", None, "no_rule"),
        without: |it| !it.has("tcp", None, "no_rule"),
    },
    Needed {
        program: "gateway_ops",
        way: "tcp4",
        with: |it| it.has("tcp", None, "no_rule"),
        without: |it| !it.has("tcp", None, "no_rule"),
    },
];

fn is_loopback(address: Option<SocketAddr>) -> bool {
    address.is_some_and(|address| address.ip().is_loopback())
}

#[test]
fn no_program_is_forgotten() {
    let programs = AGENT_PROGRAMS.into_iter().chain([GATEWAY_PROGRAM]);
    let mut expected: Vec<_> = programs.chain(OPTIONAL_PROGRAMS).collect();
    let mut tested: Vec<_> = NEEDED.iter().map(|needed| needed.program).collect();
    expected.sort_unstable();
    tested.sort_unstable();
    // Some are tried in several ways.
    tested.dedup();
    assert_eq!(tested, expected);
}

#[test]
fn each_program_is_needed() {
    if !skip::is_root() {
        return;
    }
    let bench = Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench");
    let wrong: Vec<String> = NEEDED
        .iter()
        .filter(|needed| !OPTIONAL_PROGRAMS.contains(&needed.program) || probe::has_unix_hooks())
        .flat_map(|needed| mutate(&bench, needed))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Tries with the program and without; answers what was not as it should be.
fn mutate(bench: &Bench, needed: &Needed) -> Vec<String> {
    let Needed { program, way, .. } = *needed;
    let world = World::new().expect("a world");
    let tag = &format!("{program}-{way}");
    let ways = [(way, BEFORE), ("wait", 1), (way, AFTER)];
    let mut session = bench
        .confined(&world.node, Direct::Redirect, tag, &ways)
        .expect("a session");

    let before = attempt(&mut session, &world);
    let seen_before = world.seen(&format!("{tag}-before")).expect("controls");
    assert_eq!(next(&mut session).vector, "waiting");
    let agent = session.agent().expect("an agent");
    pins::detach(agent, program).expect("detached");
    session.go().expect("it goes on");
    assert_eq!(next(&mut session).vector, "wait");
    let after = attempt(&mut session, &world);
    let seen_after = world.seen(&format!("{tag}-after")).expect("controls");
    let (_, records) = session.finish().expect("it ends");

    let describe = |attempt: Attempt, seen: &Seen, port: u16| Try {
        attempt,
        arrived: seen
            .arrived
            .iter()
            .any(|packet| packet.has_port(port) && packet.carries(&marker(tag, way))),
        port,
        records: records.clone(),
    };
    let before = describe(before, &seen_before, BEFORE);
    let after = describe(after, &seen_after, AFTER);
    let told: Vec<_> = records.iter().map(brief).collect();
    let mut wrong = Vec::new();
    if !(needed.with)(&before) {
        wrong.push(format!("{tag} with: {:?}, {told:?}", before.attempt));
    }
    if !(needed.without)(&after) || (needed.with)(&after) {
        wrong.push(format!("{tag} without: {:?}, {told:?}", after.attempt));
    }
    wrong
}

fn next(session: &mut Session) -> Attempt {
    session.next().expect("an attempt")
}

/// The next attempt's end; one that listens gets a visitor first.
fn attempt(session: &mut Session, world: &World) -> Attempt {
    let attempt = next(session);
    if attempt.vector != "listening" {
        return attempt;
    }
    let port = attempt.seen.expect("a place").port();
    let door = SocketAddr::from((NODE4, port));
    let knock = || TcpStream::connect_timeout(&door, in_vain(KNOCK));
    drop(world.origin.run(knock));
    session.go().expect("it goes on");
    next(session)
}

/// A key of `[process]` that switches a control of the launcher off, and what shows then.
struct OptOut {
    key: &'static str,
    way: &'static str,
    with: fn(&Attempt) -> bool,
    without: fn(&Attempt) -> bool,
}

/// What takes the launcher away altogether is tried in `enforced_vectors`, where rows of attached
/// agents are said to be open and must be.
const OPT_OUTS: &[OptOut] = &[
    // The programs hold where the filter does not.
    OptOut {
        key: "io_uring",
        way: "uring-udp",
        with: |it| it.call.as_deref() == Some("io_uring_setup"),
        without: |it| it.call.as_deref() == Some("sendmsg") && it.errno == Some(libc::EACCES),
    },
    OptOut {
        key: "user_namespaces",
        way: "namespace-network",
        with: |it| it.errno == Some(libc::EPERM),
        without: |it| it.ok,
    },
];

#[test]
fn each_opt_out_takes_a_control_away() {
    if !skip::is_root() {
        return;
    }
    let bench = Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench");
    let world = World::new().expect("a world");
    for OptOut {
        key,
        way,
        with,
        without,
    } in OPT_OUTS
    {
        let attempt = |value: bool| {
            let policy = format!("schema = 1\nagent = \"vectors\"\n[process]\n{key} = {value}\n");
            let tag = format!("{key}-{value}");
            let ways = [(*way, BEFORE)];
            let session = bench
                .launched(&world.node, Who::Nobody, &policy, &tag, &ways)
                .expect("a session");
            let (mut attempts, _) = session.finish().expect("it ends");
            attempts.pop().expect("an attempt")
        };
        let (closed, open) = (attempt(false), attempt(true));
        assert!(with(&closed) && !without(&closed), "{key}: {closed:?}");
        assert!(without(&open) && !with(&open), "{key}: {open:?}");
    }
}
