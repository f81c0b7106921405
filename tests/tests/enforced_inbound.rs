//! Nobody connects in. Reports of groups joined do go out: a hole that is known.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use sluice_tests::{
    skip,
    sniffer::Packet,
    vector::{Attempt, inbound},
    vectors::{
        inbound_refused, is_record,
        session::{Bench, Direct, Session},
        world::{NODE4, NODE6, World},
    },
};

/// How long a peer knocks on a door that may be shut.
const KNOCK: Duration = Duration::from_secs(1);
/// The ways to listen, with their ports.
const LISTEN: [(&str, u16); 2] = [("listen-bind", 2501), ("listen-unbound", 2502)];
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
    let knock = || TcpStream::connect_timeout(&door, KNOCK).is_ok();
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

/// Waits until every group's address has come out.
fn wait_for_reports(world: &World) {
    let groups = JOIN.map(|(name, port)| match name {
        "join4" => inbound::group4(port).octets().to_vec(),
        _ => inbound::group6(port).octets().to_vec(),
    });
    world.arrival(&groups).expect("reports");
}

#[test]
fn groups_are_reported_without_a_boundary() {
    if !skip::is_root() {
        return;
    }
    let (world, bench) = (World::new().expect("a world"), bench());
    let session = bench
        .free(&world.node, false, "free", &JOIN)
        .expect("a session");
    session.finish().expect("it ends");
    wait_for_reports(&world);
}

/// A known hole, and no small one: the agent chooses 28 bits of a group's address, or 112, and
/// the kernel tells them to the network in packets that belong to no socket, so that `egress`
/// does not see them. It takes a hook on `setsockopt` to close it; then this test fails, and is
/// to be turned into its opposite.
#[test]
fn groups_are_still_reported_within_a_boundary() {
    if !skip::is_root() {
        return;
    }
    let (world, bench) = (World::new().expect("a world"), bench());
    let session = bench
        .confined(&world.node, Direct::Redirect, "join", &JOIN)
        .expect("a session");
    let (attempts, _) = session.finish().expect("it ends");
    assert!(attempts.iter().all(|attempt| attempt.ok), "{attempts:?}");
    wait_for_reports(&world);
}
