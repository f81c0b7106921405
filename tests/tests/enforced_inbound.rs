//! Nobody connects in, and no report of a group joined goes out.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use sluice_tests::{
    deadline::in_vain,
    skip,
    sniffer::Packet,
    vector::{Attempt, inbound},
    vectors::{
        group_refused, inbound_refused, is_record,
        session::{Bench, Direct, Session},
        world::{NODE4, NODE6, World},
    },
};

/// How long a peer knocks on a door that may be shut.
const KNOCK: Duration = Duration::from_secs(1);
/// The ways to listen, with their ports.
const LISTEN: [(&str, u16); 2] = [("listen-bind", 2501), ("listen-unbound", 2502)];
/// Joined later, as the control.
const LATER: [(&str, u16); 2] = [("join4", 2505), ("join6", 2506)];
/// The ways to join a group.
const JOIN: [(&str, u16); 2] = [("join4", 2503), ("join6", 2504)];

fn bench() -> Bench {
    Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench")
}

/// Knocks wherever a way listens; answers ports, whether a door was opened, and what came of it.
fn visit(world: &World, session: &mut Session) -> Vec<(u16, bool, Attempt)> {
    LISTEN
        .iter()
        .map(|_| {
            let listening = session.next().expect("an attempt");
            assert_eq!(listening.vector, "listening", "{listening:?}");
            let port = listening.seen.expect("a place").port();
            let opened = [IpAddr::from(NODE4), IpAddr::from(NODE6)]
                .into_iter()
                .any(|node| knock(world, (node, port).into()));
            session.go().expect("it goes on");
            (port, opened, session.next().expect("an attempt"))
        })
        .collect()
}

fn knock(world: &World, door: SocketAddr) -> bool {
    let knock = || TcpStream::connect_timeout(&door, in_vain(KNOCK)).is_ok();
    world.origin.run(knock)
}

#[test]
fn a_peer_connects_in_without_a_boundary() {
    if !skip::is_root() {
        return;
    }
    let (world, bench) = (World::new().expect("a world"), bench());
    let mut session = bench
        .free(&world.node, false, "free", &LISTEN)
        .expect("a session");
    for (_, opened, attempt) in visit(&world, &mut session) {
        assert!(opened && attempt.ok, "{attempt:?}");
    }
    session.finish().expect("it ends");
}

#[test]
fn no_peer_connects_in() {
    if !skip::is_root() {
        return;
    }
    let (world, bench) = (World::new().expect("a world"), bench());
    let mut session = bench
        .confined(&world.node, Direct::Redirect, "shut", &LISTEN)
        .expect("a session");
    let visits = visit(&world, &mut session);
    // The same peer, over the same link, later: it would have got in.
    let open = world.node.run(|| TcpListener::bind((NODE4, 0)));
    let address = open.as_ref().map(TcpListener::local_addr);
    let address = address.expect("a listener").expect("its address");
    assert!(knock(&world, address), "the control does not get in either");
    let seen = world.seen("shut").expect("controls");
    let (_, records) = session.finish().expect("it ends");
    for ((port, opened, attempt), (name, number)) in visits.iter().zip(LISTEN) {
        assert!(!opened, "{name}: somebody got in");
        assert_eq!(attempt.errno, Some(libc::ETIMEDOUT), "{attempt:?}");
        // Once the listener is gone the kernel itself may say that nobody is there.
        let answers = |packet: &&Packet| packet.has_port(*port) && !packet.is_housekeeping();
        let answered = seen.arrived.iter().find(answers);
        assert_eq!(answered, None, "{name}: an answer got out");
        assert!(
            records
                .iter()
                .any(|it| is_record(it, &inbound_refused(), number)),
            "{name}: no record among {records:#?}"
        );
    }
}

/// Addresses of the groups, as they stand in reports.
fn groups(join: &[(&str, u16)]) -> Vec<Vec<u8>> {
    join.iter()
        .map(|&(name, port)| match name {
            "join4" => inbound::group4(port).octets().to_vec(),
            _ => inbound::group6(port).octets().to_vec(),
        })
        .collect()
}

/// Joins groups outside a boundary and waits until that is told at the origin.
fn join_freely(world: &World, bench: &Bench, join: &[(&str, u16)]) -> Vec<Packet> {
    let session = bench
        .free(&world.node, false, "free", join)
        .expect("a session");
    session.finish().expect("it ends");
    world.arrival(&groups(join)).expect("reports")
}

/// Regression: the kernel sends these reports on its own account, with an address of the agent's
/// choice, in packets that belong to no socket; `egress` never saw them.
#[test]
fn no_group_is_reported() {
    if !skip::is_root() {
        return;
    }
    let (world, bench) = (World::new().expect("a world"), bench());
    let session = bench
        .confined(&world.node, Direct::Redirect, "join", &JOIN)
        .expect("a session");
    let (attempts, records) = session.finish().expect("it ends");
    // Reports take their time; these, of later joins, do arrive.
    let packets = join_freely(&world, &bench, &LATER);
    for (attempt, (group, (name, port))) in attempts.iter().zip(groups(&JOIN).iter().zip(JOIN)) {
        assert_eq!(attempt.errno, Some(libc::EACCES), "{attempt:?}");
        assert!(
            packets.iter().all(|packet| !packet.carries(group)),
            "{name}: it got out"
        );
        assert!(
            records
                .iter()
                .any(|it| is_record(it, &group_refused(), port)),
            "{name}: no record among {records:#?}"
        );
    }
}
