//! Unix sockets: those that policy names are reached, and no others. What arrived is asked of
//! listeners outside; each way is seen to work where policy says "any".

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::PermissionsExt as _,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
    path::PathBuf,
};

use anyhow::{Result, ensure};
use sluice_tests::{
    agent::{Agent, Finished, random},
    needs_root,
    skip::{self, PYTHON},
    world::World,
};
use tempfile::TempDir;

/// Tries each way that it is told, and says how each went.
const CLIENT: &str = r"
import errno, socket, sys
S, D = socket.SOCK_STREAM, socket.SOCK_DGRAM
def name(text):
    return '\0' + text[1:] if text.startswith('@') else text
def stream(to):
    socket.socket(socket.AF_UNIX, S).connect(name(to))
def connected(to):
    one = socket.socket(socket.AF_UNIX, D)
    one.connect(name(to))
    one.send(b'x')
def unconnected(to):
    socket.socket(socket.AF_UNIX, D).sendto(b'x', name(to))
def message(to):
    socket.socket(socket.AF_UNIX, D).sendmsg([b'x'], [], 0, name(to))
def relative(to):
    import os
    os.chdir(os.path.dirname(to))
    socket.socket(socket.AF_UNIX, S).connect(os.path.basename(to))
def pair(_):
    a, b = socket.socketpair(socket.AF_UNIX, D)
    a.send(b'x')
    assert b.recv(1) == b'x'
def unnamed(_):
    one = socket.socket(socket.AF_UNIX, D)
    one.bind('')
    assert one.getsockname()
for way in sys.argv[1:]:
    kind, _, to = way.partition('=')
    try:
        globals()[kind](to)
        print(way, 'ok')
    except OSError as error:
        print(way, errno.errorcode[error.errno])
";

/// Where root alone writes, and agents look. What lies below `/run` they do not even see.
const IN_SIGHT: &str = "/var/lib";

/// Somebody outside who listens in every way.
struct Outside {
    folder: TempDir,
    abstract_name: String,
    streams: Vec<UnixListener>,
    datagrams: UnixDatagram,
}

impl Outside {
    fn new(world: &World) -> Result<Self> {
        Self::in_folder(world, IN_SIGHT)
    }

    fn in_folder(world: &World, folder: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("sluice-unix-")
            .tempdir_in(folder)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let abstract_name = format!("sluice-unix-{}", random()?);
        let by_name = SocketAddr::from_abstract_name(&abstract_name)?;
        let streams = vec![
            UnixListener::bind(folder.path().join("stream"))?,
            // Abstract names belong to a network namespace.
            world.node.run(|| UnixListener::bind_addr(&by_name))?,
            UnixListener::bind(folder.path().join("other"))?,
        ];
        let datagrams = UnixDatagram::bind(folder.path().join("datagrams"))?;
        for listener in &streams {
            listener.set_nonblocking(true)?;
        }
        datagrams.set_nonblocking(true)?;
        for socket in ["stream", "other", "datagrams"] {
            let path = folder.path().join(socket);
            fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        }
        Ok(Self {
            folder,
            abstract_name,
            streams,
            datagrams,
        })
    }

    fn path(&self, socket: &str) -> String {
        self.at(socket).display().to_string()
    }

    fn at(&self, socket: &str) -> PathBuf {
        self.folder.path().join(socket)
    }

    /// Every way that leads outside.
    fn ways(&self) -> Vec<String> {
        vec![
            format!("stream={}", self.path("stream")),
            format!("relative={}", self.path("stream")),
            format!("stream=@{}", self.abstract_name),
            format!("stream={}", self.path("other")),
            format!("connected={}", self.path("datagrams")),
            format!("unconnected={}", self.path("datagrams")),
            format!("message={}", self.path("datagrams")),
        ]
    }

    /// How many connections and datagrams have come since the last time.
    fn arrived(&self) -> Result<(usize, usize)> {
        let mut connections = 0;
        for listener in &self.streams {
            while some(listener.accept())? {
                connections += 1;
            }
        }
        let mut datagrams = 0;
        while some(self.datagrams.recv(&mut [0; 8]))? {
            datagrams += 1;
        }
        Ok((connections, datagrams))
    }
}

/// Whether there was something.
fn some<T>(result: io::Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Runs ways under a policy with this `[network]`, and answers with what each came to.
fn run(world: &World, network: &str, ways: &[String]) -> Result<(Vec<String>, Finished)> {
    let policy = format!("schema = 1\nagent = \"unix\"\n[network]\n{network}\n");
    let command = [PYTHON, "-c", CLIENT].into_iter().map(str::to_owned);
    let finished = Agent::new(world, &policy)?.run(command.chain(ways.iter().cloned()))?;
    ensure!(finished.status == 0, "{finished:?}");
    let ends = finished.out().lines().map(last_word).collect();
    Ok((ends, finished))
}

fn last_word(line: &str) -> String {
    line.rsplit(' ').next().unwrap_or_default().to_owned()
}

/// Whether this kernel has the hooks; none before 6.7 does.
fn has_hooks() -> bool {
    let report = gateway_userspace::kernel::probe::has_unix_hooks();
    if !report {
        skip::because("this kernel has no hooks on unix sockets (6.7 has)");
    }
    report
}

#[test]
fn no_socket_is_reached_by_default() -> Result<()> {
    needs_root!();
    if !has_hooks() {
        return Ok(());
    }
    let world = World::new()?;
    let outside = Outside::new(&world)?;
    let ways = outside.ways();
    let (ends, _) = run(&world, "unix = [\"any\"]", &ways)?;
    ensure!(ends.iter().all(|end| end == "ok"), "the control: {ends:?}");
    ensure!(outside.arrived()? == (4, 3), "the control did not arrive");

    let (ends, finished) = run(&world, "", &ways)?;
    ensure!(ends.iter().all(|end| end == "EACCES"), "{finished:?}");
    ensure!(outside.arrived()? == (0, 0), "it got there");
    let paths = [
        ("unix_connect", outside.path("stream")),
        ("unix_connect", "stream".to_owned()),
        ("unix_connect", format!("@{}", outside.abstract_name)),
        ("unix_connect", outside.path("datagrams")),
        ("unix_sendmsg", outside.path("datagrams")),
    ];
    for (hook, path) in &paths {
        let records = finished.records_with(&[
            ("kind", "direct"),
            ("outcome", "deny"),
            ("reason", "unix_socket"),
            ("method", hook),
            ("path", path),
            ("process.comm", "python3"),
        ]);
        ensure!(!records.is_empty(), "no {hook} to {path}: {finished:?}");
    }
    Ok(())
}

#[test]
fn what_policy_names_is_reached_and_its_neighbours_are_not() -> Result<()> {
    needs_root!();
    if !has_hooks() {
        return Ok(());
    }
    let world = World::new()?;
    let outside = Outside::new(&world)?;
    let ways = outside.ways();
    let (stream, name) = (outside.path("stream"), &outside.abstract_name);
    let (ends, finished) = run(&world, &format!("unix = [\"{stream}\"]"), &ways)?;
    // By a relative path it is another name.
    let expected = [
        "ok", "EACCES", "EACCES", "EACCES", "EACCES", "EACCES", "EACCES",
    ];
    ensure!(ends == expected, "{finished:?}");
    ensure!(outside.arrived()? == (1, 0));

    let (ends, finished) = run(&world, &format!("unix = [\"@{name}\"]"), &ways)?;
    let expected = [
        "EACCES", "EACCES", "ok", "EACCES", "EACCES", "EACCES", "EACCES",
    ];
    ensure!(ends == expected, "{finished:?}");
    ensure!(outside.arrived()? == (1, 0));

    let datagrams = outside.path("datagrams");
    let (ends, finished) = run(&world, &format!("unix = [\"{datagrams}\"]"), &ways)?;
    let expected = ["EACCES", "EACCES", "EACCES", "EACCES", "ok", "ok", "ok"];
    ensure!(ends == expected, "{finished:?}");
    ensure!(outside.arrived()? == (0, 3));

    // A name is neither a beginning of another nor its end.
    for near in [
        &stream[..stream.len() - 1],
        &format!("{stream}s"),
        &format!("@{stream}"),
    ] {
        let (ends, finished) = run(&world, &format!("unix = [\"{near}\"]"), &ways)?;
        ensure!(
            ends.iter().all(|end| end == "EACCES"),
            "{near}: {finished:?}"
        );
    }
    ensure!(outside.arrived()? == (0, 0));
    Ok(())
}

/// Below `/run` what policy does not name is not there at all, and what it names is.
#[test]
fn below_run_only_what_policy_names_is_in_sight() -> Result<()> {
    needs_root!();
    if !has_hooks() {
        return Ok(());
    }
    let world = World::new()?;
    let outside = Outside::in_folder(&world, "/run")?;
    let ways = outside.ways();
    let stream = outside.path("stream");
    let folder = outside.folder.path().display();

    let control = format!("unix = [\"any\"]\n[process]\nrun = [\"{folder}\"]");
    let (ends, finished) = run(&world, &control, &ways)?;
    ensure!(ends.iter().all(|end| end == "ok"), "{finished:?}");
    ensure!(outside.arrived()? == (4, 3), "the control did not arrive");

    let (ends, finished) = run(&world, "unix = [\"any\"]", &ways)?;
    let expected = [
        "ENOENT", "ENOENT", "ok", "ENOENT", "ENOENT", "ENOENT", "ENOENT",
    ];
    ensure!(ends == expected, "{finished:?}");
    ensure!(
        outside.arrived()? == (1, 0),
        "a name of no path has no mount"
    );

    let (ends, finished) = run(&world, &format!("unix = [\"{stream}\"]"), &ways)?;
    let expected = [
        "ok", "EACCES", "EACCES", "EACCES", "EACCES", "EACCES", "EACCES",
    ];
    ensure!(ends == expected, "{finished:?}");
    ensure!(outside.arrived()? == (1, 0));
    Ok(())
}

#[test]
fn sockets_that_lead_nowhere_else_keep_working() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let ways = ["pair=".to_owned(), "unnamed=".to_owned()];
    let (ends, finished) = run(&world, "", &ways)?;
    ensure!(ends == ["ok", "ok"], "{finished:?}");
    Ok(())
}

#[test]
fn observe_mode_records_and_lets_pass() -> Result<()> {
    needs_root!();
    if !has_hooks() {
        return Ok(());
    }
    let world = World::new()?;
    let outside = Outside::new(&world)?;
    let policy = "schema = 1\nagent = \"unix\"\nmode = \"observe\"\n";
    let way = format!("stream={}", outside.path("stream"));
    let finished = Agent::new(&world, policy)?.run([PYTHON, "-c", CLIENT, &way])?;
    ensure!(last_word(finished.out().trim()) == "ok", "{finished:?}");
    ensure!(outside.arrived()? == (1, 0));
    let path = outside.path("stream");
    let records = finished.records_with(&[
        ("outcome", "observe"),
        ("reason", "unix_socket"),
        ("path", &path),
    ]);
    ensure!(records.len() == 1, "{finished:?}");
    Ok(())
}

#[test]
fn a_name_that_the_agent_could_take_does_not_start() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    for (socket, complaint) in [
        ("/tmp/sluice-test/a.sock", "the agent can write /tmp"),
        ("/etc/passwd", "is no socket"),
        ("/proc/self/a.sock", "is a link"),
    ] {
        let policy = format!("schema = 1\nagent = \"unix\"\n[network]\nunix = [\"{socket}\"]\n");
        let finished = Agent::new(&world, &policy)?.run(["true"])?;
        ensure!(finished.status != 0, "{socket} was taken");
        let said = finished.err();
        ensure!(said.contains(complaint), "{socket}: {said}");
    }
    Ok(())
}

/// The agent's own sockets are told apart by BPF-LSM alone, and this says so where there is none.
#[test]
fn what_the_kernel_cannot_tell_does_not_start() -> Result<()> {
    needs_root!();
    let modules = gateway_userspace::kernel::probe::security_modules();
    if modules.iter().any(|module| module == "bpf") {
        return Ok(());
    }
    let world = World::new()?;
    let policy = "schema = 1\nagent = \"unix\"\n[network]\nunix = [\"self\"]\n";
    let finished = Agent::new(&world, policy)?.run(["true"])?;
    ensure!(finished.status != 0, "it started");
    let said = finished.err();
    ensure!(said.contains("unix = [\"self\"]"), "{said}");
    Ok(())
}
