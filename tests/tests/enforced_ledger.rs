//! The two ledgers: what the kernel let through and the gateway never served is told within
//! seconds, and what needs no gateway is in the kernel's word.

use std::process::Stdio;

use anyhow::{Result, ensure};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, field},
    deadline::wait_for,
    needs_root,
    skip::PYTHON,
    still,
    vectors::pins,
    world::{ORIGIN4, World},
};

const CONNECTIONS: u64 = 20;

/// On each line of standard input, connects so many times, and says so. What becomes of the
/// connections is not its concern.
const CONNECT: &str = r"
import socket, sys
address, count = sys.argv[1], int(sys.argv[2])
print('ready', flush=True)
for round, _ in enumerate(sys.stdin):
    for _ in range(count):
        try:
            one = socket.create_connection((address, 80), 5)
            one.sendall(b'GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n')
            one.recv(1)
        except OSError:
            pass
    print('round', round, flush=True)
";

/// How many connections the findings of this reason are about.
fn found(records: &[Value], reason: &str) -> u64 {
    records
        .iter()
        .filter(|it| field(it, "kind") == "finding" && field(it, "reason") == reason)
        .map(|it| 1 + it.get("repeated").and_then(Value::as_u64).unwrap_or(0))
        .sum()
}

#[test]
fn what_the_gateway_never_served_is_found() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let agent = Agent::new(&world, "schema = 1\nagent = \"ledger\"")?.prepare(|command| {
        command.stdin(Stdio::piped());
    });
    let (address, count) = (ORIGIN4.to_string(), CONNECTIONS.to_string());
    let mut running = agent.spawn([PYTHON, "-c", CONNECT, &address, &count])?;
    running.wait_for_output("ready")?;

    // The control: as long as the gateway knows who is on the line, there is nothing to find.
    running.say("go")?;
    running.wait_for_output("round 0")?;
    let refused = |records: &[Value]| {
        let of_rule = |it: &&Value| field(it, "reason") == "no_rule";
        records.iter().filter(of_rule).count() as u64
    };
    wait_for("the gateway's records", || {
        Ok((refused(&running.records()?) == CONNECTIONS).then_some(()))
    })?;

    // Without it the gateway takes nobody for an agent, while the kernel still lets them through.
    pins::detach_from(&running.name()?, "gateway_ops")?;
    running.say("go")?;
    running.wait_for_output("round 1")?;
    wait_for("the findings", || {
        let found = found(&running.records()?, "unmatched_passage");
        Ok((found >= CONNECTIONS).then_some(()))
    })?;
    let finished = running.finish()?;
    ensure!(
        found(&finished.records, "unmatched_passage") == CONNECTIONS,
        "{finished:?}"
    );
    ensure!(
        found(&finished.records, "unmatched_session") == 0,
        "{finished:?}"
    );
    ensure!(refused(&finished.records) == CONNECTIONS, "{finished:?}");
    for finding in finished.records_with(&[("kind", "finding")]) {
        ensure!(field(finding, "process.comm") == "python3", "{finding:#}");
        ensure!(field(finding, "host") == address, "{finding:#}");
        ensure!(field(finding, "source") == "kernel", "{finding:#}");
    }
    Ok(())
}

/// More than the ring of the kernel's ledger has room for, fewer than may wait in the hash.
const QUESTIONS: u64 = 12_000;

/// Asks so many questions without waiting for an answer, then says how many were refused.
const ASK: &str = r"
import socket, struct, sys
address, count = sys.argv[1], int(sys.argv[2])
print('ready', flush=True)
sys.stdin.readline()
refused = 0
name = b'\x06nobody\x04test\x00'
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(count):
    question = struct.pack('>6H', number, 256, 1, 0, 0, 0) + name + struct.pack('>2H', 1, 1)
    try:
        udp.sendto(question, (address, 53))
    except PermissionError:
        refused += 1
print('refused', refused, flush=True)
sys.stdin.readline()
";

#[test]
fn what_finds_no_room_in_the_ledger_is_refused() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let agent = Agent::new(&world, "schema = 1\nagent = \"ledger\"")?.prepare(|command| {
        command.stdin(Stdio::piped());
    });
    let (address, count) = (ORIGIN4.to_string(), QUESTIONS.to_string());
    let mut running = agent.spawn([PYTHON, "-c", ASK, &address, &count])?;
    running.wait_for_output("ready")?;
    // While it stands still nobody empties the ring.
    still::stop(Pid::from_raw(i32::try_from(running.pid())?))?;
    running.say("go")?;
    let said = running.wait_for_output("refused ");
    running.signal(Signal::SIGCONT)?;
    let said = said?;
    let refused: u64 = said.trim().rsplit(' ').next().unwrap_or_default().parse()?;
    ensure!(refused > 0 && refused < QUESTIONS, "{refused} refused");
    let finished = running.finish()?;
    let counted: u64 = finished
        .records_with(&[("kind", "direct"), ("reason", "ledger_full")])
        .iter()
        .map(|it| 1 + it.get("repeated").and_then(Value::as_u64).unwrap_or(0))
        .sum();
    ensure!(
        counted == refused,
        "{refused} were refused, {counted} recorded"
    );
    Ok(())
}

/// Listens on a port of its own namespace's loopback, outside the agent's cgroup.
#[test]
fn a_declared_local_connection_is_on_record() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let listener = world
        .node
        .run(|| std::net::TcpListener::bind("127.0.0.1:0"))?;
    let port = listener.local_addr()?.port();
    let policy = format!("schema = 1\nagent = \"ledger\"\n[network]\nloopback = [{port}]");
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 5)");
    let finished = Agent::new(&world, &policy)?.run([PYTHON, "-c", &connect])?;
    ensure!(finished.status == 0, "{finished:?}");
    let passed = finished.records_with(&[
        ("kind", "direct"),
        ("outcome", "allow"),
        ("reason", "declared_loopback"),
        ("port", &port.to_string()),
        ("process.comm", "python3"),
    ]);
    ensure!(passed.len() == 1, "{finished:?}");
    ensure!(
        finished.records_with(&[("kind", "finding")]).is_empty(),
        "{finished:?}"
    );
    Ok(())
}
