//! What may happen to a gateway and to the node while an agent is attached: whatever it is, the
//! agent stays shut in, and somebody is told.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, field, pins, sluice},
    attachment::{Attachment, agents, refused},
    cgroup::{self, Group},
    deadline::wait_for,
    memory::Bound,
    needs, needs_root,
    puppet::{Puppet, Way},
    receiver::Receiver,
    skip::PYTHON,
    still,
    world::{ORIGIN4, World},
};

/// A policy that lets the agent reach this port of the origin by TCP.
fn allowing(receiver: &Receiver) -> String {
    format!(
        "schema = 1\nagent = \"outage\"\n[[egress]]\nid = \"raw\"\ntcp = [\"{ORIGIN4}:{}\"]\n\
         private = true\n",
        receiver.port()
    )
}

fn to(receiver: &Receiver) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(ORIGIN4), receiver.port())
}

/// The worker of an attachment.
fn worker(attachment: &Attachment<'_>) -> Result<Pid> {
    worker_of(attachment.name(), attachment.pid())
}

/// The gateway's cgroup.
fn gateway(session: &str) -> Result<PathBuf> {
    let runs = cgroup::mount_point()?.join("sluice");
    Ok(runs.join(session).join("gateway"))
}

/// The worker of a session that this process supervises.
fn worker_of(session: &str, own: u32) -> Result<Pid> {
    let all = cgroup::processes(&gateway(session)?)?;
    let worker = all
        .into_values()
        .find(|pid| *pid != own && cgroup::is_worker(*pid));
    Ok(Pid::from_raw(i32::try_from(worker.context("a worker")?)?))
}

/// A connection of the agent's by way of the gateway arrives.
fn is_served(puppet: &mut Puppet, receiver: &Receiver, name: &str) -> Result<()> {
    let held = puppet.hold(name, Way::Tcp, to(receiver))?;
    ensure!(held == "done", "{name}: {held}");
    wait_for(name, || Ok(receiver.connection()?))?;
    Ok(())
}

#[test]
fn a_gateway_that_stands_still_lets_nothing_out() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let attachment = Attachment::start(&world, &allowing(&receiver), ["--cgroup", &cgroup])?;
    is_served(&mut puppet, &receiver, "before")?;
    let supervisor = Pid::from_raw(i32::try_from(attachment.pid())?);
    for (who, pid) in [("worker", worker(&attachment)?), ("supervisor", supervisor)] {
        still::stop(pid)?;
        let held = puppet.hold(who, Way::Tcp, to(&receiver))?;
        let sent = puppet.once(Way::Udp, to(&receiver))?;
        let untouched = receiver.is_untouched(&world.node, to(&receiver).ip())?;
        if pid != supervisor {
            // Which is there, and says so.
            attachment.wait_for_record(&SILENT)?;
            is_shown(&world, attachment.name(), "silent")?;
            let said = attachment.said()?;
            ensure!(said.contains("has not answered for 5 seconds"), "{said}");
        }
        kill(pid, Signal::SIGCONT)?;
        ensure!(untouched, "it got out while the {who} stood still");
        ensure!(held == "done", "it waits for the gateway: {held}");
        ensure!(sent == "EACCES", "a datagram: {sent}");
        // What waited is served then.
        wait_for("what waited to arrive", || Ok(receiver.connection()?))
            .with_context(|| format!("after the {who} went on"))?;
        is_shown(&world, attachment.name(), "serving")?;
    }
    attachment.wait_for_record(&ANSWERS)?;
    for word in [SILENT, ANSWERS] {
        let records = attachment.records()?;
        let times = count(&records, &word);
        ensure!(times == 1, "{word:?}: {times} of {records:#?}");
    }
    attachment.detach()
}

/// The finding that a worker stands still, and the one that it does not any more.
const SILENT: [(&str, &str); 2] = [("kind", "finding"), ("reason", "gateway_silent")];
const ANSWERS: [(&str, &str); 2] = [("kind", "finding"), ("reason", "gateway_answers")];

fn count(records: &[Value], expected: &[(&str, &str)]) -> usize {
    let matches = |record: &&Value| {
        expected
            .iter()
            .all(|(name, value)| field(record, name) == *value)
    };
    records.iter().filter(matches).count()
}

/// `sluice agents` comes to say this of a session.
fn is_shown(world: &World, session: &str, health: &str) -> Result<()> {
    wait_for(&format!("it to be shown as {health}"), || {
        let all = agents(world)?;
        let own = all.iter().find(|one| field(one, "run") == session);
        Ok((field(own.context("it is listed")?, "health") == health).then_some(()))
    })
}

/// One that stands still for good is killed, and another serves what waited.
#[test]
fn a_worker_that_stands_still_too_long_is_replaced() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let attachment = Attachment::start(&world, &allowing(&receiver), ["--cgroup", &cgroup])?;
    is_served(&mut puppet, &receiver, "before")?;
    let first = worker(&attachment)?;
    still::stop(first)?;
    let held = puppet.hold("meanwhile", Way::Tcp, to(&receiver))?;
    ensure!(held == "done", "it waits for the gateway: {held}");
    is_shown(&world, attachment.name(), "silent")?;
    ensure!(
        receiver.is_untouched(&world.node, to(&receiver).ip())?,
        "it got out while the worker stood still"
    );
    attachment.wait_for_record(&[("kind", "finding"), ("reason", "gateway_died")])?;
    wait_for("what waited to arrive", || Ok(receiver.connection()?))?;
    ensure!(worker(&attachment)? != first, "the same worker");
    attachment.wait_for_record(&ANSWERS)?;
    is_shown(&world, attachment.name(), "serving")?;
    is_served(&mut puppet, &receiver, "after")?;
    attachment.detach()
}

#[test]
fn a_worker_of_a_run_that_stands_still_is_shown() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let policy = "schema = 1\nagent = \"outage\"\n";
    let agent = Agent::new(&world, policy)?.prepare(|sluice| {
        sluice.stdin(Stdio::piped());
    });
    let mut running = agent.spawn(["sh", "-c", "echo ready; read end"])?;
    running.wait_for_output("ready")?;
    let name = running.name()?;
    is_shown(&world, &name, "serving")?;
    let worker = worker_of(&name, running.pid())?;
    for (signal, health, record) in [
        (Signal::SIGSTOP, "silent", SILENT),
        (Signal::SIGCONT, "serving", ANSWERS),
    ] {
        kill(worker, signal)?;
        is_shown(&world, &name, health)?;
        wait_for("the record", || {
            Ok((count(&running.records()?, &record) == 1).then_some(()))
        })?;
    }
    let finished = running.finish()?;
    ensure!(finished.status == 1, "`read` came to the end: {finished:?}");
    Ok(())
}

/// A gateway that has no descriptors left serves nobody further, and serves again once there are
/// some.
#[test]
fn a_gateway_without_descriptors_lets_nothing_out() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let other = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let wrapper = wrapper(&world, &format!("ulimit -n {FEW}"))?;
    let target = ["--cgroup", &group.path().display().to_string()];
    let attachment = Attachment::start_as(&world, wrapper, &allowing(&receiver), target)?;
    is_served(&mut puppet, &receiver, "before")?;

    // Each that is served takes more than one.
    let mut arrived = Vec::new();
    for number in 0..FEW {
        let held = puppet.hold(&number.to_string(), Way::Tcp, to(&receiver))?;
        ensure!(["done", "ECONNRESET"].contains(&&*held), "{number}: {held}");
        arrived.extend(receiver.connection()?);
    }
    wait_for("a word of it", || {
        Ok(attachment.said()?.contains("descriptors").then_some(()))
    })
    .with_context(|| attachment.said().unwrap_or_default())?;
    puppet.hold("elsewhere", Way::Tcp, to(&other))?;
    for receiver in [&receiver, &other] {
        let sent = puppet.once(Way::Udp, to(receiver))?;
        ensure!(sent == "EACCES", "a datagram: {sent}");
    }
    ensure!(
        other.is_untouched(&world.node, to(&other).ip())?,
        "what policy does not name was reached"
    );

    drop((puppet, arrived));
    let mut puppet = Puppet::start_in(&world, group.path())?;
    while receiver.connection()?.is_some() {}
    wait_for("it to be served again", || {
        puppet.hold("after", Way::Tcp, to(&receiver))?;
        Ok(receiver.connection()?)
    })
    .with_context(|| attachment.said().unwrap_or_default())?;
    attachment.detach()
}

/// More than the gateway has at rest, and not many more, in each of its processes.
const FEW: usize = 160;

/// A script that does this and then becomes `sluice`.
fn wrapper(world: &World, first: &str) -> Result<PathBuf> {
    let script = format!(
        "#!/bin/sh\n{first}\nexec '{}' \"$@\"\n",
        sluice()?.display()
    );
    let path = world.file("wrapper", &script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// In a mount namespace of the gateway's, so that the node's own stays as it is.
#[test]
fn without_its_pins_the_boundary_holds_and_the_operator_is_told() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let script = "[ \"$SLUICE_ALONE\" ] || SLUICE_ALONE=1 exec unshare --mount --propagation private \"$0\" \"$@\"";
    let wrapper = wrapper(&world, script)?;
    let cgroup = group.path().display().to_string();
    let policy = "schema = 1\nagent = \"outage\"\n";
    let attachment = Attachment::start_as(&world, wrapper, policy, ["--cgroup", &cgroup])?;
    let status = Command::new("nsenter")
        .args(["--mount", "--target", &attachment.pid().to_string()])
        .args(["umount", "--lazy", "/sys/fs/bpf"])
        .status()?;
    ensure!(status.success(), "umount: {status}");
    attachment.wait_for_record(&[("kind", "finding"), ("reason", "pins_gone")])?;
    ensure!(
        attachment.said()?.contains("the pins are gone"),
        "{}",
        attachment.said()?
    );
    ensure!(
        pins(attachment.name()).is_some(),
        "the node's own file system was touched"
    );
    for way in [Way::Tcp, Way::Udp] {
        let answer = puppet.once(way, to(&receiver))?;
        ensure!(answer != "answered", "{way:?}: {answer}");
    }
    ensure!(
        receiver.is_untouched(&world.node, to(&receiver).ip())?,
        "it got out"
    );
    attachment.detach()
}

/// Once nobody holds the programs any more the agent is free, and nobody says that it is not.
#[test]
fn killed_and_without_its_pins_it_is_shown_as_not_held() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let policy = "schema = 1\nagent = \"outage\"\n";
    let mut attachment = Attachment::start(&world, policy, ["--cgroup", &cgroup])?;
    fs::remove_dir_all(pins(attachment.name()).context("pins")?)?;
    let held = puppet.once(Way::Udp, to(&receiver))?;
    ensure!(held == "EACCES", "while it serves: {held}");
    is_shown(&world, attachment.name(), "serving")?;
    attachment.end_by(Signal::SIGKILL)?;
    is_shown(&world, attachment.name(), "unheld")?;
    wait_for("who is free to get out", || {
        puppet.once(Way::Udp, to(&receiver))?;
        Ok(receiver.datagram()?)
    })?;
    // And attached to again, it is held.
    let again = Attachment::start(&world, policy, ["--cgroup", &cgroup])?;
    let held = puppet.once(Way::Udp, to(&receiver))?;
    ensure!(held == "EACCES", "attached to again: {held}");
    let before = attachment.name();
    let listed = agents(&world)?;
    ensure!(
        !listed.iter().any(|one| field(one, "run") == before),
        "{listed:#?}"
    );
    again.detach()
}

/// Attaches a program that allows everything to `connect4` of a cgroup, with these flags, and
/// keeps it attached when it ends.
const FOREIGN: &str = r#"
import ctypes, os, platform, struct, sys
assert platform.machine() == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = libc.syscall(321, command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return result
# r0 = 1; exit
code = ctypes.create_string_buffer(struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0))
license = ctypes.create_string_buffer(b"GPL")
load = struct.pack("<IIQQIIQII16sII", 18, 2, ctypes.addressof(code), ctypes.addressof(license),
                   0, 0, 0, 0, 0, b"foreign", 0, 10)
program = bpf(5, load)
folder = os.open(sys.argv[1], os.O_RDONLY)
bpf(8, struct.pack("<IIII", folder, program, 10, int(sys.argv[2])))
"#;

/// Flags of `BPF_PROG_ATTACH`.
const ALONE: &str = "0";
const AMONG_OTHERS: &str = "2";

fn attach_foreign(group: &Path, flags: &str) -> Result<bool> {
    let output = Command::new(PYTHON)
        .args(["-I", "-c", FOREIGN])
        .arg(group)
        .arg(flags)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || said.contains("PermissionError"),
        "{said}"
    );
    Ok(output.status.success())
}

#[test]
fn a_foreign_program_that_allows_everything_changes_nothing() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let below = group.below("below")?;
    let mut puppet = Puppet::start_in(&world, below.path())?;
    // One before, in company; one after; one below.
    ensure!(attach_foreign(group.path(), AMONG_OTHERS)?, "the first");
    let held = puppet.hold("control", Way::Tcp, to(&receiver))?;
    ensure!(held == "done", "without a boundary: {held}");
    wait_for("the control", || Ok(receiver.connection()?))?;
    let cgroup = group.path().display().to_string();
    let policy = "schema = 1\nagent = \"outage\"\n[network]\ndirect = \"deny\"\n";
    let attachment = Attachment::start(&world, policy, ["--cgroup", &cgroup])?;
    ensure!(attach_foreign(group.path(), AMONG_OTHERS)?, "the second");
    ensure!(attach_foreign(below.path(), AMONG_OTHERS)?, "the third");
    let answer = puppet.once(Way::Tcp, to(&receiver))?;
    ensure!(answer == "EACCES", "{answer}");
    ensure!(
        receiver.is_untouched(&world.node, to(&receiver).ip())?,
        "it got out"
    );
    // None can take the place for itself.
    ensure!(!attach_foreign(group.path(), ALONE)?, "alone, above");
    let answer = puppet.once(Way::Tcp, to(&receiver))?;
    ensure!(answer == "EACCES", "{answer}");
    attachment.detach()
}

#[test]
fn where_a_foreign_program_wants_to_be_alone_nothing_is_attached() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    ensure!(attach_foreign(group.path(), ALONE)?, "alone");
    let cgroup = group.path().display().to_string();
    let (_, status, said) = refused(&world, None, ["--cgroup", &cgroup])?;
    ensure!(status != 0, "{said}");
    ensure!(said.contains("connect4"), "it names the hook: {said}");
    ensure!(
        said.contains("of somebody else"),
        "it says what is in the way: {said}"
    );
    let held = puppet.hold("control", Way::Tcp, to(&receiver))?;
    ensure!(held == "done", "nothing of ours is left there: {held}");
    wait_for("the control", || Ok(receiver.connection()?))?;
    Ok(())
}

/// The kernel ends it when it asks for more.
#[test]
fn a_worker_without_memory_is_replaced() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let attachment = Attachment::start(&world, &allowing(&receiver), ["--cgroup", &cgroup])?;
    is_served(&mut puppet, &receiver, "before")?;
    let first = worker(&attachment)?;
    let bound = needs!(Bound::find(&gateway(attachment.name())?)?);
    bound.none_left(u32::try_from(first.as_raw())?)?;
    until_killed(&mut puppet, &receiver, &bound)?;
    bound.lift()?;
    attachment.wait_for_record(&[("kind", "finding"), ("reason", "gateway_died")])?;
    ensure!(attachment.said()?.contains("another is started"));
    wait_for("another worker", || {
        Ok(worker(&attachment).ok().filter(|now| *now != first))
    })?;
    while receiver.connection()?.is_some() {}
    wait_for("it to be served again", || {
        puppet.hold("after", Way::Tcp, to(&receiver))?;
        Ok(receiver.connection()?)
    })
    .with_context(|| attachment.said().unwrap_or_default())?;
    is_shown(&world, attachment.name(), "serving")?;
    attachment.detach()
}

#[test]
fn a_supervisor_without_memory_leaves_the_agent_shut_in() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let target = ["--cgroup", &cgroup];
    let mut attachment = Attachment::start(&world, &allowing(&receiver), target)?;
    is_served(&mut puppet, &receiver, "before")?;
    let bound = needs!(Bound::find(&gateway(attachment.name())?)?);
    bound.none_left(attachment.pid())?;
    until_killed(&mut puppet, &receiver, &bound)?;
    let status = attachment.wait()?;
    ensure!(status == 128 + 9, "it was killed: {status}");
    bound.lift()?;
    while receiver.connection()?.is_some() {}
    for way in [Way::Tcp, Way::Udp] {
        let answer = puppet.once(way, to(&receiver))?;
        ensure!(answer != "answered", "{way:?}: {answer}");
    }
    ensure!(
        receiver.is_untouched(&world.node, to(&receiver).ip())?,
        "it got out without a gateway"
    );
    is_shown(&world, attachment.name(), "abandoned")?;

    let next = Attachment::start(&world, &allowing(&receiver), target)?;
    is_served(&mut puppet, &receiver, "after")?;
    is_shown(&world, next.name(), "serving")?;
    next.detach()
}

/// Gives the gateway work until the kernel has killed for want of memory; whatever arrives then
/// came by way of the gateway, as policy has it.
fn until_killed(puppet: &mut Puppet, receiver: &Receiver, bound: &Bound) -> Result<()> {
    let other = SocketAddr::new(IpAddr::V4(ORIGIN4), 9);
    let mut number = 0;
    wait_for("the kernel to kill for want of memory", || {
        number += 1;
        puppet.hold(&number.to_string(), Way::Tcp, to(receiver))?;
        let sent = puppet.once(Way::Udp, other)?;
        ensure!(sent == "EACCES", "a datagram: {sent}");
        Ok((bound.killed()? > 0).then_some(()))
    })
}
