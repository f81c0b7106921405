//! The gateway's worker: what it serves, what it cannot do even if it were taken over, and what
//! happens when it dies.

use std::{
    collections::HashMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sluice_tests::{
    agent::{Agent, Running, field, sluice},
    cgroup,
    deadline::wait_for,
    needs_root,
    netns::Netns,
    receiver::Receiver,
    skip::PYTHON,
    still,
    world::{ORIGIN4, World},
};

const CURL: &str = "/usr/bin/curl";
const EPERM: &str = "1";
const EACCES: &str = "13";

/// Answers so many HTTP requests, each on a connection of its own.
fn web(namespace: &Netns, times: usize) -> Result<(u16, JoinHandle<Result<()>>)> {
    let listener = namespace.run(|| TcpListener::bind((ORIGIN4, 0)))?;
    let port = listener.local_addr()?.port();
    let served = std::thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept()?;
            let mut head = [0; 4096];
            let _length = stream.read(&mut head)?;
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
            )?;
        }
        Ok(())
    });
    Ok((port, served))
}

fn policy(port: u16) -> String {
    format!(
        "schema = 1\nagent = \"served\"\n[[egress]]\nid = \"web\"\nhosts = [\"{ORIGIN4}\"]\n\
         ports = [{port}]\nprivate = true\n"
    )
}

/// The worker of a run: the one process in the gateway's cgroup beside `sluice` itself.
fn worker(running: &mut Running, not: Option<i32>) -> Result<i32> {
    let gateway = cgroup::mount_point()?
        .join("sluice")
        .join(running.name()?)
        .join("gateway/cgroup.procs");
    let own = i32::try_from(running.pid())?;
    wait_for("the worker", || {
        let text = fs::read_to_string(&gateway)?;
        let others = text.lines().filter_map(|line| line.parse().ok());
        let mut workers = others.filter(|pid| {
            // One that has just been started is not yet what it is to become.
            *pid != own
                && Some(*pid) != not
                && status(*pid, "Seccomp").is_ok_and(|mode| mode == "2")
        });
        Ok(workers.next())
    })
}

/// A field of `/proc/PID/status`.
fn status(pid: i32, name: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.context(name.to_owned())?.trim().to_owned())
}

#[test]
fn curl_is_served_refused_and_on_record() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let (port, served) = web(&world.origin, 1)?;
    let other = Receiver::listen(&world.origin, 0)?;
    let (allowed, denied) = (
        format!("http://{ORIGIN4}:{port}/a"),
        format!("http://{ORIGIN4}:{}/b", other.port()),
    );
    let finished = Agent::new(&world, &policy(port))?.run([
        CURL,
        "-sS",
        "-w",
        " %{http_code}\n",
        &allowed,
        &denied,
    ])?;
    ensure!(finished.out().starts_with("ok 200\n"), "{finished:?}");
    ensure!(finished.out().ends_with(" 403\n"), "{finished:?}");
    served.join().expect("it does not panic")?;
    ensure!(other.connection()?.is_none(), "it got through");
    let records = finished.records_with(&[("kind", "http")]);
    ensure!(records.len() == 2, "{finished:?}");
    for (record, (outcome, path)) in records.iter().zip([("allow", "/a"), ("deny", "/b")]) {
        ensure!(field(record, "outcome") == outcome, "{record:#}");
        ensure!(field(record, "path") == path, "{record:#}");
        ensure!(field(record, "agent") == "served", "{record:#}");
        ensure!(field(record, "process.exe") == CURL, "{record:#}");
    }
    ensure!(
        finished.records_with(&[("kind", "finding")]).is_empty(),
        "{finished:?}"
    );
    Ok(())
}

/// Tries, in a worker's locks or without them, what one that was taken over would.
fn tries(world: &World, receiver: &Receiver, options: &[&str]) -> Result<HashMap<String, String>> {
    let policy = world.file("tries.toml", &policy(receiver.port()))?;
    let file = world.file("tries.jsonl", "")?;
    // Were it only for its mode, it could be opened.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    let to = format!("{ORIGIN4}:{}", receiver.port());
    let output = world.node.run(|| {
        Command::new(sluice()?)
            .env_clear()
            .args(["worker", "--try", "--policy"])
            .arg(policy)
            .arg("--file")
            .arg(file)
            .args(["--receiver", &to, "--dial", &to])
            .args(["--dial", &format!("{ORIGIN4}:1"), "--dial", "10.1.1.1:80"])
            .args(["--dial", "169.254.169.254:80", "--dial", "127.0.0.1:80"])
            .args(options)
            .output()
            .map_err(anyhow::Error::from)
    })?;
    let text = String::from_utf8(output.stdout)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let tried: HashMap<_, _> = text
        .lines()
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(what, came)| (what.to_owned(), came.to_owned()))
        .collect();
    ensure!(
        tried.contains_key("execve") || !options.is_empty(),
        "{text}{said}"
    );
    ensure!(output.status.success(), "{text}{said}");
    Ok(tried)
}

#[test]
fn a_worker_that_was_taken_over_gets_nowhere() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let allowed = format!("dial {ORIGIN4}:{}", receiver.port());
    let locks = [
        "open",
        "append",
        "socket",
        "bpf",
        "ptrace",
        "io_uring",
        "fork",
        "unix",
        "datagrams",
        "spawn",
        "signal",
        "supervisor",
    ];

    // The control: without the locks all of it works, up to becoming another program.
    let free = tries(&world, &receiver, &["--unconfined"])?;
    for what in locks {
        ensure!(
            free.get(what).is_some_and(|it| it == "0"),
            "{what}: {free:?}"
        );
    }
    ensure!(!free.contains_key("execve"), "{free:?}");
    let mut arrived = 0;
    wait_for("the control's connections", || {
        while receiver.connection()?.is_some() {
            arrived += 1;
        }
        Ok((arrived == 2).then_some(()))
    })?;

    let held = tries(&world, &receiver, &[])?;
    for what in locks.into_iter().chain(["execve"]) {
        ensure!(
            held.get(what).is_some_and(|it| it == EPERM),
            "{what}: {held:?}"
        );
    }
    ensure!(
        held.get("victim").is_some_and(|it| it == "there"),
        "{held:?}"
    );
    // The one way out is what policy leaves open, with or without the locks.
    for tried in [&free, &held] {
        ensure!(tried.get(&allowed).is_some_and(|it| it == "0"), "{tried:?}");
        for refused in [
            &format!("dial {ORIGIN4}:1"),
            "dial 10.1.1.1:80",
            "dial 169.254.169.254:80",
            "dial 127.0.0.1:80",
            "NameServer",
            "Datagrams",
        ] {
            ensure!(
                tried.get(refused).is_some_and(|it| it == EACCES),
                "{refused}: {tried:?}"
            );
        }
    }
    // Of all that, the receiver saw what the dial path opened.
    ensure!(receiver.connection()?.is_some(), "the dial path's");
    ensure!(receiver.connection()?.is_none(), "one more than that");
    Ok(())
}

#[test]
fn a_live_worker_has_nothing() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let mut running = waiting(&world, &policy(80))?;
    running.wait_for_output("ready")?;
    let pid = worker(&mut running, None)?;
    let uids = status(pid, "Uid")?;
    let uids: Vec<_> = uids.split_whitespace().collect();
    ensure!(
        uids.len() == 4 && uids.iter().all(|uid| *uid != "0" && *uid == uids[0]),
        "{uids:?}"
    );
    ensure!(status(pid, "Groups")?.is_empty());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(status(pid, set)? == "0000000000000000", "{set}");
    }
    ensure!(status(pid, "NoNewPrivs")? == "1");
    ensure!(status(pid, "Seccomp")? == "2");
    // Of the agent's processes none has this id.
    let agent = fs::read_to_string(running.cgroup()?.join("cgroup.procs"))?;
    for one in agent.lines() {
        let theirs = status(one.parse()?, "Uid")?;
        ensure!(!theirs.contains(uids[0]), "{theirs}");
    }
    let mut sockets = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let target = fs::read_link(entry?.path())?;
        let target = target.to_string_lossy();
        let known = [
            "socket:[",
            "pipe:[",
            "anon_inode:[eventpoll]",
            "anon_inode:[eventfd]",
        ];
        sockets += usize::from(target.starts_with("socket:["));
        ensure!(
            known.iter().any(|it| target.starts_with(it)) || target == "/dev/null",
            "{target}"
        );
    }
    // The control line, three lines, and a TCP and a UDP socket at least.
    ensure!(sockets >= 6, "{sockets} sockets");
    running.finish()?;
    Ok(())
}

/// An agent that asks for the address once for each line of standard input.
const ASK: &str = r"
import sys, urllib.request
print('ready', flush=True)
for number, line in enumerate(sys.stdin):
    try:
        with urllib.request.urlopen(line.strip(), timeout=5) as answer:
            print('got', number, answer.status, flush=True)
    except OSError as error:
        print('failed', number, error, flush=True)
";

fn waiting(world: &World, policy: &str) -> Result<Running> {
    Agent::new(world, policy)?
        .prepare(|command| {
            command.stdin(Stdio::piped());
        })
        .spawn([PYTHON, "-c", ASK])
}

fn deaths(running: &Running) -> Result<usize> {
    let records = running.records()?;
    let of_it = |it: &&serde_json::Value| {
        field(it, "kind") == "finding" && field(it, "reason") == "gateway_died"
    };
    Ok(records.iter().filter(of_it).count())
}

#[test]
fn a_worker_that_dies_is_on_record_and_replaced_three_times() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let (port, served) = web(&world.origin, 2)?;
    let url = format!("http://{ORIGIN4}:{port}/");
    let mut running = waiting(&world, &policy(port))?;
    running.wait_for_output("ready")?;
    let first = worker(&mut running, None)?;
    running.say(&url)?;
    running.wait_for_output("got 0 200")?;

    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    wait_for("the record of its death", || {
        Ok((deaths(&running)? == 1).then_some(()))
    })?;
    let mut current = worker(&mut running, Some(first))?;
    // The same listeners: what was tried meanwhile waited there.
    running.say(&url)?;
    running.wait_for_output("got 1 200")?;
    served.join().expect("it does not panic")?;

    for death in 2..=4 {
        kill(Pid::from_raw(current), Signal::SIGKILL)?;
        wait_for("the record of its death", || {
            Ok((deaths(&running)? == death).then_some(()))
        })?;
        if death < 4 {
            current = worker(&mut running, Some(current))?;
        }
    }
    let finished = running.finish()?;
    ensure!(finished.status == 125, "{finished:?}");
    ensure!(
        finished.err().contains("worker died too often"),
        "{finished:?}"
    );
    Ok(())
}

#[test]
fn while_there_is_no_worker_nothing_gets_out() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let url = format!("http://{ORIGIN4}:{}/", receiver.port());
    let mut running = waiting(&world, &policy(receiver.port()))?;
    running.wait_for_output("ready")?;
    let first = worker(&mut running, None)?;
    // The control: it gets there while there is one.
    running.say(&url)?;
    let (upstream, _) = wait_for("the control", || Ok(receiver.connection()?))?;

    // It stands still, so nobody starts another. The agent's request waits in vain.
    still::stop(Pid::from_raw(first))?;
    drop(upstream);
    running.wait_for_output("failed 0")?;
    running.say(&url)?;
    running.wait_for_output("failed 1")?;
    ensure!(receiver.connection()?.is_none(), "it got out");
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    wait_for("the record of its death", || {
        Ok((deaths(&running)? == 1).then_some(()))
    })?;
    running.finish()?;
    Ok(())
}

#[test]
fn a_worker_dies_with_its_supervisor() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let mut running = waiting(&world, &policy(80))?;
    running.wait_for_output("ready")?;
    let pid = worker(&mut running, None)?;
    running.kill_sluice()?;
    wait_for("the worker's end", || {
        let state = status(pid, "State");
        Ok(state
            .map_or(true, |state| state.starts_with('Z'))
            .then_some(()))
    })
}
