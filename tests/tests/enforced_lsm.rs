//! What only a security module refuses: tried by root inside an agent's cgroup, where no launcher
//! stands in the way. Where `bpf` is no active security module the same calls succeed, and Sluice
//! says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use gateway_userspace::kernel::LSM_PROGRAMS;
use serde_json::Value;
use sluice_tests::{
    agent::{Agent, Running, field, sluice},
    attachment::{Attachment, agents},
    cgroup::Group,
    deadline::wait_for,
    needs_root,
    skip::PYTHON,
    vectors::pins,
    world::World,
};

const NOTHING: &str = "schema = 1\nagent = \"modules\"\n";
const OWN: &str = "schema = 1\nagent = \"modules\"\n[network]\nunix = [\"self\"]\n";

/// Each call with the errno that it ended with, 0 for none, on a line of its own. The first
/// argument is the cgroup to join, or nothing.
const CALLS: &str = r#"
import ctypes, os, socket, struct, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PIDFD_GETFD, BPF, CLONE_NEWNS = 438, 321, 0x20000
MS_REC_PRIVATE = 0x4000 | (1 << 18)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def tell(name, call):
    try:
        call()
        print(name, 0, flush=True)
    except OSError as error:
        print(name, error.errno, flush=True)

# What is there before: mounts of one's own, a socket of a stranger's, listeners of a stranger's.
checked(libc.unshare(CLONE_NEWNS))
checked(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None))
folder = tempfile.mkdtemp().encode()
checked(libc.mount(b"none", folder, b"tmpfs", 0, None))
foreign = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
stream, datagram = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
stream.bind(b"\0stream%d" % os.getpid())
stream.listen()
datagram.bind(b"\0datagram%d" % os.getpid())
procs = sys.argv[2] + "/cgroup.procs"
if sys.argv[1]:
    with open(f"{sys.argv[1]}/cgroup.procs", "w") as join:
        join.write("0")
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
mine, parent = os.pidfd_open(os.getpid()), os.pidfd_open(os.getppid())

def take(process, number):
    checked(libc.syscall(PIDFD_GETFD, process, number, 0))

def pass_on(one):
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [one.fileno()])
    if not socket.recv_fds(right, 1, 1)[1]:
        raise OSError(1, "nothing arrived")

tell("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
tell("diagnosis", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4))
tell("route", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
tell("take-foreign", lambda: take(mine, foreign.fileno()))
tell("take-own", lambda: take(mine, own.fileno()))
tell("receive-foreign", lambda: pass_on(foreign))
tell("receive-own", lambda: pass_on(own))
tell("parent", lambda: take(parent, 0))
tell("bpf", lambda: checked(libc.syscall(BPF, 0xffff, ctypes.create_string_buffer(8), 8)))
tell("mount", lambda: checked(libc.mount(b"none", folder, b"tmpfs", 0, None)))
tell("umount", lambda: checked(libc.umount2(folder, 2)))
tell("procs", lambda: os.close(os.open(procs, os.O_WRONLY)))
tell("read-procs", lambda: os.close(os.open(procs, os.O_RDONLY)))

def connect(kind, name):
    one = socket.socket(socket.AF_UNIX, kind)
    one.connect(name)

tell("unix-stream", lambda: connect(socket.SOCK_STREAM, stream.getsockname()))
tell("unix-datagram", lambda: connect(socket.SOCK_DGRAM, datagram.getsockname()))
listener = socket.socket(socket.AF_UNIX)
listener.bind(b"\0own%d" % os.getpid())
listener.listen()
tell("unix-own", lambda: connect(socket.SOCK_STREAM, listener.getsockname()))
pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
tell("unix-pair", lambda: pair[0].send(b"x"))
"#;

/// A call, the errno inside, and the record: hook and reason.
const REFUSED: &[(&str, i32, &str, &str)] = &[
    (
        "packet",
        libc::EAFNOSUPPORT,
        "lsm_socket_create",
        "socket_family",
    ),
    (
        "diagnosis",
        libc::EAFNOSUPPORT,
        "lsm_socket_create",
        "socket_family",
    ),
    (
        "take-foreign",
        libc::EPERM,
        "lsm_file_receive",
        "descriptor_received",
    ),
    (
        "receive-foreign",
        libc::EPERM,
        "lsm_file_receive",
        "descriptor_received",
    ),
    (
        "parent",
        libc::EPERM,
        "lsm_ptrace_access_check",
        "process_access",
    ),
    ("bpf", libc::EPERM, "lsm_bpf", "bpf_call"),
    ("mount", libc::EPERM, "lsm_sb_mount", "mount"),
    ("umount", libc::EPERM, "lsm_sb_umount", "mount"),
    ("procs", libc::EACCES, "lsm_file_open", "cgroup_write"),
];

/// Calls that go on inside as outside.
const ALLOWED: &[&str] = &[
    "route",
    "take-own",
    "receive-own",
    "read-procs",
    "unix-pair",
];

/// The same for unix sockets, under a policy that allows the agent's own.
const UNIX: &[(&str, i32, &str, &str)] = &[
    (
        "unix-stream",
        libc::EACCES,
        "lsm_unix_stream_connect",
        "unix_socket",
    ),
    (
        "unix-datagram",
        libc::EACCES,
        "lsm_unix_may_send",
        "unix_socket",
    ),
];

/// Whether the kernel says that BPF programs may refuse; it is not asked where it says nothing.
fn is_active() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm")
        .is_ok_and(|modules| modules.trim().split(',').any(|module| module == "bpf"))
}

/// What `sluice doctor` finds.
fn report() -> Result<Value> {
    let output = Command::new(sluice()?)
        .args(["doctor", "--json"])
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What it finds of this.
fn doctor(check: &str) -> Result<bool> {
    let report = report()?;
    let findings = report.get("findings").and_then(Value::as_array);
    let found = findings
        .context("findings")?
        .iter()
        .find(|found| field(found, "check") == check)
        .with_context(|| format!("{check}: {report:#}"))?;
    found["ok"].as_bool().context("a finding is good or not")
}

fn agent(world: &World, policy: &str) -> Result<Running> {
    let mut running = Agent::new(world, policy)?
        .prepare(|command| {
            command.stdin(Stdio::piped());
        })
        .spawn(["/bin/sh", "-c", "echo up; exec cat"])?;
    running.wait_for_output("up")?;
    Ok(running)
}

/// Makes the calls, inside this cgroup or outside of all.
fn calls(world: &World, inside: Option<&Path>, procs: &Path) -> Result<BTreeMap<String, i32>> {
    let mut command = Command::new(PYTHON);
    command
        .arg("-c")
        .arg(CALLS)
        .arg(inside.unwrap_or(Path::new("")))
        .arg(procs);
    let output = world.node.run(|| command.output())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{errors}");
    said.lines()
        .map(|line| {
            let (name, errno) = line.split_once(' ').context("a name and an errno")?;
            Ok((name.to_owned(), errno.parse()?))
        })
        .collect()
}

/// Checks refusals against what was seen inside and outside, and against the records.
fn check(
    expected: &[(&str, i32, &str, &str)],
    inside: &BTreeMap<String, i32>,
    outside: &BTreeMap<String, i32>,
    running: &Running,
) -> Result<()> {
    for (call, errno, hook, reason) in expected {
        // There is no such command of bpf(2): that is what the kernel says where it looks.
        let control = if *call == "bpf" { libc::EINVAL } else { 0 };
        ensure!(outside.get(*call) == Some(&control), "{call}: {outside:?}");
        ensure!(inside.get(*call) == Some(errno), "{call}: {inside:?}");
        wait_for(&format!("the record of {call}"), || {
            let records = running.records()?;
            let found = records.iter().any(|record| {
                field(record, "method") == *hook
                    && field(record, "reason") == *reason
                    && field(record, "outcome") == "deny"
                    && field(record, "process.exe").contains("python3")
            });
            Ok(found.then_some(()))
        })
        .with_context(|| format!("{:#?}", running.records()))?;
    }
    Ok(())
}

#[test]
fn what_is_refused_inside_is_what_goes_on_outside() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let mut running = agent(&world, NOTHING)?;
    let cgroup = running.cgroup()?;
    let outside = calls(&world, None, &cgroup)?;
    let inside = calls(&world, Some(&cgroup), &cgroup)?;
    for call in ALLOWED {
        ensure!(outside.get(*call) == Some(&0), "{call}: {outside:?}");
        ensure!(inside.get(*call) == Some(&0), "{call}: {inside:?}");
    }
    if is_active() {
        return check(REFUSED, &inside, &outside, &running);
    }
    // Nothing refuses, and nobody says that anything does.
    for (call, ..) in REFUSED {
        ensure!(
            inside.get(*call) == outside.get(*call),
            "{call}: {inside:?}"
        );
    }
    Ok(())
}

#[test]
fn own_unix_sockets_are_told_from_others_or_nothing_starts() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    if !is_active() {
        let finished = Agent::new(&world, OWN)?.run(["/bin/echo", "ran"])?;
        ensure!(
            finished.status == 125 && finished.out().is_empty(),
            "{finished:?}"
        );
        ensure!(finished.err().contains("unix = [\"self\"]"), "{finished:?}");
        return Ok(());
    }
    let mut running = agent(&world, OWN)?;
    let cgroup = running.cgroup()?;
    let outside = calls(&world, None, &cgroup)?;
    let inside = calls(&world, Some(&cgroup), &cgroup)?;
    ensure!(inside.get("unix-own") == Some(&0), "{inside:?}");
    check(UNIX, &inside, &outside, &running)
}

/// Each program refuses what no other does: with it gone, its calls go on as they do outside, and
/// those of the others fail as before.
#[test]
fn each_module_program_is_needed() -> Result<()> {
    needs_root!();
    if !is_active() {
        // There is none to be taken away; the tests before say what is open then.
        return Ok(());
    }
    let world = World::new()?;
    let mut running = agent(&world, OWN)?;
    let (run, cgroup) = (running.name()?, running.cgroup()?);
    let outside = calls(&world, None, &cgroup)?;
    let expected: Vec<_> = REFUSED.iter().chain(UNIX).collect();
    let programs: BTreeSet<_> = expected.iter().map(|(_, _, hook, _)| *hook).collect();
    ensure!(programs.len() == LSM_PROGRAMS.len(), "{programs:?}");
    let mut gone = BTreeSet::new();
    for program in [None].into_iter().chain(programs.into_iter().map(Some)) {
        if let Some(program) = program {
            pins::detach_from(&run, program)?;
            gone.insert(program);
        }
        let inside = calls(&world, Some(&cgroup), &cgroup)?;
        for (call, errno, hook, _) in &expected {
            let found = inside.get(*call).context("a call")?;
            let errno = match gone.contains(hook) {
                true => outside.get(*call).context("a call")?,
                false => errno,
            };
            ensure!(found == errno, "{call} without {gone:?}: {inside:?}");
        }
    }
    Ok(())
}

#[test]
fn doctor_says_what_holds_and_not_what_is_attached() -> Result<()> {
    needs_root!();
    // Attached they are either way. What the calls of the other tests find is the proof.
    ensure!(doctor("LSM programs")? == is_active(), "of what holds");
    ensure!(doctor("leavers")?, "leavers are not killed");
    Ok(())
}

/// Somebody who has nothing that stands in the way, and runs already: what is open to him depends
/// on the security modules alone.
#[test]
fn who_runs_already_is_confined_only_with_them() -> Result<()> {
    needs_root!();
    let world = World::new()?;
    let group = Group::new()?;
    let mut bare = Command::new("setpriv");
    bare.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"])
        .args(["sleep", "3600"])
        .stdin(Stdio::null());
    let mut bare = bare.spawn().context("setpriv")?;
    fs::write(group.path().join("cgroup.procs"), bare.id().to_string())?;
    wait_for("it to have become nobody", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", bare.id()))?;
        Ok((name.trim() == "sleep").then_some(()))
    })?;
    let cgroup = group.path().display().to_string();
    let attachment = Attachment::start(&world, NOTHING, ["--cgroup", &cgroup])?;
    let records = attachment.records()?;
    let level = field(records.first().context("a session record")?, "assurance");
    let listed = agents(&world)?;
    let own = listed
        .iter()
        .find(|one| field(one, "run") == attachment.name())
        .context("it is listed")?;
    let expected = match is_active() {
        true => "confined",
        false => "partial",
    };
    ensure!(level == expected, "{records:#?}");
    ensure!(field(own, "assurance") == level, "{own:#}");
    ensure!(
        field(own, "open").contains("families without a cgroup hook") != is_active(),
        "{own:#}"
    );
    let report = report()?;
    ensure!(field(&report, "attached") == level, "{report:#}");
    attachment.detach()?;
    bare.kill()?;
    bare.wait()?;
    Ok(())
}
