//! One `sluice attach` takes over from another, again and again, while the agent works and while it
//! tries to get out: no attempt to get out arrives, no connection of its work is refused or cut,
//! and what it downloads meanwhile comes whole.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use sluice_tests::{
    agent::{field, pins, sluice},
    attachment::{Attachment, agents},
    cgroup::Group,
    deadline::{is_emulated, wait_for},
    needs_root,
    netns::Netns,
    puppet::{Puppet, Way},
    receiver::Receiver,
    skip::PYTHON,
    world::{ORIGIN4, World},
};

/// How often one takes over: five times, or once by each build where programs are emulated.
fn times() -> usize {
    if is_emulated() { 2 } else { 5 }
}

/// Inside the cgroup that it is told: connects again and again until its input ends, at most a
/// million times and for a quarter of an hour. On each line it is sent, it says how often it was answered
/// `ok`, how often otherwise, and what went wrong last.
const CLIENT: &str = r#"
import errno, socket, sys, threading, time
folder, host, port = sys.argv[1:]
with open(folder + "/cgroup.procs", "w") as procs:
    procs.write("0")
good = bad = 0
last = "-"
done = False
def work():
    global good, bad, last
    end = time.monotonic() + 900
    while not done and good + bad < 1000000 and time.monotonic() < end:
        # A load, and not all that the machine has: the others must come to work.
        time.sleep(0.005)
        try:
            with socket.create_connection((host, int(port)), 90) as one:
                one.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host.encode())
                whole = b""
                while part := one.recv(4096):
                    whole += part
            if whole.startswith(b"HTTP/1.1 200 ") and whole.endswith(b"ok"):
                good += 1
                continue
            last = repr(whole)
        except OSError as error:
            last = errno.errorcode.get(error.errno, repr(error))
        bad += 1
threading.Thread(target=work).start()
for line in sys.stdin:
    print(good, bad, last, flush=True)
done = True
"#;

/// Inside the cgroup that it is told: connects once, says so, and how many bytes came to the end.
const DOWNLOAD: &str = r#"
import socket, sys
folder, host, port = sys.argv[1:]
with open(folder + "/cgroup.procs", "w") as procs:
    procs.write("0")
with socket.create_connection((host, int(port)), 900) as one:
    one.sendall(b"GET /slow HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host.encode())
    whole = one.recv(4096)
    print("begun", flush=True)
    while part := one.recv(4096):
        whole += part
print(len(whole.split(b"\r\n\r\n", 1)[1]), flush=True)
"#;

/// Octets of what is slow.
const SLOW: usize = 100_000;

/// The process. Dropped, it ends.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(world: &World, cgroup: &Path, port: u16) -> Result<Self> {
        Self::start_as(CLIENT, world, cgroup, port)
    }

    fn start_as(program: &str, world: &World, cgroup: &Path, port: u16) -> Result<Self> {
        let mut command = Command::new(PYTHON);
        command
            .args(["-I", "-c", program])
            .arg(cgroup)
            .args([ORIGIN4.to_string(), port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = world.node.run(|| command.spawn())?;
        Ok(Self {
            input: child.stdin.take().context("a pipe")?,
            output: BufReader::new(child.stdout.take().context("a pipe")?),
            child,
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// How often it was answered, how often not, and what went wrong last.
    fn ask(&mut self) -> Result<(u64, u64, String)> {
        self.input.write_all(b"\n")?;
        let line = self.line()?;
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().with_context(|| format!("said {line:?}"));
        Ok((word()?.parse()?, word()?.parse()?, word()?.to_owned()))
    }

    /// Waits until it was answered, or not, some more times.
    fn goes_on(&mut self, of: impl Fn(&(u64, u64, String)) -> u64) -> Result<()> {
        let before = of(&self.ask()?);
        let mut last = None;
        wait_for("further attempts", || {
            let now = self.ask()?;
            let further = of(&now) >= before + 3;
            last = Some(now);
            Ok(further.then_some(()))
        })
        .with_context(|| format!("{last:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Answers every request with `ok`, for as long as the test runs; one for `/slow` with half of
/// what there is, and the other half once it is told to.
fn web(namespace: &Netns, go_on: mpsc::Receiver<()>) -> Result<u16> {
    let listener = namespace.run(|| TcpListener::bind((ORIGIN4, 0)))?;
    let port = listener.local_addr()?.port();
    let go_on = Arc::new(Mutex::new(go_on));
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let go_on = Arc::clone(&go_on);
            thread::spawn(move || {
                let mut head = [0; 4096];
                let length = stream.read(&mut head)?;
                if head[..length].starts_with(b"GET /slow") {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {SLOW}\r\nConnection: close\r\n\r\n"
                    );
                    stream.write_all(head.as_bytes())?;
                    stream.write_all(&vec![b'x'; SLOW / 2])?;
                    let _nobody_tells = go_on.lock().map(|told| told.recv());
                    return stream.write_all(&vec![b'x'; SLOW - SLOW / 2]);
                }
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
                )
            });
        }
    });
    Ok(port)
}

/// What counts as another build: the same program, and some bytes more.
fn another_build(world: &World) -> Result<PathBuf> {
    let path = world.publish(&sluice()?)?;
    let mut file = OpenOptions::new().append(true).open(&path)?;
    file.write_all(b"another build")?;
    Ok(path)
}

#[test]
fn taking_over_under_load_lets_nothing_out() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let (go_on, told) = mpsc::channel();
    let served = web(&world.origin, told)?;
    let policy = format!(
        "schema = 1\nagent = \"upgraded\"\n[[egress]]\nid = \"web\"\nhosts = [\"{ORIGIN4}\"]\n\
         ports = [{served}]\nprivate = true\n"
    );
    let builds = [another_build(&world)?, sluice()?];
    let group = Group::new()?;

    // The control: from this cgroup, both arrive.
    let outside = SocketAddr::new(IpAddr::V4(ORIGIN4), receiver.port());
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let held = puppet.hold("control", Way::Tcp, outside)?;
    ensure!(held == "done", "without a boundary: {held}");
    wait_for("the control", || Ok(receiver.connection()?))?;

    let cgroup = group.path().display().to_string();
    let mut now = Attachment::start(&world, &policy, ["--cgroup", &cgroup])?;
    let port = now.port()?;
    let mut prober = Client::start(&world, group.path(), receiver.port())?;
    let mut client = Client::start(&world, group.path(), served)?;
    prober.goes_on(|(_, bad, _)| *bad)?;
    client.goes_on(|(good, _, _)| *good)?;
    let mut before = Vec::new();
    let mut download = Some(Client::start_as(DOWNLOAD, &world, group.path(), served)?);
    for (number, build) in builds.iter().cycle().take(times()).enumerate() {
        let target = ["--cgroup", &cgroup, "--replace"];
        if let Some(download) = &mut download {
            ensure!(download.line()? == "begun", "the download");
        }
        let next = Attachment::start_as(&world, build.clone(), &policy, target)
            .with_context(|| format!("taking over, time {number}"))?;
        ensure!(
            next.port()? == port,
            "another port, time {number}: {}",
            next.said()?
        );
        // What was open goes on meanwhile.
        if let Some(mut download) = download.take() {
            go_on.send(())?;
            let came = download.line()?;
            ensure!(came == SLOW.to_string(), "{came} of {SLOW} octets came");
        }
        let status = now.wait()?;
        ensure!(
            status == 0,
            "the one before ends with {status}: {}",
            now.said()?
        );
        client.goes_on(|(good, _, _)| *good)?;
        prober.goes_on(|(_, bad, _)| *bad)?;
        ensure!(
            receiver.connection()?.is_none(),
            "it got out, time {number}"
        );
        before.push(std::mem::replace(&mut now, next));
    }
    let (good, bad, last) = client.ask()?;
    if bad > 0 {
        let said: Result<Vec<_>> = before.iter().chain([&now]).map(Attachment::said).collect();
        bail!(
            "{bad} of {} were not served: {last}; said: {:#?}",
            good + bad,
            said?
        );
    }
    // Nothing is missing in either ledger, and Sluice's own attempts are nobody's.
    for gateway in before.iter().chain([&now]) {
        let records = gateway.records()?;
        let odd = |record: &&Value| {
            field(record, "kind") == "finding"
                || field(record, "original_destination").starts_with("127.")
        };
        let odd: Vec<_> = records.iter().filter(odd).collect();
        ensure!(odd.is_empty(), "{odd:#?}");
    }
    let (good, bad, last) = prober.ask()?;
    ensure!(good == 0, "{good} of {} attempts were answered", good + bad);
    ensure!(bad > 0, "it did not try: {last}");
    ensure!(
        receiver.is_untouched(&world.node, outside.ip())?,
        "{outside} was reached"
    );

    // And it was the boundary that did it.
    now.detach()?;
    wait_for("an attempt to arrive", || Ok(receiver.connection()?))?;
    Ok(())
}

/// A word that another took over, from anybody, frees nobody; and one that comes after a death has
/// the same port, so that what the agent was told of its proxy holds.
#[test]
fn after_a_death_the_port_stays_if_it_is_free() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let outside = SocketAddr::new(IpAddr::V4(ORIGIN4), receiver.port());
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let target = ["--cgroup", &cgroup];
    let policy = "schema = 1\nagent = \"upgraded\"\n";
    let mut first = Attachment::start(&world, policy, target)?;
    let port = first.port()?;
    first.signal(Signal::SIGUSR1)?;
    wait_for("it to say that there is none", || {
        Ok(first.said()?.contains("and there is none").then_some(()))
    })?;
    puppet.hold("meanwhile", Way::Tcp, outside)?;
    ensure!(
        receiver.is_untouched(&world.node, outside.ip())?,
        "it got out"
    );
    first.end_by(Signal::SIGKILL)?;

    let mut second = Attachment::start(&world, policy, target)?;
    ensure!(second.port()? == port, "{}", second.said()?);
    second.end_by(Signal::SIGKILL)?;

    let _thief = world
        .node
        .run(|| TcpListener::bind(("127.0.0.1", port)))
        .context("the port is free")?;
    let third = Attachment::start(&world, policy, target)?;
    let said = third.said()?;
    ensure!(third.port()? != port && said.contains("is taken"), "{said}");
    ensure!(
        receiver.is_untouched(&world.node, outside.ip())?,
        "it got out"
    );
    third.detach()
}

/// How far a take-over comes before it is killed.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Its link to this program is pinned.
    Has(&'static str),
    /// The one before is off the list.
    HandedOver,
}

impl Cut {
    /// Whether this one, which takes over from that session, has come so far.
    fn is_reached(self, half: &Attachment<'_>, before: &str) -> Result<bool> {
        Ok(match self {
            Self::Has(program) => {
                pins(&half.session()?).is_some_and(|pins| pins.join("links").join(program).exists())
            }
            Self::HandedOver => !Path::new("/run/sluice")
                .join(before)
                .join("session.json")
                .exists(),
        })
    }
}

/// Wherever a take-over ends, nobody is free, and the next one serves; nothing is left of any.
#[test]
fn a_take_over_that_ends_half_way_is_made_good() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let receiver = Receiver::listen(&world.origin, 0)?;
    let denied = Receiver::listen(&world.origin, 0)?;
    let address = |receiver: &Receiver| SocketAddr::new(IpAddr::V4(ORIGIN4), receiver.port());
    let policy = format!(
        "schema = 1\nagent = \"upgraded\"\n[[egress]]\nid = \"raw\"\n\
         tcp = [\"{ORIGIN4}:{}\"]\nprivate = true\n",
        receiver.port()
    );
    let group = Group::new()?;
    let mut puppet = Puppet::start_in(&world, group.path())?;
    let cgroup = group.path().display().to_string();
    let target = ["--cgroup", &cgroup, "--replace"];
    let mut now = Attachment::start(&world, &policy, target)?;
    for cut in [
        Cut::Has("gateway_ops"),
        Cut::Has("connect4"),
        Cut::Has("egress"),
        Cut::Has("process_exec"),
        Cut::HandedOver,
    ] {
        let mut half = Attachment::spawn(&world, sluice()?, &policy, target)?;
        wait_for("the take-over", || {
            Ok(cut.is_reached(&half, now.name())?.then_some(()))
        })
        .with_context(|| format!("{cut:?}: {:?}", half.said()))?;
        half.signal(Signal::SIGKILL)?;
        half.wait()?;
        puppet.once(Way::Tcp, address(&denied))?;
        ensure!(
            denied.is_untouched(&world.node, address(&denied).ip())?,
            "{cut:?}: it got out"
        );

        let next =
            Attachment::start(&world, &policy, target).with_context(|| format!("after {cut:?}"))?;
        let answered = thread::scope(|scope| {
            let answer = scope.spawn(|| {
                let (mut stream, _) = wait_for("what is allowed", || Ok(receiver.connection()?))?;
                Ok::<_, anyhow::Error>(stream.write_all(b"answer")?)
            });
            let answered = puppet.once(Way::Tcp, address(&receiver));
            answer.join().expect("no panic")?;
            answered
        });
        let answered = answered.with_context(|| format!("after {cut:?}: {:?}", next.said()))?;
        ensure!(answered == "answered", "after {cut:?}: {answered}");
        let status = now.wait()?;
        ensure!(status == 0, "{cut:?}: {status}: {}", now.said()?);
        let listed = agents(&world)?;
        let own: Vec<_> = listed
            .iter()
            .filter(|session| field(session, "cgroup") == cgroup)
            .map(|session| field(session, "run"))
            .collect();
        ensure!(own == [next.name()], "{cut:?}: {listed:#?}");
        now = next;
    }
    // Detached, nothing else holds it.
    let left = now.name().to_owned();
    now.detach()?;
    puppet.once(Way::Tcp, address(&denied))?;
    wait_for("who is free to get out", || Ok(denied.connection()?))?;
    ensure!(pins(&left).is_none(), "its pins are left");
    Ok(())
}
