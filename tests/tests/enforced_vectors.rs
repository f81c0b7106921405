//! No way out leads anywhere: each is seen to work without a boundary, and then is not seen.

use std::path::Path;

use sluice_tests::{
    skip,
    vector::{Attempt, marker},
    vectors::{
        Oracle, ROWS, Row, brief, is_record,
        session::{Bench, Direct},
        world::{Seen, World},
    },
};

fn bench() -> Bench {
    Bench::new(Path::new(env!("CARGO_BIN_EXE_vector"))).expect("a bench")
}

/// Each row with a port of its own.
fn numbered(first: u16, root: bool) -> Vec<(&'static Row, u16)> {
    let rows = ROWS.iter().filter(|row| row.root == root);
    rows.zip(first..).collect()
}

fn attempts(rows: &[(&'static Row, u16)]) -> Vec<(&'static str, u16)> {
    rows.iter().map(|(row, port)| (row.name, *port)).collect()
}

/// Whether an attempt is seen where it would be.
fn is_seen(seen: &Seen, row: &Row, tag: &str, port: u16) -> bool {
    let marker = marker(tag, row.name);
    match row.oracle {
        Oracle::Origin => seen
            .arrived
            .iter()
            .any(|packet| packet.carries(&marker) || packet.has_port(port)),
        // What the gateway is told carries the marker as well.
        Oracle::Node => seen.local.iter().any(|packet| packet.has_port(port)),
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
    let (world, bench) = (World::new().expect("a world"), bench());
    let mut silent = Vec::new();
    for (root, first, tag) in [(false, 2000, "free"), (true, 2200, "free-root")] {
        let rows = numbered(first, root);
        let session = bench
            .free(&world.node, root, tag, &attempts(&rows))
            .expect("a session");
        let (results, _) = session.finish().expect("it ends");
        assert_eq!(results.len(), rows.len());
        let seen = world.seen(tag).expect("controls");
        for ((row, port), result) in rows.iter().zip(&results) {
            if is_absent(row, result) {
                eprintln!("this kernel has no {}: {result:?}", row.name);
            } else if !is_seen(&seen, row, tag, *port) {
                silent.push(format!("{result:?}"));
            }
        }
    }
    assert!(silent.is_empty(), "not seen:\n{}", silent.join("\n"));
}

#[test]
fn no_vector_gets_out_where_connections_are_redirected() {
    if skip::is_root() {
        confine(Direct::Redirect);
    }
}

#[test]
fn no_vector_gets_out_where_connections_are_refused() {
    if skip::is_root() {
        confine(Direct::Deny);
    }
}

/// Tries all rows in one run, those that take root beside it in the same cgroup.
fn confine(direct: Direct) {
    let (world, bench) = (World::new().expect("a world"), bench());
    let (rows, root_rows) = (numbered(3000, false), numbered(3200, true));
    let ways = [attempts(&rows), vec![("wait", 1)]].concat();
    let tag = direct.label();
    // What the kernel does not have outside a boundary is not expected of it inside.
    let control = format!("{tag}-control");
    let maybe: Vec<_> = rows
        .iter()
        .filter(|(row, _)| !row.absent.is_empty())
        .copied()
        .collect();
    let session = bench
        .free(&world.node, false, &control, &attempts(&maybe))
        .expect("a session");
    let (controls, _) = session.finish().expect("it ends");
    let absent: Vec<_> = maybe
        .iter()
        .zip(&controls)
        .filter(|((row, _), result)| is_absent(row, result))
        .map(|((row, _), _)| row.name)
        .collect();
    world.seen(&control).expect("controls");

    let mut session = bench
        .confined(&world.node, direct, tag, &ways)
        .expect("a session");
    let mut results: Vec<Attempt> = rows
        .iter()
        .map(|_| session.next().expect("an attempt"))
        .collect();
    let waiting = session.next().expect("it waits");
    let root_tag = format!("{tag}-root");
    let beside = bench
        .inside_as_root(&world.node, waiting.pid, &root_tag, &attempts(&root_rows))
        .expect("a session beside");
    results.extend(beside.finish().expect("it ends").0);
    let seen = world.seen(tag).expect("controls");
    session.go().expect("it goes on");
    let (_, records) = session.finish().expect("it ends");

    let mut wrong = Vec::new();
    let tried = rows.iter().chain(&root_rows);
    for ((row, port), result) in tried.zip(&results) {
        let expected = row.expected(direct);
        let tag = if row.root { &root_tag } else { tag };
        assert_eq!(row.name, result.vector);
        if is_seen(&seen, row, tag, *port) {
            wrong.push(format!("{}: IT GOT OUT", row.name));
        }
        if absent.contains(&row.name) {
            assert!(!result.ok, "{result:?}");
            continue;
        }
        if result.errno != expected.errno || result.ok != expected.errno.is_none() {
            wrong.push(format!(
                "{}: expected {expected:?}, got {result:?}",
                row.name
            ));
        }
        if !records.iter().any(|it| is_record(it, &expected, *port)) {
            let command = format!("v{port} ");
            let about: Vec<_> = records
                .iter()
                .map(brief)
                .filter(|it| it.starts_with(&command))
                .collect();
            wrong.push(format!(
                "{}: no record {expected:?} among {about:?}",
                row.name
            ));
        }
    }
    // Not even something that nobody thought of.
    wrong.extend(
        seen.arrived
            .iter()
            .filter(|packet| !packet.is_housekeeping())
            .map(|packet| format!("arrived: {packet}")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
