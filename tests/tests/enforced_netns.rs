//! An agent in a network namespace of its own with no way out but loopback: the gateway listens in
//! there, and in whatever namespace the agent enters later nobody does.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    agent::field,
    attachment::Attachment,
    cgroup::Group,
    deadline::wait_for,
    needs, needs_root,
    netns::Netns,
    origin::{ALLOWED, Origin, REFUSED, rules},
    puppet::{Puppet, Way},
    receiver::{LOOPBACK, Receiver},
    skip,
    world::{ORIGIN4, World},
};

const AGENT: &str = "schema = 1\nagent = \"isolated\"\n";

/// What `curl` fetched: its exit status, the status of the answer, and the answer.
fn fetch(puppet: &mut Puppet, options: &[&str], host: &str) -> Result<(i64, String)> {
    let url = format!("http://{host}/hello");
    let words = ["curl", "-sS", "--max-time", "20", "-w", "[%{http_code}]"];
    let words: Vec<_> = words
        .iter()
        .chain(options)
        .copied()
        .chain([&*url])
        .collect();
    let done = puppet.run(&words)?;
    let status = done.get("status").and_then(Value::as_i64);
    Ok((status.context("a status")?, field(&done, "out")))
}

#[test]
fn the_gateway_listens_in_the_agents_namespace() -> Result<()> {
    needs_root!();
    needs!(skip::program("curl"));
    let nginx = needs!(skip::program("nginx"));
    let world = World::new()?;
    let origin = Origin::start(&world, &nginx)?;
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    puppet.isolate()?;
    // As a program that asks for no proxy finds the origin, and as one does that has one.
    let addressed = [ALLOWED, REFUSED].map(|host| format!("{host}:80:{ORIGIN4}"));
    let directly = ["--resolve", &addressed[0], "--resolve", &addressed[1]];
    // The control: there is no way out.
    let (status, _) = fetch(&mut puppet, &directly, ALLOWED)?;
    ensure!(status == 7, "curl could connect: {status}");

    let policy = format!("{AGENT}{}", rules());
    let attachment = Attachment::start(&world, &policy, ["--pid", &puppet.pid().to_string()])?;
    let proxy = format!("http://127.0.0.1:{}", attachment.port()?);
    let proxied = ["--proxy", &proxy];
    for (options, original) in [
        (&proxied[..], "null".to_owned()),
        (&directly[..], format!("{ORIGIN4}:80")),
    ] {
        let (status, answer) = fetch(&mut puppet, options, ALLOWED)?;
        ensure!(
            (status, &*answer) == (0, "hello from the origin\n[200]"),
            "{original}: {status} {answer}"
        );
        let (_, answer) = fetch(&mut puppet, options, REFUSED)?;
        ensure!(answer.ends_with("[403]"), "{original}: {answer}");
        for (host, outcome, reason) in [(ALLOWED, "allow", "allowed"), (REFUSED, "deny", "no_rule")]
        {
            let expected = [
                ("host", host),
                ("outcome", outcome),
                ("reason", reason),
                ("agent", "isolated"),
                ("source", "both"),
                ("original_destination", &original),
                ("process.comm", "curl"),
            ];
            attachment.wait_for_record(&expected)?;
        }
    }
    let requests = origin.requests()?;
    let of = |host: &str| {
        requests
            .iter()
            .filter(|request| request.contains(host))
            .count()
    };
    ensure!((of(ALLOWED), of(REFUSED)) == (2, 0), "{requests:#?}");
    Ok(())
}

#[test]
fn in_a_namespace_that_is_entered_later_nothing_arrives() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let group = Group::new()?;
    let mut first = Puppet::start_in(&world, group.path())?;
    first.isolate()?;
    let mut later = Puppet::start_in(&world, group.path())?;
    let attachment = Attachment::start(&world, AGENT, ["--pid", &first.pid().to_string()])?;
    later.isolate()?;
    let namespace = Netns::of_process(later.pid())?;
    // Somebody listens there, on the gateway's port, too.
    let receivers = [
        Receiver::listen(&namespace, 0)?,
        Receiver::listen(&namespace, attachment.port()?)?,
    ];
    let pid = later.pid().to_string();
    let nobody = ("ENETDOWN", "unknown_namespace");
    // Of UDP nothing but what goes to the gateway may leave, whoever listens.
    for (receiver, datagram) in receivers.iter().zip([("EACCES", "datagram"), nobody]) {
        for (address, method) in LOOPBACK.into_iter().zip(["connect4", "connect6"]) {
            let to = SocketAddr::new(address, receiver.port());
            for (way, (told, reason)) in [(Way::Tcp, nobody), (Way::Udp, datagram)] {
                let answer = later.once(way, to)?;
                ensure!(answer == told, "{way:?} to {to}: {answer}");
                attachment.wait_for_record(&[
                    ("kind", "direct"),
                    ("outcome", "deny"),
                    ("reason", reason),
                    ("source", "kernel"),
                    ("method", method),
                    ("original_destination", &to.to_string()),
                    ("process.pid", &pid),
                ])?;
            }
            ensure!(
                receiver.is_untouched(&namespace, address)?,
                "{to} was reached"
            );
        }
    }

    let at = |receiver: &Receiver| SocketAddr::new(LOOPBACK[0], receiver.port());

    // The control: without the programs it is.
    attachment.detach()?;
    for receiver in &receivers {
        ensure!(later.hold("control", Way::Tcp, at(receiver))? == "done");
        wait_for("a connection", || Ok(receiver.connection()?))?;
        ensure!(later.once(Way::Udp, at(receiver))? == "done");
        wait_for("a datagram", || Ok(receiver.datagram()?))?;
    }
    Ok(())
}
