//! Refusals of the kernel half are folded and may be lost singly, but never lost count of.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, field},
    deadline::wait_for,
    needs_root,
    skip::PYTHON,
    world::{ORIGIN4, World},
};

/// Far more than are reported singly, and than the ring would have room for.
const REFUSALS: u64 = 100_000;
/// Processes that send at once, on whatever CPUs there are.
const SENDERS: u64 = 4;

const FLOOD: &str = r"
import os, socket, sys
address, senders, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
children = []
for _ in range(senders):
    child = os.fork()
    if child == 0:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        refused = 0
        for _ in range(each):
            try:
                udp.sendto(b'flood', (address, 9))
            except PermissionError:
                refused += 1
        os._exit(0 if refused == each else 1)
    children.append(child)
print(sum(os.waitpid(child, 0)[1] for child in children), flush=True)
sys.stdin.read()
";

fn piped(command: &mut Command) {
    command.stdin(Stdio::piped());
}

/// How many refusals these records stand for.
fn counted(records: &[Value]) -> u64 {
    records
        .iter()
        .filter(|it| field(it, "kind") == "direct" && field(it, "reason") == "datagram")
        .map(|record| 1 + record.get("repeated").and_then(Value::as_u64).unwrap_or(0))
        .sum()
}

#[test]
fn every_refusal_is_counted_exactly_once() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let agent = Agent::new(&world, "schema = 1\nagent = \"flood\"")?;
    let mut running = agent.prepare(piped).spawn([
        PYTHON,
        "-c",
        FLOOD,
        &ORIGIN4.to_string(),
        &SENDERS.to_string(),
        &(REFUSALS / SENDERS).to_string(),
    ])?;
    running.wait_for_output("\n")?;
    // All of them while it still runs: the last are not kept for a next one that never comes.
    wait_for("every refusal to be counted", || {
        Ok((counted(&running.records()?) >= REFUSALS).then_some(()))
    })?;
    let finished = running.finish()?;
    ensure!(finished.out().trim() == "0", "{finished:?}");
    let records = finished.records_with(&[("kind", "direct"), ("reason", "datagram")]);
    let counted = counted(&finished.records);
    ensure!(counted == REFUSALS, "{counted} of {REFUSALS} are counted");
    // Folding is why this test can tell anything: one record each would be no news.
    ensure!((records.len() as u64) < REFUSALS / 10, "{}", records.len());
    let told = records
        .iter()
        .find(|record| !field(record, "process.comm").is_empty());
    ensure!(told.is_some(), "none of them names the process");
    Ok(())
}
