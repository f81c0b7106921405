//! No way out leads anywhere: each is seen to work without a boundary, and then is not seen.

use std::{fs, path::Path};

use gateway_userspace::kernel::probe::has_unix_hooks;
use sluice_tests::{
    skip,
    vector::{Attempt, marker},
    vectors::{
        Expected, Oracle, Place, ROWS, Row, brief, fails, is_record, is_record_of, rows,
        session::{Bench, Direct, Record, Session, Who},
        world::{Seen, World},
    },
};

/// Ports of attempts begin here, each test with its own.
const CONTROLS: u16 = 2100;
const CONFINED: u16 = 3000;

/// A row and the port of its attempt.
type Numbered = (&'static Row, u16);

/// What came of attempts, as others saw it.
struct Evidence {
    seen: Seen,
    /// Whether the process that was to be ended was.
    ended: bool,
    /// What the audit log says.
    audit: Vec<u8>,
}

/// A world, everybody in it, and where attempts start.
struct Scene {
    world: World,
    bench: Bench,
}

impl Scene {
    fn new(who: Who) -> Self {
        let world = World::new().expect("a world");
        let mut bench = Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench");
        let outsider = Path::new(env!("CARGO_BIN_EXE_outsider"));
        bench.furnish(&world, outsider, who).expect("outsiders");
        Self { world, bench }
    }

    /// All that came of attempts that are over.
    fn seen(&mut self, tag: &str) -> Evidence {
        let outside = self.bench.outside().expect("outsiders");
        outside.speak(&self.world).expect("the outsider speaks");
        let ended = !outside.mortal_lives().expect("somebody to end");
        Evidence {
            seen: self.world.seen(tag).expect("controls"),
            ended,
            // Absent unless somebody in this session could have written there.
            audit: fs::read(self.bench.audit(tag)).unwrap_or_default(),
        }
    }

    /// Names of rows that this kernel says it was built without.
    fn absent(&mut self, rows: &[Numbered]) -> Vec<&'static str> {
        let may_be = |who| {
            let of = rows.iter().filter(move |(row, _)| row.control == who);
            of.filter(|(row, _)| !row.absent.is_empty())
                .copied()
                .collect::<Vec<_>>()
        };
        let mut absent = Vec::new();
        for who in [Who::Nobody, Who::Root] {
            let rows = may_be(who);
            let tag = format!("absent-{who:?}");
            let results = self.free(who, &tag, &rows);
            let pairs = rows.iter().zip(&results);
            absent.extend(
                pairs
                    .filter(|((row, _), result)| is_absent(row, result))
                    .map(|((row, _), _)| row.name),
            );
        }
        self.seen("absent");
        absent
    }

    fn free(&self, who: Who, tag: &str, rows: &[Numbered]) -> Vec<Attempt> {
        let session = self
            .bench
            .free(&self.world.node, who == Who::Root, tag, &attempts(rows))
            .expect("a session");
        let (results, _) = session.finish().expect("it ends");
        assert_eq!(results.len(), rows.len());
        results
    }
}

fn attempts(rows: &[Numbered]) -> Vec<(&'static str, u16)> {
    rows.iter().map(|(row, port)| (row.name, *port)).collect()
}

/// Whether an attempt is seen where it would be.
fn is_seen(
    Evidence { seen, ended, audit }: &Evidence,
    row: &Row,
    tag: &str,
    port: u16,
    result: &Attempt,
) -> bool {
    let marker = marker(tag, row.name);
    match row.oracle {
        Oracle::Origin => seen
            .arrived
            .iter()
            .any(|packet| packet.carries(&marker) || packet.has_port(port)),
        // What the gateway is told carries the marker as well.
        Oracle::Node => seen.local.iter().any(|packet| packet.has_port(port)),
        Oracle::Caller => result.ok,
        Oracle::Mortal => *ended,
        Oracle::Audit => audit.windows(marker.len()).any(|bytes| bytes == marker),
    }
}

/// Whether the kernel says that it has no such thing.
fn is_absent(row: &Row, result: &Attempt) -> bool {
    result
        .errno
        .is_some_and(|errno| row.absent.contains(&errno))
}

#[test]
fn every_vector_gets_out_without_a_boundary() {
    if !skip::is_root() {
        return;
    }
    let mut scene = Scene::new(Who::Nobody);
    let mut silent = Vec::new();
    let all: Vec<Numbered> = rows::all().zip(CONTROLS..).collect();
    // Somebody else's boundary, so that there are programs to be found.
    let other = scene
        .bench
        .confined(&scene.world.node, Direct::Redirect, "other", &[("wait", 1)])
        .expect("a session");
    other.next().expect("it waits");
    for who in [Who::Nobody, Who::Root] {
        let tag = format!("free-{who:?}");
        let rows: Vec<_> = all
            .iter()
            .filter(|(row, _)| row.control == who && row.uncontrolled.is_none())
            .copied()
            .collect();
        let results = scene.free(who, &tag, &rows);
        let seen = scene.seen(&tag);
        for ((row, port), result) in rows.iter().zip(&results) {
            if is_absent(row, result) {
                eprintln!("this kernel has no {}: {result:?}", row.name);
            } else if !is_seen(&seen, row, &tag, *port, result) {
                silent.push(format!("{result:?}"));
            }
        }
    }
    other.finish().expect("it ends");
    assert!(silent.is_empty(), "not seen:\n{}", silent.join("\n"));
}

#[test]
fn no_vector_gets_out_where_connections_are_redirected() {
    if skip::is_root() {
        confine(Direct::Redirect, Place::Agent, rows::all());
    }
}

#[test]
fn no_vector_gets_out_where_connections_are_refused() {
    if skip::is_root() {
        confine(Direct::Deny, Place::Agent, ROWS.iter());
    }
}

#[test]
fn no_vector_gets_root_out_under_the_launcher() {
    if skip::is_root() {
        confine(Direct::Redirect, Place::Rooted, rows::all());
    }
}

#[test]
fn no_vector_gets_root_out_of_a_container() {
    if skip::is_root() {
        confine(Direct::Redirect, Place::Attached, rows::all());
    }
}

/// Tries all rows in one run.
fn confine(direct: Direct, place: Place, rows: impl Iterator<Item = &'static Row>) {
    let mut scene = Scene::new(match place {
        Place::Agent | Place::Rooted => Who::Nobody,
        Place::Attached => Who::Container,
    });
    let rows: Vec<Numbered> = rows.zip(CONFINED..).collect();
    let tag = format!("{}-{place:?}", direct.label());
    // What the kernel does not have outside a boundary is not expected of it inside.
    let absent = scene.absent(&rows);
    let (results, records, seen) = run(&mut scene, direct, place, &tag, &rows);
    let mut wrong = Vec::new();
    let mut open = Vec::new();
    let has_hooks = has_unix_hooks();
    for ((row, port), result) in rows.iter().zip(&results) {
        assert_eq!(row.name, result.vector);
        let expected = as_far_as(has_hooks, row.expected(direct, place), result);
        let got_out = is_seen(&seen, row, &tag, *port, result);
        if absent.contains(&row.name) {
            if got_out || result.ok {
                wrong.push(format!("{}: not even there, and IT GOT OUT", row.name));
            }
            continue;
        }
        if let Some(why) = expected.open {
            open.push((marker(&tag, row.name), *port));
            if !got_out && !why.starts_with("a race") {
                wrong.push(format!("{}: said to be open: {result:?}", row.name));
            }
            continue;
        }
        if got_out {
            wrong.push(format!("{}: IT GOT OUT: {result:?}", row.name));
        }
        let ends = expected.errno.is_none() && expected.signal.is_none();
        if ends && is_cut_at_once(&expected, result) {
            wrong.extend(unrecorded(row, &expected, *port, &records));
            continue;
        }
        if (result.errno, result.signal, result.ok) != (expected.errno, expected.signal, ends) {
            wrong.push(format!(
                "{}: expected {expected:?}, got {result:?}",
                row.name
            ));
        }
        wrong.extend(unrecorded(row, &expected, *port, &records));
    }
    // Not even something that nobody thought of.
    wrong.extend(
        seen.seen
            .arrived
            .iter()
            .filter(|packet| !packet.is_housekeeping())
            .filter(|packet| {
                let is = |(marker, port): &(Vec<u8>, u16)| {
                    packet.carries(marker) || packet.has_port(*port)
                };
                !open.iter().any(is)
            })
            .map(|packet| format!("arrived: {packet}")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is expected where kernels have no hooks on unix sockets, as before 6.7: there the LSM
/// programs are asked once the name was looked up, and one that is out of sight is not found.
fn as_far_as(has_hooks: bool, expected: Expected, result: &Attempt) -> Expected {
    match expected.record {
        Some((kind, Some("unix_connect" | "unix_sendmsg"), reason)) if !has_hooks => {
            if result.errno == Some(libc::ENOENT) {
                return fails(libc::ENOENT);
            }
            Expected {
                record: Some((kind, None, reason)),
                ..expected
            }
        }
        _ => expected,
    }
}

/// Whether the gateway took the connection and cut it before the caller woke up: `connect` tells
/// that then, and not the first thing that is done with it.
fn is_cut_at_once(expected: &Expected, result: &Attempt) -> bool {
    matches!(expected.record, Some(("tcp", ..)))
        && result.call.as_deref() == Some("connect")
        && result.errno == Some(libc::ECONNRESET)
}

/// What is wrong with the records of an attempt.
fn unrecorded(row: &Row, expected: &Expected, port: u16, records: &[Record]) -> Option<String> {
    let command = format!("v{port} ");
    let about = || {
        let all = records.iter().map(brief);
        all.filter(|it| it.starts_with(&command))
            .collect::<Vec<_>>()
    };
    let found = records.iter().any(|it| {
        is_record(it, expected, port)
            || row
                .thread
                .is_some_and(|thread| is_record_of(it, expected, |name| name.starts_with(thread)))
    });
    (expected.record.is_some() && !found)
        .then(|| format!("{}: no record {expected:?} among {:?}", row.name, about()))
}

/// Makes the attempts at this place; answers with what they said, what was recorded and seen.
fn run(
    scene: &mut Scene,
    direct: Direct,
    place: Place,
    tag: &str,
    rows: &[Numbered],
) -> (Vec<Attempt>, Vec<Record>, Evidence) {
    let ways = [attempts(rows), vec![("wait", 1)]].concat();
    let policy = format!(
        "schema = 1\nagent = \"vectors\"\n[network]\ndirect = \"{}\"\n",
        direct.label()
    );
    let start = |who, tag: &str, ways: &[(&str, u16)]| {
        let session = scene
            .bench
            .launched(&scene.world.node, who, &policy, tag, ways);
        session.expect("a session")
    };
    let take = |session: &Session| -> Vec<Attempt> {
        rows.iter()
            .map(|_| session.next().expect("an attempt"))
            .collect()
    };
    let (mut session, results) = match place {
        Place::Agent | Place::Rooted => {
            let who = if place == Place::Agent {
                Who::Nobody
            } else {
                Who::Root
            };
            let session = start(who, tag, &ways);
            let results = take(&session);
            (session, results)
        }
        Place::Attached => {
            let mut session = start(Who::Nobody, &format!("{tag}-beside"), &[("wait", 1)]);
            session.next().expect("it waits");
            let agent = session.agent().expect("an agent");
            let beside = scene
                .bench
                .inside(
                    &scene.world.node,
                    agent,
                    Who::Container,
                    tag,
                    &attempts(rows),
                )
                .expect("a session beside");
            let results = take(&beside);
            beside.finish().expect("it ends");
            assert_eq!(session.go().ok(), Some(()), "it goes on");
            (session, results)
        }
    };
    if place != Place::Attached {
        session.next().expect("it waits");
        session.go().expect("it goes on");
    }
    let seen = scene.seen(tag);
    let (_, records) = session.finish().expect("it ends");
    (results, records, seen)
}
