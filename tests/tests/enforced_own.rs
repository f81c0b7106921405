//! `loopback = ["self"]`: an agent reaches its own listeners over loopback, nobody else's, and
//! nobody else reaches them.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::{Agent, Finished, field},
    deadline::wait_for,
    needs_root,
    netns::Netns,
    skip::{self, PYTHON},
    world::World,
};

const SELF: &str =
    "schema = 1\nagent = \"dev\"\n[network]\ndirect = \"deny\"\nloopback = [\"self\"]\n";
const NONE: &str = "schema = 1\nagent = \"dev\"\n[network]\ndirect = \"deny\"\n";

/// How long a peer knocks on a door that may be shut.
const KNOCK: Duration = Duration::from_millis(500);

/// A real server beside real clients; each client says what it got or why not.
const DEV_SERVER: &str = r#"
said=$(mktemp)
python3 -u -m http.server --bind "$1" --directory "$(mktemp -d)" 0 >"$said" 2>&1 &
server=$!
port=
while [ -z "$port" ] && kill -0 $server 2>/dev/null; do
  port=$(sed -nE 's/.* port ([0-9]+) .*/\1/p' "$said")
done
shift
for host in "$@"; do
  curl --noproxy '*' -s -m 10 -o /dev/null -w "$host %{http_code}\n" "http://$host:$port/" || cat "$said"
done
kill $server
rm -r "$said"
"#;

/// Serves and asks in one process: a listener on each address, a client for each.
const BOTH: &str = r"
import errno, socket, sys, threading
def serve(listener):
    while True:
        one, _ = listener.accept()
        one.sendall(one.recv(100))
        one.close()
def listen(host):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind((host, 0))
    listener.listen()
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    return listener.getsockname()[1]
for pair in sys.argv[1:]:
    here, to = pair.split('=')
    port = int(here) if here.isdigit() else listen(here)
    family = socket.AF_INET6 if ':' in to else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(10)
    try:
        client.connect((to, port))
        client.sendall(b'hello' * 10)
        got = b''
        while (piece := client.recv(100)):
            got += piece
        print(pair, 'answered' if got == b'hello' * 10 else repr(got))
    except OSError as error:
        print(pair, errno.errorcode.get(error.errno, error))
    finally:
        client.close()
";

fn ends(finished: &Finished) -> Vec<String> {
    let out = finished.out();
    let last = |line: &str| line.rsplit(' ').next().unwrap_or_default().to_owned();
    out.lines().map(last).collect()
}

fn run(world: &World, policy: &str, pairs: &[&str]) -> Result<(Vec<String>, Finished)> {
    let command = [PYTHON, "-c", BOTH]
        .into_iter()
        .chain(pairs.iter().copied());
    let finished = Agent::new(world, policy)?.run(command)?;
    ensure!(finished.status == 0, "{finished:?}");
    Ok((ends(&finished), finished))
}

/// Where it listens, and by what name it is asked.
const PAIRS: [&str; 9] = [
    "127.0.0.1=127.0.0.1",
    "0.0.0.0=127.0.0.1",
    "::1=::1",
    "::=::1",
    "::=127.0.0.1",
    "127.0.0.1=::ffff:127.0.0.1",
    "::=::ffff:127.0.0.1",
    "127.0.0.1=0.0.0.0",
    "::1=::",
];

#[test]
fn own_listeners_are_reached_where_policy_says_self() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let (ends, finished) = run(&world, SELF, &PAIRS)?;
    ensure!(ends.iter().all(|end| end == "answered"), "{finished:?}");
    let refused = finished.records_with(&[("outcome", "deny")]);
    ensure!(refused.is_empty(), "{finished:?}");

    let (ends, finished) = run(&world, NONE, &PAIRS)?;
    ensure!(ends.iter().all(|end| end == "EACCES"), "{finished:?}");
    Ok(())
}

#[test]
fn somebody_elses_listeners_are_not() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let listeners = world.node.run(|| -> Result<_> {
        Ok([
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?,
            TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?,
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))?,
        ])
    })?;
    let mut pairs = Vec::new();
    for (listener, names) in listeners.iter().zip([
        &["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"][..],
        &["127.0.0.1", "0.0.0.0"],
        &["::1", "::"],
        &["::1", "127.0.0.1"],
    ]) {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        pairs.extend(names.iter().map(|name| format!("{port}={name}")));
    }
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
    let (ends, finished) = run(&world, SELF, &pairs)?;
    ensure!(ends.iter().all(|end| end == "EACCES"), "{finished:?}");
    for listener in &listeners {
        ensure!(listener.accept().is_err(), "somebody got to {listener:?}");
    }
    Ok(())
}

/// Listens, says where, and waits for its end.
const LISTENER: &str = r"
import socket, sys
a = socket.create_server(('', 0))
b = socket.create_server(('::1', 0), family=socket.AF_INET6)
print('ports', a.getsockname()[1], b.getsockname()[1], '', flush=True)
sys.stdin.read()
";

fn knock(from: &Netns, to: SocketAddr) -> bool {
    from.run(|| TcpStream::connect_timeout(&to, KNOCK)).is_ok()
}

#[test]
fn nobody_else_comes_in_by_that() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let agent = Agent::new(&world, SELF)?.prepare(|command| {
        command.stdin(Stdio::piped());
    });
    let mut running = agent.spawn([PYTHON, "-c", LISTENER])?;
    let said = running.wait_for_output("\n")?;
    let ports: Vec<u16> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [v4, v6] = ports[..] else {
        anyhow::bail!("no ports in {said:?}");
    };
    // Neither a process of this host nor another agent, which may reach its own as well.
    ensure!(!knock(&world.node, (Ipv4Addr::LOCALHOST, v4).into()), "v4");
    ensure!(!knock(&world.node, (Ipv6Addr::LOCALHOST, v6).into()), "v6");
    let pairs = [format!("{v4}=127.0.0.1"), format!("{v6}=::1")];
    let pairs: Vec<&str> = pairs.iter().map(String::as_str).collect();
    let (ends, finished) = run(&world, SELF, &pairs)?;
    ensure!(ends.iter().all(|end| end == "EACCES"), "{finished:?}");
    let finished = running.finish()?;
    let refused = finished.records_with(&[("reason", "inbound_refused")]);
    ensure!(!refused.is_empty(), "{finished:?}");

    // The control: they were really there.
    let open = SELF.replace("direct =", "inbound = \"loopback\"\ndirect =");
    let agent = Agent::new(&world, &open)?.prepare(|command| {
        command.stdin(Stdio::piped());
    });
    let mut running = agent.spawn([PYTHON, "-c", LISTENER])?;
    let said = running.wait_for_output("\n")?;
    let port = said.split_whitespace().nth(1).context("a port")?.parse()?;
    ensure!(knock(&world.node, (Ipv4Addr::LOCALHOST, port).into()));
    running.finish()?;
    Ok(())
}

/// Connects to its own listener, ends that, and goes on with what it has: a connection that was
/// never accepted, one that was, and one that is put off until the first byte (Fast Open). Then it
/// tries afresh.
const BEREFT: &str = r"
import errno, socket, sys
FASTOPEN_CONNECT = 30
listener = socket.create_server(('127.0.0.1', 0))
port = listener.getsockname()[1]
def client():
    one = socket.socket()
    one.settimeout(2)
    return one
accepted = client()
accepted.connect(('127.0.0.1', port))
server, _ = listener.accept()
waiting = client()
waiting.connect(('127.0.0.1', port))
later = client()
later.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
later.connect(('127.0.0.1', port))
listener.close()
server.close()
print('port', port, '', flush=True)
sys.stdin.readline()
for one in (accepted, waiting, later):
    try:
        one.sendall(b'secret')
        one.sendall(b'secret')
    except OSError as error:
        print('sent', error, file=sys.stderr)
again = client()
try:
    again.connect(('127.0.0.1', port))
    print('again connected')
except OSError as error:
    print('again', errno.errorcode.get(error.errno, error))
";

#[test]
fn a_thief_on_the_port_of_a_listener_that_ended_gets_nothing() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let agent = Agent::new(&world, SELF)?.prepare(|command| {
        command.stdin(Stdio::piped());
    });
    let mut running = agent.spawn([PYTHON, "-c", BEREFT])?;
    let said = running.wait_for_output("\n")?;
    let port: u16 = said.split_whitespace().nth(1).context("a port")?.parse()?;
    let thief = wait_for("the port", || {
        let bound = world.node.run(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
            socket.listen(8)?;
            Ok::<_, std::io::Error>(TcpListener::from(socket))
        });
        Ok(bound.ok())
    })?;
    thief.set_nonblocking(true)?;
    running
        .stdin()
        .context("standard input")?
        .write_all(b"\n")?;
    let finished = running.finish()?;
    ensure!(
        ends(&finished).last().map(String::as_str) == Some("EACCES"),
        "{finished:?}"
    );
    ensure!(thief.accept().is_err(), "the thief was called");
    // It could have been: somebody outside gets there.
    let mut own = world
        .node
        .run(|| TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), KNOCK))?;
    own.write_all(b"x")?;
    let (mut got, _) = wait_for("the control", || Ok(thief.accept().ok()))?;
    got.set_nonblocking(false)?;
    got.read_exact(&mut [0])?;
    Ok(())
}

#[test]
fn a_real_server_is_reached_by_a_real_client() -> Result<()> {
    needs_root!();
    if skip::program("curl").is_none() {
        return Ok(());
    }
    let world = World::new()?;
    for (bind, hosts) in [
        ("127.0.0.1", &["127.0.0.1", "localhost"][..]),
        ("::", &["127.0.0.1", "[::1]", "localhost"]),
    ] {
        let command = ["sh", "-c", DEV_SERVER, "sh", bind];
        let command = command.into_iter().chain(hosts.iter().copied());
        let finished = Agent::new(&world, SELF)?.run(command)?;
        let expected = vec!["200"; hosts.len()];
        ensure!(ends(&finished) == expected, "{bind}: {finished:?}");
        for record in &finished.records {
            // The C library asks a cache of names, by a unix socket, before anything else.
            let other = field(record, "reason") == "unix_socket";
            ensure!(other || field(record, "outcome") != "deny", "{record:#}");
        }
        let own = finished.records_with(&[
            ("kind", "direct"),
            ("outcome", "allow"),
            ("reason", "own_loopback"),
            ("process.comm", "curl"),
        ]);
        ensure!(own.len() == hosts.len(), "{bind}: {finished:?}");
    }
    Ok(())
}

/// A dev server and `fetch` in one process.
const NODE: &str = r"
const http = require('node:http');
const server = http.createServer((request, response) => response.end('hello'));
server.listen(0, async () => {
  const port = server.address().port;
  for (const host of ['127.0.0.1', '[::1]', 'localhost']) {
    const answer = await new Promise((done, fail) => {
      http.get({ host: host.replace(/[\[\]]/g, ''), port, agent: false }, (response) => {
        let text = '';
        response.on('data', (piece) => { text += piece; });
        response.on('end', () => done(text));
      }).on('error', (error) => done(error.code));
    });
    console.log(host, answer);
  }
  server.close();
});
";

#[test]
fn a_node_server_is_reached_by_its_own_process() -> Result<()> {
    needs_root!();
    let Some(node) = skip::node() else {
        return Ok(());
    };
    let world = World::new()?;
    let node = node.display().to_string();
    let finished =
        Agent::new(&world, SELF)?.run(["env", "-u", "NODE_USE_ENV_PROXY", &node, "-e", NODE])?;
    ensure!(ends(&finished) == ["hello"; 3], "{finished:?}");
    Ok(())
}
