//! How a run begins and ends: the contract of its exit status and output, what is left of it,
//! and that an agent whose gateway is gone stays shut in.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use gateway_userspace::kernel::NSCD;
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, Finished, field, pins, sluice, sweep},
    cgroup::{self, processes},
    deadline::wait_for,
    needs, needs_root,
    probe::{Kind, Probe},
    receiver::{LOOPBACK, Receiver},
    skip,
    world::{ORIGIN4, ORIGIN6, World},
};

const NOTHING: &str = "schema = 1\nagent = \"test-agent\"\n";

const ORIGIN: [IpAddr; 2] = [IpAddr::V4(ORIGIN4), IpAddr::V6(ORIGIN6)];

/// Runs a command under a policy that allows nothing.
fn run<const N: usize>(world: &World, command: [&str; N]) -> Result<Finished> {
    Agent::new(world, NOTHING)?.run(command)
}

#[test]
fn killing_sluice_leaves_the_agent_shut_in() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let port = receiver.port();
    let policy = format!(
        "{NOTHING}[[egress]]\nid = \"raw\"\ntcp = [\"{ORIGIN4}:{port}\"]\nprivate = true\n"
    );
    let mut probe = Probe::start(Agent::new(&world, &policy)?)?;
    let name = probe.running.name()?;
    let agent_cgroup = probe.running.cgroup()?;
    probe.running.kill_sluice()?;

    let thief = Receiver::listen(&world.node, probe.gateway())?;
    sweep(&world)?;
    ensure!(pins(&name).is_some(), "another run took the pins away");
    for address in ORIGIN {
        let to = SocketAddr::new(address, port);
        ensure!(probe.ask(Kind::Tcp, to)? == "ENETDOWN", "TCP to {to}");
        let sent = probe.ask(Kind::Udp, to)?;
        ensure!(
            ["EACCES", "ENETDOWN"].contains(&&*sent),
            "UDP to {to}: {sent}"
        );
        ensure!(
            receiver.is_untouched(&world.node, address)?,
            "{to} was reached"
        );
    }
    for address in LOOPBACK {
        let to = SocketAddr::new(address, thief.port());
        ensure!(probe.ask(Kind::Tcp, to)? == "ENETDOWN", "TCP to the thief");
        ensure!(probe.ask(Kind::Udp, to)? != "sent", "UDP to the thief");
        ensure!(
            thief.is_untouched(&world.node, address)?,
            "the thief got something"
        );
    }

    // Once the agent is gone, the next run clears away what is left.
    drop(probe);
    wait_for("the agent to end", || {
        Ok(cgroup::is_empty(&agent_cgroup)?.then_some(()))
    })?;
    sweep(&world)?;
    nothing_is_left(&name)
}

/// No call names a destination any more once a datagram socket is connected, or a SYN was put
/// off: only the packets tell where they go, and the port may be somebody else's by then.
#[test]
fn sockets_that_were_connected_to_the_gateway_do_not_reach_a_thief() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let resolver = SocketAddr::from((ORIGIN4, 53));
    // The caller is told of a datagram that is dropped, and of a SYN is not.
    for (kind, told) in [(Kind::Associate, "EPERM"), (Kind::Defer, "sent")] {
        let mut probe = Probe::start(Agent::new(&world, NOTHING)?)?;
        let agent_cgroup = probe.running.cgroup()?;
        let gateway = LOOPBACK.map(|address| SocketAddr::new(address, probe.gateway()));
        let all = [resolver, gateway[0], gateway[1]];
        for to in all {
            ensure!(probe.ask(kind, to)? == "associated", "{kind:?} {to}");
        }
        probe.running.kill_sluice()?;
        let thief = Receiver::listen(&world.node, probe.gateway())?;
        for to in all {
            let sent = probe.ask(Kind::Send, to)?;
            ensure!(sent == told, "{kind:?} {to}: {sent}");
        }
        for address in LOOPBACK {
            ensure!(
                thief.is_untouched(&world.node, address)?,
                "{kind:?}: the thief got something"
            );
        }
        drop(probe);
        wait_for("the agent to end", || {
            Ok(cgroup::is_empty(&agent_cgroup)?.then_some(()))
        })?;
    }
    sweep(&world)
}

/// Regression: a run that started meanwhile took the scratch cgroups of `doctor` for those of a
/// run that had been killed, and removed them under its feet.
#[test]
fn doctor_is_not_disturbed_by_runs_that_start_meanwhile() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let runs = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                sweep(&world)?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let doctor = world.node.run(|| {
            let mut command = Command::new(sluice()?);
            Ok::<_, anyhow::Error>(command.arg("doctor").output()?)
        });
        ended.store(true, Ordering::Relaxed);
        runs.join().expect("the runs do not panic")?;
        let doctor = doctor?;
        let said = String::from_utf8_lossy(&doctor.stdout);
        ensure!(doctor.status.success(), "{said}");
        Ok(())
    })
}

#[test]
fn before_it_is_killed_the_same_agent_gets_out() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let port = receiver.port();
    let policy = format!(
        "{NOTHING}[[egress]]\nid = \"raw\"\ntcp = [\"{ORIGIN4}:{port}\"]\nprivate = true\n"
    );
    const CONNECT: &str = "import socket, sys\n\
        one = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)\n\
        one.sendall(b'x')\n\
        print(one.recv(1))";
    let port = port.to_string();
    let origin = ORIGIN4.to_string();
    let running =
        Agent::new(&world, &policy)?.spawn([skip::PYTHON, "-c", CONNECT, &origin, &port])?;
    let (connection, _) = wait_for("the agent's connection", || Ok(receiver.connection()?))?;
    drop(connection);
    running.finish()?;
    Ok(())
}

/// `doctor` computes the level as a run does; a policy that opens something reaches another.
#[test]
fn doctor_tells_the_level_that_a_run_reaches() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let output = world.node.run(|| {
        Ok::<_, anyhow::Error>(
            Command::new(sluice()?)
                .args(["doctor", "--json"])
                .output()?,
        )
    })?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let level = |policy: &str| {
        let finished = Agent::new(&world, policy)?.run(["true"])?;
        let record = finished.records.first().context("a session record")?;
        Ok::<_, anyhow::Error>(field(record, "assurance"))
    };
    let told = field(&report, "assurance");
    ensure!(told == level(NOTHING)?, "{report:#}");
    let opened = format!("{NOTHING}[process]\nptrace = true\n");
    ensure!(told != level(&opened)?, "{report:#}");
    let open = report.get("open").and_then(Value::as_array);
    ensure!(
        open.is_some_and(Vec::is_empty) == (told == "sealed"),
        "{report:#}"
    );
    Ok(())
}

/// Regression: a tree that is deeper than one process has descriptors stayed in the scratch folder,
/// and every later run complained of it.
#[test]
fn a_home_too_deep_to_be_removed_goes_with_the_run() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    const DEEP: &str = "
import os, pathlib
os.chdir(os.environ['HOME'])
for _ in range(5000):
    os.mkdir('d')
    os.chdir('d')
pathlib.Path('bottom').touch()
print(os.environ['HOME'])
";
    let finished = run(&world, [skip::PYTHON, "-c", DEEP])?;
    ensure!(finished.status == 0, "{finished:?}");
    nothing_is_left(run_of(finished.out().trim())?)
}

#[test]
fn a_home_has_a_limit_and_stays_in_the_run() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    const FILL: &str = "
import errno, os
os.chdir(os.environ['HOME'])
about = os.statvfs('.')
made = 0
try:
    while made <= about.f_files:
        os.mknod(str(made))
        made += 1
except OSError as error:
    used = about.f_files - about.f_ffree
    print(os.environ['HOME'], made, used, about.f_files, errno.errorcode[error.errno])
";
    let finished = run(&world, [skip::PYTHON, "-c", FILL])?;
    let said = finished.out();
    let said: Vec<_> = said.split_whitespace().collect();
    let [home, made, before, limit, error] = said[..] else {
        bail!("it made more than the limit: {finished:?}");
    };
    ensure!(error == "ENOSPC", "{finished:?}");
    ensure!(limit == "204800", "{finished:?}");
    let [made, before, limit] = [made.parse::<u64>()?, before.parse()?, limit.parse()?];
    ensure!(made + before == limit, "{finished:?}");
    nothing_is_left(run_of(home)?)
}

/// The run whose home this is.
fn run_of(home: &str) -> Result<&str> {
    let below = home.strip_prefix("/run/sluice/");
    let run = below.and_then(|below| below.strip_suffix("/home"));
    run.with_context(|| format!("no home of a run's own: {home:?}"))
}

/// Neither cgroups nor pins nor a scratch folder of this run.
fn nothing_is_left(name: &str) -> Result<()> {
    let cgroup = cgroup::mount_point()?.join("sluice").join(name);
    ensure!(!cgroup.exists(), "{} is left", cgroup.display());
    ensure!(pins(name).is_none(), "pins of {name} are left");
    let scratch = Path::new("/run/sluice").join(name);
    ensure!(!scratch.exists(), "{} is left", scratch.display());
    Ok(())
}

#[test]
fn what_the_command_leaves_behind_ends_with_it() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    const COMMAND: &str = "setsid tail -f /dev/null & echo $!; read line";
    let agent = Agent::new(&world, NOTHING)?.prepare(|command| {
        command.stdin(std::process::Stdio::piped());
    });
    let mut running = agent.spawn(["sh", "-c", COMMAND])?;
    let child: u32 = running.wait_for_output("\n")?.trim().parse()?;
    let name = running.name()?;
    let members = processes(&running.cgroup()?)?;
    let child = members.get(&child).context("it is inside")?;
    let child = child.to_string();
    let finished = running.finish()?;
    ensure!(finished.status == 1, "read fails at the end: {finished:?}");
    let process = Path::new("/proc").join(&child);
    wait_for("the child to end", || {
        // Dead, and not yet reaped by whoever inherited it.
        let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
        Ok((!process.exists() || state.contains(") Z ")).then_some(()))
    })?;
    nothing_is_left(&name)
}

#[test]
fn the_exit_status_is_the_commands() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let table = [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 128 + 9),
        ("kill -TERM $$", 128 + 15),
    ];
    for (command, status) in table {
        let finished = run(&world, ["sh", "-c", command])?;
        ensure!(finished.status == status, "{command}: {finished:?}");
    }
    Ok(())
}

#[test]
fn a_command_that_cannot_be_run_has_the_status_of_a_shell() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let file = world.file("not-executable", "#!/bin/sh\nexit 0\n")?;
    let file = file.display().to_string();
    for (command, status) in [
        ("/nowhere/command", 127),
        ("no-such-command-anywhere", 127),
        (file.as_str(), 126),
    ] {
        let finished = run(&world, [command])?;
        ensure!(finished.status == status, "{command}: {finished:?}");
        let reason = format!("sluice: error: cannot run {command}: ");
        ensure!(finished.err().contains(&reason), "{finished:?}");
    }
    Ok(())
}

#[test]
fn when_sluice_fails_nothing_is_run() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let missing = world.scratch().join("missing.toml").display().to_string();
    let table = [
        (
            "no such policy",
            Agent::without_policy(&world)?.options(["--policy", &missing]),
        ),
        ("no policy", Agent::new(&world, "this is not a policy")?),
        (
            "unknown key",
            Agent::new(&world, &format!("{NOTHING}surprise = 1\n"))?,
        ),
        (
            "too weak",
            Agent::new(
                &world,
                &format!("{NOTHING}assurance = \"sealed\"\n[process]\nptrace = true\n"),
            )?,
        ),
        (
            "unknown user",
            Agent::new(&world, NOTHING)?.options(["--user", "no-such-user"]),
        ),
        (
            "bad agent name",
            Agent::new(&world, NOTHING)?.options(["--agent", "NOT A NAME"]),
        ),
        (
            "socket as input",
            Agent::new(&world, NOTHING)?.prepare(|command| {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                command.stdin(OwnedFd::from(socket));
            }),
        ),
    ];
    for (label, agent) in table {
        let finished = agent.run(["echo", "ran"])?;
        ensure!(finished.status == 125, "{label}: {finished:?}");
        ensure!(finished.stdout.is_empty(), "{label}: {finished:?}");
        ensure!(
            finished.err().contains("sluice: error: "),
            "{label}: {finished:?}"
        );
        ensure!(
            finished
                .err()
                .lines()
                .all(|line| line.starts_with("sluice: ")),
            "{label}: {finished:?}"
        );
    }
    Ok(())
}

#[test]
fn output_is_the_commands_own() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    const COMMAND: &str = r"printf 'a\377\000b\r\n\033[1m'; printf 'one\377\ntwo\n' >&2";
    let finished = run(&world, ["sh", "-c", COMMAND])?;
    ensure!(finished.status == 0, "{finished:?}");
    ensure!(finished.stdout == b"a\xff\x00b\r\n\x1b[1m", "{finished:?}");
    let own: Vec<u8> = finished
        .stderr
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"sluice: "))
        .flatten()
        .copied()
        .collect();
    ensure!(own == b"one\xff\ntwo\n", "{finished:?}");
    ensure!(
        finished
            .err()
            .starts_with("sluice: agent test-agent under policy sha256:")
    );
    Ok(())
}

#[test]
fn standard_input_is_the_commands() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let input = world.file("input", "from standard input\n")?;
    let finished = Agent::new(&world, NOTHING)?
        .prepare(|command| {
            command.stdin(fs::File::open(input).expect("it was written"));
        })
        .run(["cat"])?;
    ensure!(finished.stdout == b"from standard input\n", "{finished:?}");
    Ok(())
}

#[test]
fn the_agent_is_nobody_and_has_nothing() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let finished = run(&world, ["cat", "/proc/self/status"])?;
    let status = finished.out();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).context("a line of the status")
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        ensure!(value(set)? == "0000000000000000", "{status}");
    }
    ensure!(value("NoNewPrivs:")? == "1", "{status}");
    ensure!(
        !value("Uid:")?.split_whitespace().any(|id| id == "0"),
        "{status}"
    );
    ensure!(
        !value("Gid:")?.split_whitespace().any(|id| id == "0"),
        "{status}"
    );
    ensure!(value("Groups:")? == value("Gid:")?.split_whitespace().next().unwrap_or_default());
    Ok(())
}

#[test]
fn the_coding_profile_refuses_a_host_with_one_record() -> Result<()> {
    needs_root!();
    let curl = needs!(skip::program("curl"));
    let world = World::new()?;
    let profile = include_str!("../../policies/coding-agent.toml");
    let curl = curl.display().to_string();
    let finished = Agent::new(&world, profile)?.run([&curl, "-sS", "https://example.com/"])?;
    ensure!(finished.status != 0, "{finished:?}");
    ensure!(finished.stdout.is_empty(), "{finished:?}");
    ensure!(finished.err().contains("curl: "), "{finished:?}");
    let refused: Vec<_> = finished
        .records
        .iter()
        .filter(|record| field(record, "outcome") == "deny" && field(record, "path") != NSCD)
        .collect();
    ensure!(refused.len() == 1, "{finished:?}");
    for record in refused {
        for (name, expected) in [
            ("outcome", "deny"),
            ("kind", "connect"),
            ("host", "example.com"),
            ("port", "443"),
            ("reason", "no_rule"),
            ("agent", "coding-agent"),
            ("process.comm", "curl"),
            ("source", "both"),
        ] {
            ensure!(field(record, name) == expected, "{name}: {record:#}");
        }
    }
    // What a person reads, without the audit log.
    let reason = finished.err();
    let mut told = reason.lines().filter(|line| line.starts_with("sluice: "));
    ensure!(
        told.any(|line| line.contains("example.com")),
        "{finished:?}"
    );
    Ok(())
}

#[test]
fn files_of_a_run_are_private() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let mut probe = Probe::start(Agent::new(&world, NOTHING)?)?;
    let name = probe.running.name()?;
    let folder = pins(&name).context("the run has pins")?;
    ensure!(fs::metadata(&folder)?.permissions().mode() & 0o777 == 0o700);
    let finished = probe.running.finish()?;
    ensure!(finished.status == 0, "{finished:?}");
    nothing_is_left(&name)
}
