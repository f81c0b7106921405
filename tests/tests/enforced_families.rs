//! All socket families by number, and all types: what an agent can open is a short list.

use std::{collections::BTreeSet, path::Path};

use sluice_tests::{
    skip,
    vector::{Attempt, families},
    vectors::{
        session::{Bench, Direct},
        world::World,
    },
};

/// The sweep; its port is nobody's.
const SWEEP: [(&str, u16); 1] = [("sweep", 2701)];

/// Family, type and protocol of a socket.
type Socket = (i32, i32, i32);

/// What an agent may open, and nothing else: of netlink, only routes. `SOCK_RAW` of a unix socket
/// is another word for `SOCK_DGRAM`.
const ALLOWED: &[Socket] = &[
    (libc::AF_UNIX, libc::SOCK_STREAM, 0),
    (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
    (libc::AF_UNIX, libc::SOCK_RAW, 0),
    (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
    (libc::AF_INET, libc::SOCK_STREAM, 0),
    (libc::AF_INET, libc::SOCK_DGRAM, 0),
    (libc::AF_INET6, libc::SOCK_STREAM, 0),
    (libc::AF_INET6, libc::SOCK_DGRAM, 0),
    (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
    (libc::AF_NETLINK, libc::SOCK_DGRAM, libc::NETLINK_ROUTE),
];

/// The sockets that were opened, of all that were tried.
fn opened(attempts: &[Attempt]) -> BTreeSet<Socket> {
    let tried: Vec<(Socket, bool)> = attempts
        .iter()
        .filter_map(|attempt| Some((socket(&attempt.vector)?, attempt.ok)))
        .collect();
    let number = families::FAMILIES * (families::TYPES - 1) + families::NETLINKS - 1;
    assert_eq!(i32::try_from(tried.len()), Ok(number), "all are tried");
    let open = tried.into_iter().filter(|(_, open)| *open);
    open.map(|(socket, _)| socket).collect()
}

fn socket(name: &str) -> Option<Socket> {
    let mut numbers = name.strip_prefix("family/")?.split('/');
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?, next()?))
}

#[test]
fn agents_open_sockets_of_the_known_families_only() {
    if !skip::is_root() {
        return;
    }
    let world = World::new().expect("a world");
    let bench = Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench");
    let free = bench
        .free(&world.node, true, "free", &SWEEP)
        .expect("a session");
    let (attempts, _) = free.finish().expect("it ends");
    let free = opened(&attempts);
    let allowed: BTreeSet<Socket> = ALLOWED.iter().copied().collect();
    let beyond = free.difference(&allowed).count();
    assert!(allowed.is_subset(&free), "{free:?}");
    assert!(beyond > 0, "nothing else is there to be closed: {free:?}");

    let confined = bench
        .confined(&world.node, Direct::Redirect, "shut", &SWEEP)
        .expect("a session");
    let (attempts, _) = confined.finish().expect("it ends");
    assert_eq!(opened(&attempts), allowed);
    // What is closed says so, whatever the kernel has.
    let wrong: Vec<_> = attempts
        .iter()
        .filter(|attempt| {
            socket(&attempt.vector).is_some_and(|(family, _, protocol)| {
                let known = ALLOWED.iter().any(|(known, ..)| *known == family);
                let routes = family != libc::AF_NETLINK || protocol == libc::NETLINK_ROUTE;
                !(known && routes) && attempt.errno != Some(libc::EAFNOSUPPORT)
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
