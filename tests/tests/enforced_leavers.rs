//! Nobody leaves an agent's cgroup and lives: not root, not with another's help, not by being
//! born outside. Seen at the receiving end, and with each program taken away in turn.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    agent::{Agent, Running, field, pins, sweep},
    cgroup::{self, Group},
    deadline::{wait_for, wait_for_exit},
    needs_root,
    receiver::Receiver,
    skip::PYTHON,
    world::{ORIGIN4, World},
};

const NOTHING: &str = "schema = 1\nagent = \"leaver\"\n";
const SIGKILL: i32 = 9;

/// What all attempts begin with: root joins the agent's cgroup, says so, and waits for the word.
/// Arguments: the agent's cgroup, one outside, the receiver's address and port.
const PROLOGUE: &str = r#"
import ctypes, os, socket, struct, sys, threading
inside, outside, address, port = sys.argv[1:4] + [int(sys.argv[4])]
# Opened outside: with LSM programs nothing of the kind is opened inside.
procs = {folder: os.open(f"{folder}/cgroup.procs", os.O_WRONLY) for folder in (inside, outside)}
below = inside + "/below"
if os.path.exists(below):
    procs[below] = os.open(f"{below}/cgroup.procs", os.O_WRONLY)
def move(folder, pid=0):
    os.write(procs[folder], str(pid).encode())
def send(word):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(word, (address, port))
move(inside)
print("ready", os.getpid(), flush=True)
sys.stdin.readline()
"#;

/// Leaves and sends.
const ITSELF: &str = "
move(outside)
send(b'itself')
";

/// A thread takes all of the process along.
const THREAD: &str = "
def leave():
    move(outside)
    send(b'thread')
one = threading.Thread(target=leave)
one.start()
one.join()
send(b'thread')
";

/// Leaves and comes back, again and again.
const LOOP: &str = "
while True:
    move(outside)
    send(b'loop')
    move(inside)
";

/// A process that was forked inside and has executed nothing leaves.
const CHILD: &str = "
child = os.fork()
if child == 0:
    move(outside)
    send(b'child')
    os._exit(0)
status = os.waitpid(child, 0)[1]
print('child', status, flush=True)
sys.stdin.readline()
";

/// One moves another, and both are the agent's.
const OTHER: &str = "
one, other = os.pipe()
child = os.fork()
if child == 0:
    os.close(other)
    os.read(one, 1)
    os._exit(0)
print('child', child, flush=True)
move(outside, child)
send(b'other')
";

/// A child is born outside: CLONE_INTO_CGROUP.
const BORN: &str = "
libc = ctypes.CDLL(None, use_errno=True)
CLONE_INTO_CGROUP, SIGCHLD, SYS_clone3 = 0x200000000, 17, 435
folder = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
arguments = struct.pack('11Q', CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, folder)
child = libc.syscall(SYS_clone3, arguments, len(arguments))
if child == 0:
    sys.stdin.readline()
    os._exit(0)
print('child', child, flush=True)
sys.stdin.readline()
";

/// An agent, a cgroup outside, and a receiver.
struct Scene {
    world: World,
    receiver: Receiver,
    inside: PathBuf,
    /// A cgroup that is nobody's.
    outside: Group,
    running: Running,
}

impl Scene {
    fn new() -> Result<Self> {
        let world = World::new()?;
        let receiver = Receiver::listen(&world.origin, 0)?;
        let outside = Group::new()?;
        let mut running = Agent::new(&world, NOTHING)?
            .prepare(|command| {
                command.stdin(Stdio::piped());
            })
            .spawn(["/bin/sh", "-c", "echo up; exec cat"])?;
        running.wait_for_output("up")?;
        let inside = running.cgroup()?;
        Ok(Self {
            world,
            receiver,
            inside,
            outside,
            running,
        })
    }

    /// Starts an attempt; it has joined and waits for the word.
    fn attempt(&self, script: &str) -> Result<Attempt> {
        let mut command = Command::new(PYTHON);
        command
            .arg("-c")
            .arg(format!("{PROLOGUE}{script}"))
            .args([&self.inside, self.outside.path()])
            .arg(ORIGIN4.to_string())
            .arg(self.receiver.port().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.world.node.run(|| command.spawn())?;
        let output = child.stdout.take().context("a pipe")?;
        let mut attempt = Attempt {
            child,
            output: BufReader::new(output),
        };
        attempt.number("ready")?;
        Ok(attempt)
    }

    /// Whether nothing has arrived so far.
    fn nothing_arrived(&self) -> Result<bool> {
        let address = IpAddr::V4(ORIGIN4);
        self.receiver.is_untouched(&self.world.node, address)
    }

    /// Waits for the record of this process.
    fn wait_for_record(&self, hook: &str, pid: u32) -> Result<()> {
        wait_for(&format!("a record of {pid} by {hook}"), || {
            let records = self.running.records()?;
            let found = records.iter().any(|record| {
                field(record, "reason") == "left_cgroup"
                    && field(record, "method") == hook
                    && field(record, "outcome") == "deny"
                    && field(record, "process.pid") == pid.to_string()
                    && !field(record, "process.exec_id").is_empty()
            });
            Ok(found.then_some(()))
        })
        .with_context(|| format!("{:#?}", self.running.records()))
    }

    /// Takes a program away: nobody but the pin holds its link once Sluice is killed.
    fn without(&mut self, program: &str) -> Result<()> {
        let name = self.running.name()?;
        self.running.kill_sluice()?;
        let pins = pins(&name).context("the run has pins")?;
        fs::remove_file(pins.join("links").join(program))?;
        Ok(())
    }
}

/// A process of root's inside the agent's cgroup.
struct Attempt {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Attempt {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn go(&mut self) -> Result<()> {
        let input = self.child.stdin.as_mut().context("a pipe")?;
        input.write_all(b"\n").context("giving the word")
    }

    /// The number behind this word on the next line.
    fn number(&mut self, word: &str) -> Result<u32> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let number = line.strip_prefix(word).map(str::trim);
        let number = number.and_then(|number| number.parse().ok());
        let mut said = String::new();
        if number.is_none()
            && let Some(mut errors) = self.child.stderr.take()
        {
            self.child.kill()?;
            errors.read_to_string(&mut said)?;
        }
        number.with_context(|| format!("{line:?} is no {word}: {said}"))
    }

    /// The signal that ended it.
    fn signal(&mut self) -> Result<Option<i32>> {
        Ok(wait_for_exit(&mut self.child)?.signal())
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn is_gone(pid: u32) -> Result<Option<()>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat.map(|stat| {
        stat.rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with('Z'))
    });
    Ok((!matches!(state, Ok(Some(false)))).then_some(()))
}

fn killed(script: &str) -> Result<()> {
    let scene = Scene::new()?;
    let mut attempt = scene.attempt(script)?;
    attempt.go()?;
    ensure!(attempt.signal()? == Some(SIGKILL), "it lived on");
    ensure!(scene.nothing_arrived()?, "it got out");
    scene.wait_for_record("cgroup_attach_task", attempt.pid())
}

#[test]
fn one_that_leaves_is_killed_before_it_can_send() -> Result<()> {
    needs_root!();
    killed(ITSELF)
}

#[test]
fn a_thread_that_leaves_takes_its_process_to_death() -> Result<()> {
    needs_root!();
    killed(THREAD)
}

#[test]
fn coming_back_does_not_help() -> Result<()> {
    needs_root!();
    killed(LOOP)
}

#[test]
fn a_child_that_executed_nothing_is_known_all_the_same() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let mut attempt = scene.attempt(CHILD)?;
    attempt.go()?;
    ensure!(
        attempt.number("child")? == SIGKILL as u32,
        "the child lived on"
    );
    ensure!(scene.nothing_arrived()?, "it got out");
    wait_for("the record, with the parent", || {
        let records = scene.running.records()?;
        let parent = u64::from(attempt.pid());
        Ok(records
            .iter()
            .any(|record| {
                let parents = record.pointer("/process/parents/0/pid");
                field(record, "reason") == "left_cgroup"
                    && parents.and_then(serde_json::Value::as_u64) == Some(parent)
            })
            .then_some(()))
    })
}

#[test]
fn who_moves_another_out_dies_with_it() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let mut attempt = scene.attempt(OTHER)?;
    attempt.go()?;
    let child = attempt.number("child")?;
    ensure!(attempt.signal()? == Some(SIGKILL), "the mover lived on");
    wait_for("the moved one to die", || is_gone(child))?;
    ensure!(scene.nothing_arrived()?, "it got out");
    scene.wait_for_record("cgroup_attach_task", child)
}

#[test]
fn one_that_is_moved_from_outside_dies_and_the_mover_lives() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let mut attempt = scene.attempt(ITSELF)?;
    fs::write(
        scene.outside.path().join("cgroup.procs"),
        attempt.pid().to_string(),
    )?;
    ensure!(attempt.signal()? == Some(SIGKILL), "it lived on");
    scene.wait_for_record("cgroup_attach_task", attempt.pid())
}

#[test]
fn one_that_is_born_outside_dies_with_its_parent() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let mut attempt = scene.attempt(BORN)?;
    attempt.go()?;
    ensure!(attempt.signal()? == Some(SIGKILL), "the parent lived on");
    wait_for("the one born outside to die", || {
        Ok(cgroup::is_empty(scene.outside.path())?.then_some(()))
    })?;
    wait_for("the record", || {
        let records = scene.running.records()?;
        let found = records
            .iter()
            .any(|record| field(record, "method") == "process_fork");
        Ok(found.then_some(()))
    })
}

#[test]
fn a_move_below_the_agent_is_no_leave() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let _below = Group::at(scene.inside.join("below"))?;
    let mut attempt = scene.attempt("move(below)\nprint('alive', 1, flush=True)")?;
    attempt.go()?;
    ensure!(attempt.number("alive")? == 1);
    ensure!(attempt.signal()?.is_none(), "it was killed");
    Ok(())
}

#[test]
fn it_holds_without_sluice_and_not_without_the_program() -> Result<()> {
    needs_root!();
    let mut scene = Scene::new()?;
    scene.running.kill_sluice()?;
    let mut attempt = scene.attempt(ITSELF)?;
    attempt.go()?;
    ensure!(attempt.signal()? == Some(SIGKILL), "it lived on");
    ensure!(scene.nothing_arrived()?, "it got out");
    let name = scene.running.name()?;
    drop(scene);
    ensure!(pins(&name).is_some());

    // The control: each way works without the program that sees it.
    for (program, script) in [("process_move", ITSELF), ("process_fork", CHILD)] {
        let mut scene = Scene::new()?;
        scene.without(program)?;
        let port = scene.receiver.port();
        wait_for(&format!("a leaver to get out without {program}"), || {
            let mut attempt = scene.attempt(script)?;
            attempt.go()?;
            if script == CHILD {
                attempt.number("child")?;
                attempt.go()?;
            }
            attempt.signal()?;
            let to = SocketAddr::from((ORIGIN4, port));
            Ok((!scene.nothing_arrived()?).then_some(to))
        })?;
    }
    sweep(&World::new()?)
}

/// Forks and waits, more often than account is kept of processes at once. A shell, since it is
/// small: forking something large takes long.
const FORKS: &str = "
words = 'n=0; while [ $n -lt 8300 ]; do (:); n=$((n + 1)); done; echo done 1'
os.execv('/bin/sh', ['sh', '-c', words])
";

#[test]
fn ended_processes_make_room_and_a_full_table_kills_who_forks() -> Result<()> {
    needs_root!();
    let mut scene = Scene::new()?;
    let mut attempt = scene.attempt(FORKS)?;
    attempt.go()?;
    ensure!(attempt.number("done")? == 1);
    ensure!(attempt.signal()?.is_none(), "it was killed");

    // Nobody tells of ends any more.
    scene.without("process_exit")?;
    wait_for("the table to fill", || {
        let mut attempt = scene.attempt(FORKS)?;
        attempt.go()?;
        Ok((attempt.signal()? == Some(SIGKILL)).then_some(()))
    })?;
    let inside: &Path = &scene.inside;
    ensure!(!cgroup::is_empty(inside)?, "only who forked was to die");
    drop(scene);
    sweep(&World::new()?)
}
