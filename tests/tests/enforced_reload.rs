//! A policy that is changed while an agent runs confined.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, field},
    deadline::wait_for,
    needs_root,
    probe::{Kind, Probe},
    receiver::Receiver,
    world::{ORIGIN4, World},
};

const NOTHING: &str = "schema = 1\nagent = \"reloaded\"\n";

fn allowing(port: u16) -> String {
    format!("{NOTHING}[[egress]]\nid = \"raw\"\ntcp = [\"{ORIGIN4}:{port}\"]\nprivate = true\n")
}

/// The records of the policy, once there are so many.
fn told(probe: &Probe, count: usize) -> Result<Vec<Value>> {
    wait_for("records of the policy", || {
        let all = probe.running.records()?.into_iter();
        let told: Vec<_> = all.filter(|it| field(it, "kind") == "policy").collect();
        Ok((told.len() >= count).then_some(told))
    })
}

fn start(world: &World, policy: &str) -> Result<(Probe, PathBuf)> {
    let path = world.file("reloaded.toml", policy)?;
    let agent = Agent::without_policy(world)?;
    let path_text = path.to_str().context("a path")?;
    let probe = Probe::start(agent.options(["--policy", path_text]))?;
    Ok((probe, path))
}

#[test]
fn it_decides_from_then_on_and_ends_what_is_open() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let to = SocketAddr::new(IpAddr::from(ORIGIN4), receiver.port());
    let (mut probe, path) = start(&world, &allowing(receiver.port()))?;
    probe.tell(Kind::Tcp, to)?;
    let (mut connection, _) = wait_for("the connection", || Ok(receiver.connection()?))?;
    receiver.answer(&mut connection)?;
    ensure!(probe.answer()? == "answered");

    // One that is open, and waits for an answer, when the policy takes it back.
    probe.tell(Kind::Tcp, to)?;
    let (_open, _) = wait_for("the connection", || Ok(receiver.connection()?))?;
    fs::write(&path, NOTHING)?;
    let ended = probe.answer()?;
    ensure!(ended == "ECONNRESET" || ended == "closed", "{ended}");
    let records = told(&probe, 1)?;
    ensure!(
        field(&records[0], "reason") == "policy_reloaded",
        "{records:?}"
    );

    let ended = probe.ask(Kind::Tcp, to)?;
    ensure!(ended == "ECONNRESET" || ended == "closed", "{ended}");
    ensure!(receiver.is_untouched(&world.node, ORIGIN4.into())?);

    // And back.
    fs::write(&path, allowing(receiver.port()) + "# again\n")?;
    told(&probe, 2)?;
    probe.tell(Kind::Tcp, to)?;
    let (mut connection, _) = wait_for("the connection", || Ok(receiver.connection()?))?;
    receiver.answer(&mut connection)?;
    ensure!(probe.answer()? == "answered");

    let finished = probe.running.finish()?;
    ensure!(finished.status == 0, "{finished:?}");
    let revoked = finished.records_with(&[("kind", "tcp"), ("reason", "policy_changed")]);
    ensure!(!revoked.is_empty(), "{finished:?}");
    // Each record names the policy that decided.
    let policies = |outcome: &str| -> Vec<String> {
        let found = finished.records_with(&[("kind", "tcp"), ("outcome", outcome)]);
        let mut found: Vec<_> = found.iter().map(|it| field(it, "policy")).collect();
        found.sort();
        found.dedup();
        found
    };
    let (allowed, denied) = (policies("allow"), policies("deny"));
    ensure!(allowed.len() == 2 && denied.len() == 1, "{finished:?}");
    ensure!(denied[0] == field(&records[0], "policy"), "{finished:?}");
    Ok(())
}

#[test]
fn what_the_kernel_was_told_stays() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let to = SocketAddr::new(IpAddr::from(ORIGIN4), receiver.port());
    let (mut probe, path) = start(&world, &allowing(receiver.port()))?;
    fs::write(&path, format!("{NOTHING}[network]\ndirect = \"deny\"\n"))?;
    let records = told(&probe, 1)?;
    ensure!(field(&records[0], "reason") == "policy_kept", "{records:?}");
    let hint = field(&records[0], "hint");
    ensure!(
        hint.contains("[network]") && hint.contains("restart"),
        "{hint}"
    );
    fs::write(&path, "not TOML")?;
    let records = told(&probe, 2)?;
    ensure!(field(&records[1], "reason") == "policy_kept", "{records:?}");
    probe.tell(Kind::Tcp, to)?;
    let (mut connection, _) = wait_for("the connection", || Ok(receiver.connection()?))?;
    receiver.answer(&mut connection)?;
    ensure!(probe.answer()? == "answered");
    let finished = probe.running.finish()?;
    ensure!(finished.status == 0, "{finished:?}");
    Ok(())
}
