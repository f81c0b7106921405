//! A process of nobody's in particular that does what it is told to, and says how that went: what
//! runs before `sluice attach` comes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{skip::PYTHON, world::World};

/// Obeys lines of JSON, a list of words each, and answers each with one line of JSON.
const PROGRAM: &str = r#"
import ctypes, errno, fcntl, json, os, socket, struct, subprocess, sys
held = {}
kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
def enter(folder):
    with open(folder + "/cgroup.procs", "w") as procs:
        procs.write("0")
def reach(kind, host, port):
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kinds[kind])
    one.settimeout(20)
    one.connect((host, int(port)))
    one.send(b"x")
    return one
def hold(name, *where):
    held[name] = reach(*where)
def once(*where):
    with reach(*where) as one:
        if one.type == socket.SOCK_STREAM:
            return "answered" if one.recv(16) else "closed"
def send(name):
    held[name].send(b"further")
def again(name, host, port):
    one = held[name]
    if one.type == socket.SOCK_STREAM:
        # A connection that was cut: forgotten, so that there can be another.
        libc = ctypes.CDLL(None, use_errno=True)
        libc.connect(one.fileno(), bytes(16), 16)
    one.connect((host, int(port)))
    one.send(b"again")
def isolate():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        up = struct.pack("16sh14x", b"lo", 1 | 64)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(one, 0x8914, up)  # SIOCSIFFLAGS
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=25)
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr}
for line in sys.stdin:
    word, *rest = json.loads(line)
    try:
        result = globals()[word](*rest)
    except OSError as error:
        result = errno.errorcode.get(error.errno, repr(error))
    print(json.dumps("done" if result is None else result), flush=True)
"#;

/// How it reaches out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A TCP connection.
    Tcp,
    /// A connected UDP socket.
    Udp,
}

impl Way {
    const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The process. Dropped, it ends.
#[derive(Debug)]
pub struct Puppet {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Puppet {
    /// Starts it in the node's namespace, in the cgroup of the test.
    ///
    /// # Errors
    /// If there is no Python.
    pub fn start(world: &World) -> Result<Self> {
        let mut command = Command::new(PYTHON);
        command
            .args(["-I", "-c", PROGRAM])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = world.node.run(|| command.spawn())?;
        let input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        Ok(Self {
            child,
            input,
            output,
        })
    }

    /// The same, and moves into a cgroup before it does anything else.
    ///
    /// # Errors
    /// If it does not get there.
    pub fn start_in(world: &World, cgroup: &Path) -> Result<Self> {
        let mut puppet = Self::start(world)?;
        puppet.enter(cgroup)?;
        Ok(puppet)
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Moves into a cgroup.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn enter(&mut self, cgroup: &Path) -> Result<()> {
        let folder = cgroup.display().to_string();
        let answer = self.ask(&["enter", &folder])?;
        anyhow::ensure!(answer == "done", "entering {folder}: {answer}");
        Ok(())
    }

    /// Connects, sends a byte, and lets go; over TCP only once the other side has answered or
    /// closed. Answers with `answered`, `closed`, `done`, or the name of the errno.
    ///
    /// # Errors
    /// If it is gone.
    pub fn once(&mut self, way: Way, to: SocketAddr) -> Result<String> {
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        self.text(&["once", way.word(), &host, &port])
    }

    /// Connects, sends a byte, and keeps the socket under this name.
    ///
    /// # Errors
    /// If it is gone.
    pub fn hold(&mut self, name: &str, way: Way, to: SocketAddr) -> Result<String> {
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        self.text(&["hold", name, way.word(), &host, &port])
    }

    /// Sends on a socket that it keeps.
    ///
    /// # Errors
    /// If it is gone.
    pub fn send(&mut self, name: &str) -> Result<String> {
        self.text(&["send", name])
    }

    /// Connects a socket that it keeps once more, and sends on it.
    ///
    /// # Errors
    /// If it is gone.
    pub fn again(&mut self, name: &str, to: SocketAddr) -> Result<String> {
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        self.text(&["again", name, &host, &port])
    }

    /// Enters a network namespace of its own, which has a loopback interface and nothing else.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn isolate(&mut self) -> Result<()> {
        let answer = self.ask(&["isolate"])?;
        anyhow::ensure!(answer == "done", "a network namespace: {answer}");
        Ok(())
    }

    /// Runs a program: its exit status, output and errors.
    ///
    /// # Errors
    /// If it is gone.
    pub fn run(&mut self, words: &[&str]) -> Result<Value> {
        let words: Vec<_> = ["run"].iter().chain(words).copied().collect();
        self.ask(&words)
    }

    fn text(&mut self, words: &[&str]) -> Result<String> {
        let answer = self.ask(words)?;
        Ok(answer.as_str().context("a word")?.to_owned())
    }

    fn ask(&mut self, words: &[&str]) -> Result<Value> {
        serde_json::to_writer(&self.input, words)?;
        self.input.write_all(b"\n")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{words:?} was answered {line:?}"))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
