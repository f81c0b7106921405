//! Observe mode blocks nothing and records everything that policy would refuse.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, Finished, field},
    deadline::wait_for,
    needs_root,
    probe::{Kind, Probe},
    receiver::Receiver,
    world::{ORIGIN4, ORIGIN6, World},
};

const ENFORCED: &str = "schema = 1\nagent = \"watched\"\nmode = \"enforce\"\n";
const OBSERVED: &str = "schema = 1\nagent = \"watched\"\nmode = \"observe\"\n";

#[test]
fn the_option_lets_everything_pass() -> Result<()> {
    needs_root!();
    everything_passes(ENFORCED, ["--observe"])
}

#[test]
fn the_policy_lets_everything_pass() -> Result<()> {
    needs_root!();
    everything_passes(OBSERVED, [])
}

fn everything_passes<const N: usize>(policy: &str, options: [&str; N]) -> Result<()> {
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let mut probe = Probe::start(Agent::new(&world, policy)?.options(options))?;
    let origin: [IpAddr; 2] = [ORIGIN4.into(), ORIGIN6.into()];
    let origin = origin.map(|address| SocketAddr::new(address, receiver.port()));
    for to in origin {
        let sent = probe.ask(Kind::Udp, to)?;
        ensure!(sent == "sent", "UDP to {to}: {sent}");
        let (bytes, _) = wait_for("the datagram", || Ok(receiver.datagram()?))?;
        ensure!(bytes == b"x");

        probe.tell(Kind::Tcp, to)?;
        let (mut connection, _) = wait_for("the connection", || Ok(receiver.connection()?))?;
        receiver.answer(&mut connection)?;
        let ended = probe.answer()?;
        ensure!(ended == "answered", "TCP to {to}: {ended}");
    }
    let finished = probe.running.finish()?;
    ensure!(finished.status == 0, "{finished:?}");
    for record in decisions(&finished) {
        ensure!(field(record, "outcome") == "observe", "{record:#}");
        ensure!(field(record, "assurance") == "observe", "{record:#}");
    }
    for to in origin {
        for kind in ["tcp", "direct"] {
            let destination = to.to_string();
            let records = finished.records_with(&[
                ("kind", kind),
                ("original_destination", &destination),
                ("process.comm", "python3"),
            ]);
            ensure!(!records.is_empty(), "{kind} to {to}: {finished:?}");
        }
    }
    Ok(())
}

/// All records but those of the session itself.
fn decisions(finished: &Finished) -> impl Iterator<Item = &Value> {
    let all = finished.records.iter();
    all.filter(|record| field(record, "kind") != "session")
}

#[test]
fn the_same_is_refused_without_it() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let mut probe = Probe::start(Agent::new(&world, ENFORCED)?)?;
    for address in [ORIGIN4.into(), ORIGIN6.into()] {
        let to = SocketAddr::new(address, receiver.port());
        let sent = probe.ask(Kind::Udp, to)?;
        ensure!(sent == "EACCES" || sent == "EPERM", "UDP to {to}: {sent}");
        // The gateway takes the connection, and ends it as soon as it knows what it is.
        let ended = probe.ask(Kind::Tcp, to)?;
        ensure!(
            ended == "closed" || ended == "ECONNRESET",
            "TCP to {to}: {ended}"
        );
        ensure!(
            receiver.is_untouched(&world.node, address)?,
            "{to} was reached"
        );
    }
    let finished = probe.running.finish()?;
    ensure!(decisions(&finished).count() > 0);
    for record in decisions(&finished) {
        ensure!(field(record, "outcome") == "deny", "{record:#}");
    }
    Ok(())
}
