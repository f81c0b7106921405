//! What already runs is confined by `sluice attach`: from then on nothing of it arrives, sockets
//! that it had are closed, and nobody is free before `sluice detach`.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::signal::Signal, unistd::Pid};
use sluice_tests::{
    agent::{field, pins, random, sweep},
    attachment::{Attachment, agents, call, refused},
    cgroup::{self, Group},
    deadline::{patience, wait_for},
    needs_root,
    puppet::{Puppet, Way},
    receiver::Receiver,
    still,
    world::{ORIGIN4, ORIGIN6, World},
};

const NOTHING: &str = "schema = 1\nagent = \"attached\"\n";
const ORIGIN: [IpAddr; 2] = [IpAddr::V4(ORIGIN4), IpAddr::V6(ORIGIN6)];

/// The control: a TCP connection of its own and a datagram arrive, each with their byte.
fn gets_out(puppet: &mut Puppet, receiver: &Receiver) -> Result<()> {
    for address in ORIGIN {
        let to = SocketAddr::new(address, receiver.port());
        let held = puppet.hold("control", Way::Tcp, to)?;
        ensure!(held == "done", "TCP to {to}: {held}");
        let mut stream = arrived(receiver)?;
        ensure!(further(&mut stream)? == b"x", "TCP to {to}: another byte");
        let sent = puppet.once(Way::Udp, to)?;
        ensure!(sent == "done", "UDP to {to}: {sent}");
        let (bytes, _) = wait_for("a datagram", || Ok(receiver.datagram()?))?;
        ensure!(bytes == b"x", "UDP to {to}: {bytes:?}");
    }
    Ok(())
}

/// Nothing of the sort arrives, and the caller is told.
fn is_shut_in(
    world: &World,
    puppet: &mut Puppet,
    receiver: &Receiver,
    told: [&[&str]; 2],
) -> Result<()> {
    for address in ORIGIN {
        let to = SocketAddr::new(address, receiver.port());
        for (way, told) in [Way::Tcp, Way::Udp].into_iter().zip(told) {
            let answer = puppet.once(way, to)?;
            ensure!(told.contains(&&*answer), "{way:?} to {to}: {answer}");
        }
        ensure!(
            receiver.is_untouched(&world.node, address)?,
            "{to} was reached"
        );
    }
    Ok(())
}

/// The same once nobody serves any more.
const ABANDONED: [&[&str]; 2] = [&["ENETDOWN"], &["EACCES", "ENETDOWN"]];

/// What a caller is told while the gateway serves, over TCP and UDP.
const SERVED: [&[&str]; 2] = [&["ECONNRESET"], &["EACCES"]];

/// The next connection, once its first byte is there.
fn arrived(receiver: &Receiver) -> Result<TcpStream> {
    let (stream, _) = wait_for("a connection", || Ok(receiver.connection()?))?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(patience()))?;
    stream.peek(&mut [0]).context("its first byte")?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// All bytes that have arrived and were not read.
fn further(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // Nothing more so far, or never again.
        Err(error)
            if [ErrorKind::WouldBlock, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
        result => drop(result?),
    }
    Ok(bytes)
}

#[test]
fn one_that_ran_is_shut_in_with_those_below_it() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let below = group.below("below")?;
    let mut one = Puppet::start_in(&world, group.path())?;
    let mut two = Puppet::start_in(&world, below.path())?;
    for puppet in [&mut one, &mut two] {
        gets_out(puppet, &receiver)?;
    }

    let attachment = Attachment::start(&world, NOTHING, ["--pid", &one.pid().to_string()])?;
    for puppet in [&mut one, &mut two] {
        is_shut_in(&world, puppet, &receiver, SERVED)?;
        let pid = puppet.pid().to_string();
        for (kind, reason) in [("tcp", "no_rule"), ("direct", "datagram")] {
            for address in ORIGIN {
                let to = SocketAddr::new(address, receiver.port()).to_string();
                let expected = [
                    ("kind", kind),
                    ("outcome", "deny"),
                    ("reason", reason),
                    ("agent", "attached"),
                    ("assurance", "partial"),
                    ("original_destination", &to),
                    ("process.pid", &pid),
                ];
                attachment.wait_for_record(&expected)?;
            }
        }
    }
    attachment.detach()?;
    for puppet in [&mut one, &mut two] {
        gets_out(puppet, &receiver)?;
    }
    Ok(())
}

/// Sockets from before: two made inside, two made elsewhere and brought along, which no program on
/// the agent's cgroup ever sees.
#[test]
fn sockets_that_were_open_before_are_closed() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    for address in ORIGIN {
        let to = SocketAddr::new(address, receiver.port());
        let mut native = Puppet::start_in(&world, group.path())?;
        let mut stranger = Puppet::start(&world)?;
        let mut streams = Vec::new();
        for puppet in [&mut native, &mut stranger] {
            ensure!(puppet.hold("tcp", Way::Tcp, to)? == "done");
            let mut stream = arrived(&receiver)?;
            ensure!(further(&mut stream)? == b"x");
            ensure!(puppet.hold("udp", Way::Udp, to)? == "done");
            wait_for("a datagram", || Ok(receiver.datagram()?))?;
            streams.push(stream);
        }
        stranger.enter(group.path())?;
        // The control: all four still work, wherever they were made.
        for (puppet, stream) in [&mut native, &mut stranger].into_iter().zip(&mut streams) {
            ensure!(puppet.send("tcp")? == "done");
            let bytes = wait_for("the bytes", || {
                Ok(Some(further(stream)?).filter(|bytes| !bytes.is_empty()))
            })?;
            ensure!(bytes == b"further");
            ensure!(puppet.send("udp")? == "done");
            wait_for("a datagram", || Ok(receiver.datagram()?))?;
        }

        let attachment = Attachment::start(
            &world,
            NOTHING,
            ["--cgroup".as_ref(), group.path().as_os_str()],
        )?;
        let said = wait_for("what is open", || {
            let said = attachment.said()?;
            let last = "2 TCP or UDP sockets were made outside its cgroup";
            Ok(said.contains(last).then_some(said))
        })
        .with_context(|| attachment.said().unwrap_or_default())?;
        ensure!(said.contains("4 sockets closed"), "{said}");
        for (puppet, stream) in [&mut native, &mut stranger].into_iter().zip(&mut streams) {
            // Nor at the second try, once the error was told.
            for (socket, told) in [
                ("tcp", "ECONNABORTED"),
                ("tcp", "EPIPE"),
                ("udp", "EDESTADDRREQ"),
                ("udp", "EDESTADDRREQ"),
            ] {
                let sent = puppet.send(socket)?;
                ensure!(sent == told, "{socket} to {to}: {sent}");
            }
            ensure!(
                receiver.is_untouched(&world.node, address)?,
                "{to} was reached"
            );
            let bytes = further(stream)?;
            ensure!(bytes.is_empty(), "{to} got {bytes:?} on the old connection");
        }
        // A descriptor that was left can be connected again. One made inside leads nowhere then;
        // one brought along does, which is why it is told of.
        for socket in ["tcp", "udp"] {
            native.again(socket, to)?;
        }
        ensure!(
            receiver.is_untouched(&world.node, address)?,
            "{to} was reached"
        );
        ensure!(stranger.again("tcp", to)? == "done");
        wait_for("what was brought along", || Ok(receiver.connection()?))?;
    }
    Ok(())
}

/// Whether there is such a record of the session, with its level and what it is about.
fn session_is_recorded(
    attachment: &Attachment<'_>,
    group: &Group,
    reason: &str,
    written: bool,
) -> Result<()> {
    let records = attachment.records()?;
    let found: Vec<_> = records
        .iter()
        .filter(|record| field(record, "reason") == reason)
        .collect();
    ensure!(
        found.len() == usize::from(written),
        "{reason}: {records:#?}"
    );
    let events: BTreeSet<_> = records
        .iter()
        .filter(|record| field(record, "kind") == "session")
        .map(|record| field(record, "event"))
        .collect();
    ensure!(events.len() == 1, "one session: {records:#?}");
    for record in found {
        let cgroup = field(record, "session.cgroup");
        ensure!(
            group.path().ends_with(cgroup.trim_start_matches('/')),
            "{record:#}"
        );
        for (name, expected) in [
            ("kind", "session"),
            ("agent", "attached"),
            ("assurance", "partial"),
            ("session.run", attachment.name()),
            ("session.uid", "null"),
            ("session.command", ""),
        ] {
            ensure!(field(record, name) == expected, "{name}: {record:#}");
        }
        let session = record.get("session").context("its facts")?;
        for (list, item) in [
            ("controls", "cgroup_programs"),
            ("open", "processes hold CAP_"),
        ] {
            let list = session.get(list).map(ToString::to_string);
            ensure!(list.is_some_and(|list| list.contains(item)), "{record:#}");
        }
    }
    Ok(())
}

/// Whatever becomes of the process that serves, only `sluice detach` frees.
#[test]
fn when_it_is_stopped_or_killed_nobody_is_free() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    for (signal, status) in [(Signal::SIGTERM, 0), (Signal::SIGKILL, 128 + 9)] {
        let group = Group::new()?;
        let mut puppet = Puppet::start_in(&world, group.path())?;
        gets_out(&mut puppet, &receiver)?;
        let pid = puppet.pid().to_string();
        let mut attachment = Attachment::start(&world, NOTHING, ["--pid", &pid])?;
        let ended = attachment.end_by(signal)?;
        ensure!(ended == status, "{signal}: status {ended}");
        is_shut_in(&world, &mut puppet, &receiver, ABANDONED)?;
        let expected = [
            ("session_started", true),
            ("session_ended", signal == Signal::SIGTERM),
        ];
        for (reason, written) in expected {
            session_is_recorded(&attachment, &group, reason, written)?;
        }

        // Others that come and clear away let it be.
        sweep(&world)?;
        let doctor = call(&world, ["doctor"])?;
        let said = String::from_utf8_lossy(&doctor.stdout);
        ensure!(doctor.status.success(), "{said}");
        ensure!(pins(attachment.name()).is_some(), "the pins were removed");
        is_shut_in(&world, &mut puppet, &receiver, ABANDONED)?;

        let name = attachment.name().to_owned();
        attachment.detach()?;
        ensure!(pins(&name).is_none(), "pins are left");
        gets_out(&mut puppet, &receiver)?;
    }
    Ok(())
}

#[test]
fn containers_units_and_cgroups_are_found_by_their_names() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let own = random()?;
    // What the container runtimes and systemd call their cgroups; the kernel knows no other names.
    let id = own.repeat(4);
    let unit = format!("sluice-test-{own}.service");
    let path = group.path().display().to_string();
    let within = path
        .trim_start_matches(&cgroup::mount_point()?.display().to_string())
        .to_owned();
    for (made, target) in [
        (format!("docker-{id}.scope"), ["--container", &id[..20]]),
        (unit.clone(), ["--unit", unit.trim_end_matches(".service")]),
        ("plain".to_owned(), ["--cgroup", &format!("{path}/plain")]),
        (
            "within".to_owned(),
            ["--cgroup", &format!("{within}/within")],
        ),
    ] {
        let below = group.below(&made)?;
        let mut puppet = Puppet::start_in(&world, below.path())?;
        gets_out(&mut puppet, &receiver)?;
        let attachment = Attachment::start(&world, NOTHING, target)?;
        is_shut_in(&world, &mut puppet, &receiver, SERVED)?;
        let listed = attachment.listed()?.context("it is listed")?;
        ensure!(field(&listed, "cgroup") == below.path().display().to_string());
    }
    Ok(())
}

/// Each is refused with a word on why, and whoever would have been confined is not.
#[test]
fn what_would_confine_too_much_or_nothing_is_refused() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let group = Group::new()?;
    let below = group.below("below")?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let mut inner = Puppet::start_in(&world, below.path())?;
    let own = group.path().display().to_string();
    let inner_pid = inner.pid().to_string();
    let pid = puppet.pid().to_string();
    let mount = cgroup::mount_point()?.display().to_string();
    let twin = random()?;
    let twins = [
        group.below(&format!("{twin}.service"))?,
        below.below(&format!("{twin}.service"))?,
    ];
    let root = "holds every process of this host";
    let itself = "holds this very process";
    let table: [(&str, [&str; 2], &str); 11] = [
        ("the root", ["--cgroup", "/"], root),
        ("the mount", ["--cgroup", &mount], root),
        ("the first process", ["--pid", "1"], " process of this host"),
        ("the own cgroup", ["--cgroup", &own], itself),
        ("one beside it", ["--pid", &pid], itself),
        (
            "no process",
            ["--pid", "4194305"],
            "there is no process 4194305",
        ),
        ("no cgroup", ["--cgroup", "/no/such"], "is no cgroup below"),
        (
            "a folder elsewhere",
            ["--cgroup", "../../../../tmp"],
            "is no cgroup below",
        ),
        (
            "no container",
            ["--container", "0123456789abcdef"],
            "no cgroup belongs to container",
        ),
        ("no id", ["--container", "web"], "is no container id"),
        (
            "two units",
            ["--unit", &twin],
            "name one of them with --cgroup",
        ),
    ];
    for (label, target, told) in table {
        let (pid, status, said) = refused(&world, Some(group.path()), target)?;
        ensure!(
            status != 0 && said.contains(told),
            "{label}: {status}: {said}"
        );
        ensure!(said.starts_with("sluice: error: "), "{label}: {said}");
        let listed = agents(&world)?;
        let mut pids = listed.iter().map(|session| field(session, "pid"));
        ensure!(
            !pids.any(|served| served == pid.to_string()),
            "{label}: {listed:#?}"
        );
    }
    drop(twins);
    // Too weak for its policy, and nowhere to record it: whoever runs there is left alone.
    let sealed = world.file(
        "sealed.toml",
        &format!("{NOTHING}assurance = \"confined\"\n"),
    )?;
    let plain = world.file("plain.toml", NOTHING)?;
    for (policy, audit, told) in [
        (sealed, "-", "the policy asks for assurance `confined`"),
        (plain, "/proc/nowhere/audit.jsonl", "opening the audit log"),
    ] {
        let policy = policy.display().to_string();
        let output = call(
            &world,
            [
                "attach", "--pid", &inner_pid, "--policy", &policy, "--audit", audit,
            ],
        )?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(told), "{said}");
        let listed = agents(&world)?;
        let mut cgroups = listed.iter().map(|session| field(session, "cgroup"));
        ensure!(
            !cgroups.any(|cgroup| cgroup.starts_with(&own)),
            "{listed:#?}"
        );
    }
    for puppet in [&mut puppet, &mut inner] {
        gets_out(puppet, &receiver)?;
    }

    // The nearest that is not refused: a cgroup below the own one.
    let attachment = Attachment::start(&world, NOTHING, ["--pid", &inner_pid])?;
    is_shut_in(&world, &mut inner, &receiver, SERVED)?;
    gets_out(&mut puppet, &receiver)?;

    // And one that is confined already is, by whom it says.
    let (_, status, said) = refused(&world, None, ["--pid", &inner_pid])?;
    let told = format!("is confined already, by {}", attachment.name());
    ensure!(status != 0 && said.contains(&told), "{status}: {said}");
    Ok(())
}

/// What `sluice agents` says of it: its state for scripts, and a line for people.
fn state(world: &World, attachment: &Attachment<'_>) -> Result<(String, String)> {
    let listed = attachment.listed()?.context("it is not listed")?;
    let output = call(world, ["agents"])?;
    let text = String::from_utf8(output.stdout)?;
    let line = text
        .lines()
        .find(|line| line.starts_with(attachment.name()));
    Ok((
        field(&listed, "health"),
        line.context("its line")?.to_owned(),
    ))
}

#[test]
fn agents_are_listed_with_their_level_and_state() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let group = Group::new()?;
    let puppet = Puppet::start_in(&world, group.path())?;
    let pid = puppet.pid().to_string();
    let mut attachment = Attachment::start(&world, NOTHING, ["--pid", &pid])?;
    let path = group.path().display().to_string();
    let listed = attachment.listed()?.context("it is listed")?;
    for (name, expected) in [
        ("health", "serving"),
        ("origin", "attach"),
        ("agent", "attached"),
        ("assurance", "partial"),
        ("cgroup", &path),
        ("pid", &attachment.pid().to_string()),
        ("port", &attachment.port()?.to_string()),
    ] {
        ensure!(field(&listed, name) == expected, "{name}: {listed:#}");
    }
    ensure!(
        field(&listed, "open").contains("processes hold CAP_"),
        "{listed:#}"
    );

    // One that stands still, and has for an hour.
    still::stop(Pid::from_raw(i32::try_from(attachment.pid())?))?;
    let file = Path::new("/run/sluice")
        .join(attachment.name())
        .join("session.json");
    let file = fs::File::options().write(true).open(file)?;
    file.set_modified(SystemTime::now() - Duration::from_hours(1))?;
    let (health, line) = state(&world, &attachment)?;
    ensure!(
        health == "silent" && line.contains("not answering"),
        "{health}: {line}"
    );
    attachment.signal(Signal::SIGCONT)?;
    wait_for("it to serve again", || {
        Ok((state(&world, &attachment)?.0 == "serving").then_some(()))
    })?;

    attachment.end_by(Signal::SIGKILL)?;
    let (health, line) = state(&world, &attachment)?;
    ensure!(
        health == "abandoned" && line.contains("gateway gone"),
        "{health}: {line}"
    );
    let name = attachment.name().to_owned();
    attachment.detach()?;
    let listed = agents(&world)?;
    ensure!(
        !listed.iter().any(|one| field(one, "run") == name),
        "{listed:#?}"
    );
    Ok(())
}

/// A container or unit that is started again has another cgroup of the same path, and nothing
/// holds that one.
#[test]
fn a_cgroup_that_was_made_again_is_shown_as_not_held() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    for killed in [true, false] {
        let group = Group::new()?;
        let puppet = Puppet::start_in(&world, group.path())?;
        let pid = puppet.pid().to_string();
        let mut attachment = Attachment::start(&world, NOTHING, ["--pid", &pid])?;
        if killed {
            attachment.end_by(Signal::SIGKILL)?;
        }
        group.remake()?;
        drop(puppet);
        let (health, line) = state(&world, &attachment)?;
        ensure!(
            health == "unheld" && line.contains("NOT HELD"),
            "{health}: {line}"
        );
        if !killed {
            // It sees that itself, says so, and ends.
            ensure!(attachment.wait()? == 1);
            let said = attachment.said()?;
            ensure!(said.contains("the agent's cgroup was removed"), "{said}");
            attachment.wait_for_record(&[("kind", "finding"), ("reason", "cgroup_gone")])?;
        }
        // Nor does anybody clear the word away while that is so.
        sweep(&world)?;
        let (health, line) = state(&world, &attachment)?;
        ensure!(
            health == "unheld" && line.contains("NOT HELD"),
            "{health}: {line}"
        );

        // It is the truth.
        let mut puppet = Puppet::start_in(&world, group.path())?;
        gets_out(&mut puppet, &receiver)?;
        let pid = puppet.pid().to_string();
        let again = Attachment::start(&world, NOTHING, ["--pid", &pid])?;
        is_shut_in(&world, &mut puppet, &receiver, SERVED)?;
        ensure!(state(&world, &again)?.0 == "serving");
        ensure!(attachment.listed()?.is_none(), "the one before is listed");
    }
    Ok(())
}
