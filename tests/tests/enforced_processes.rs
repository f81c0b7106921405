//! Records name what a process ran when it called, however short it lived, and who forked it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, Finished, field},
    needs_root,
    skip::PYTHON,
    world::{ORIGIN4, World},
};

const NOTHING: &str = "schema = 1\nagent = \"processes\"\n";

/// Sends to port `sys.argv[1]` of the origin, is refused, and ends: gone before anybody looks.
const SEND: &str = "
import socket, sys
def send(port):
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], port))
        print('sent')
    except PermissionError:
        pass
";

fn run(script: &str) -> Result<Finished> {
    let world = World::new()?;
    let origin = ORIGIN4.to_string();
    let script = format!("{SEND}{script}");
    let finished = Agent::new(&world, NOTHING)?.run([PYTHON, "-c", &script, &origin])?;
    ensure!(
        finished.status == 0 && finished.out().is_empty(),
        "{finished:?}"
    );
    Ok(finished)
}

/// The refusal of what was sent to this port.
fn refusal(finished: &Finished, port: u16) -> Result<&Value> {
    let found = finished.records_with(&[("reason", "datagram"), ("port", &port.to_string())]);
    ensure!(found.len() == 1, "port {port}: {found:?}");
    found.into_iter().next().context("there is one")
}

fn id(record: &Value) -> String {
    field(record, "process.exec_id")
}

#[test]
fn a_fork_is_another_process_that_runs_the_same() -> Result<()> {
    needs_root!();
    let finished = run("
import os
send(1)
if os.fork() == 0:
    send(2)
    os._exit(0)
os.wait()
")?;
    let (parent, child) = (refusal(&finished, 1)?, refusal(&finished, 2)?);
    ensure!(!id(parent).is_empty() && id(parent) != id(child));
    ensure!(field(parent, "process.exe").contains("python3"), "{parent}");
    ensure!(field(child, "process.exe") == field(parent, "process.exe"));
    let forked_by = child.pointer("/process/parents/0").context("a parent")?;
    ensure!(field(forked_by, "exec_id") == id(parent), "{child}");
    ensure!(field(forked_by, "pid") == field(parent, "process.pid"));
    Ok(())
}

#[test]
fn an_exec_is_another_id_under_the_same_number() -> Result<()> {
    needs_root!();
    // Perl is on every Debian; its socket call is refused as well.
    let finished = run("
import os
send(1)
os.execv('/usr/bin/perl', ['perl', '-MSocket', '-e',
    'socket(S, AF_INET, SOCK_DGRAM, 0); send(S, \"x\", 0, sockaddr_in(2, inet_aton($ARGV[0])));',
    sys.argv[1]])
")?;
    let (before, after) = (refusal(&finished, 1)?, refusal(&finished, 2)?);
    ensure!(field(before, "process.pid") == field(after, "process.pid"));
    ensure!(id(before) != id(after), "{after}");
    ensure!(field(before, "process.exe").contains("python3"), "{before}");
    ensure!(field(after, "process.exe").contains("perl"), "{after}");
    Ok(())
}

#[test]
fn short_lives_are_named_each_by_its_own_id() -> Result<()> {
    needs_root!();
    const LIVES: u16 = 20;
    let finished = run(&format!(
        "
import os
for port in range(1, {}):
    if os.fork() == 0:
        os.execv('/usr/bin/perl', ['perl', '-MSocket', '-e',
            'socket(S, AF_INET, SOCK_DGRAM, 0); '
            'send(S, \"x\", 0, sockaddr_in($ARGV[1], inet_aton($ARGV[0])));',
            sys.argv[1], str(port)])
    os.wait()
",
        LIVES + 1
    ))?;
    let mut ids = BTreeSet::new();
    for port in 1..=LIVES {
        let record = refusal(&finished, port)?;
        ensure!(field(record, "process.exe").contains("perl"), "{record}");
        ensure!(["file", "execve"].contains(&&*field(record, "process.exe_source")));
        let parent = record.pointer("/process/parents/0").context("a parent")?;
        ensure!(field(parent, "exe").contains("python3"), "{record}");
        ids.insert(id(record));
    }
    ensure!(ids.len() == usize::from(LIVES), "{ids:?}");
    Ok(())
}

#[test]
fn a_name_that_leads_nowhere_says_so() -> Result<()> {
    needs_root!();
    // By a relative name, from a folder that is not told: the file is known by its inode, or the
    // record says that this is the name as it was given.
    let finished = run("
import os
os.chdir('/usr/bin')
os.execv('./perl', ['perl', '-MSocket', '-e',
    'socket(S, AF_INET, SOCK_DGRAM, 0); send(S, \"x\", 0, sockaddr_in(2, inet_aton($ARGV[0])));',
    sys.argv[1]])
")?;
    let record = refusal(&finished, 2)?;
    let told = (
        field(record, "process.exe_source"),
        field(record, "process.exe"),
    );
    ensure!(
        told == ("file".to_owned(), "/usr/bin/perl".to_owned())
            || told == ("execve".to_owned(), "./perl".to_owned()),
        "{told:?}"
    );
    Ok(())
}
