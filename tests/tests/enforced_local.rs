//! What policy opens in the boundary on purpose: being called, and declared local ports. Each
//! beside its nearest neighbour that stays shut.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::Agent,
    deadline::{in_vain, scaled, wait_for},
    needs_root,
    netns::Netns,
    probe::{Kind, Probe},
    receiver::Receiver,
    skip::PYTHON,
    world::{NODE4, World},
};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// How long a peer knocks on a door that may be shut.
const KNOCK: Duration = Duration::from_millis(500);
/// How long one that got in waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens on all addresses, says where, and gives every byte back until it is told to end.
const SERVER: &str = r"
import socket, sys, threading
listener = socket.create_server(('', 0))
print('port', listener.getsockname()[1], flush=True)
def serve():
    while True:
        one, _ = listener.accept()
        one.sendall(one.recv(1))
        one.close()
threading.Thread(target=serve, daemon=True).start()
sys.stdin.read()
";

/// Whether a peer in this namespace gets in, and gets its byte back.
fn gets_in(from: &Netns, to: SocketAddr) -> Result<bool> {
    from.run(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, in_vain(KNOCK)) else {
            return Ok(false);
        };
        stream.set_read_timeout(Some(scaled(PATIENCE)))?;
        stream.write_all(b"x")?;
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer")?;
        Ok(byte == *b"x")
    })
}

/// Who gets in under this setting: a local peer over loopback, and one from another host.
fn who_gets_in(inbound: &str) -> Result<(bool, bool)> {
    let world = World::new()?;
    let policy = format!("schema = 1\nagent = \"server\"\n[network]\ninbound = \"{inbound}\"");
    let agent = Agent::new(&world, &policy)?.prepare(|command| {
        command.stdin(std::process::Stdio::piped());
    });
    let mut running = agent.spawn([PYTHON, "-c", SERVER])?;
    let said = running.wait_for_output("\n")?;
    let port = said.trim().trim_start_matches("port ").parse()?;
    let local = gets_in(&world.node, (LOCAL, port).into())?;
    let remote = gets_in(&world.origin, (NODE4, port).into())?;
    running.finish()?;
    Ok((local, remote))
}

#[test]
fn nobody_gets_in_by_default() -> Result<()> {
    needs_root!();
    ensure!(who_gets_in("deny")? == (false, false));
    Ok(())
}

#[test]
fn local_peers_get_in_where_policy_says_loopback() -> Result<()> {
    needs_root!();
    ensure!(who_gets_in("loopback")? == (true, false));
    Ok(())
}

#[test]
fn everybody_gets_in_where_policy_says_allow() -> Result<()> {
    needs_root!();
    ensure!(who_gets_in("allow")? == (true, true));
    Ok(())
}

#[test]
fn declared_local_ports_are_reached_and_others_are_not() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let declared = Receiver::listen(&world.node, 0)?;
    let other = Receiver::listen(&world.node, 0)?;
    let policy = format!(
        "schema = 1\nagent = \"local\"\n[network]\ndirect = \"deny\"\nloopback = [{}]",
        declared.port()
    );
    let mut probe = Probe::start(Agent::new(&world, &policy)?)?;
    let at = |port: u16| SocketAddr::new(IpAddr::V4(LOCAL), port);
    probe.tell(Kind::Tcp, at(declared.port()))?;
    let (mut connection, peer) = wait_for("the agent's connection", || Ok(declared.connection()?))?;
    ensure!(peer == IpAddr::V4(LOCAL), "it comes from {peer}");
    declared.answer(&mut connection)?;
    drop(connection);
    probe.answer()?;
    // The same port elsewhere, the same port by UDP, another port: all shut.
    let elsewhere = SocketAddr::new(NODE4.into(), declared.port());
    ensure!(probe.ask(Kind::Tcp, elsewhere)? == "EACCES");
    ensure!(probe.ask(Kind::Udp, at(declared.port()))? == "EACCES");
    ensure!(probe.ask(Kind::Tcp, at(other.port()))? == "EACCES");
    ensure!(
        declared.is_untouched(&world.node, LOCAL.into())?,
        "more came"
    );
    ensure!(
        other.is_untouched(&world.node, LOCAL.into())?,
        "it got there"
    );
    Ok(())
}
