//! Each step of the launcher is needed: with any one left out, either nothing is run, because the
//! launcher looks at what it made, or a way out is open that was shut.
//!
//! Steps are left out by a tracer (`omission`), one run each. What is asked by then is asked three
//! times: by root unconfined, by an agent, and by an agent whose launcher left the step out. BPF's
//! security modules close some of these ways a second time: see `enforced_lsm`.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, ensure};
use gateway_userspace::kernel::cgroup::mount_point;
use nix::{pty::openpty, unistd::ttyname};
use sluice_tests::{
    agent::{Agent, Finished, command, random, sweep},
    needs_root,
    omission::{
        Instead, Omission,
        Which::{At, Nth, With},
    },
    skip::{self, PYTHON},
    world::World,
};

/// `sluice run` failed before the command started.
const FAILED: i32 = 125;

/// What stands around the command, and what it could get at: a terminal, an open descriptor, a
/// key, a service in `/run`, and memory of others.
const SETTING: &str = r#"
import ctypes, fcntl, os, sys, termios
scene, terminal, *command = sys.argv[1:]
# Whoever leads a group cannot lead a session.
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.setsid()
tty = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
STEAL = 1
fcntl.ioctl(tty, termios.TIOCSCTTY, STEAL)
os.close(tty)
os.dup2(os.open(scene + '/witness', os.O_RDWR), 9)
libc = ctypes.CDLL(None, use_errno=True)
JOIN, ADD_KEY, KEYCTL, SESSION = 1, 248, 250, -3
assert libc.syscall(KEYCTL, JOIN, None) > 0, 'no keyring'
assert libc.syscall(ADD_KEY, b'user', b'witness', b'x', 1, SESSION) > 0, 'no key'
os.execvp(command[0], command)
"#;

/// What every question begins with: `found` ends it.
const QUESTION: &str = r#"
import ctypes, os, resource, struct, sys
scene, terminal, audit, cgroups, outsider, memory, init = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
def found(what):
    os.write(1, b'open' if what else b'shut')
    os._exit(0)
def can(act):
    try:
        act()
        return True
    except OSError:
        return False
def writable(path):
    return can(lambda: os.close(os.open(path, os.O_RDWR | os.O_NOCTTY)))
"#;

/// What comes of a step left out.
enum Then {
    /// Nothing is run, with these words in the complaint.
    NothingRuns(&'static str),
    /// This question is answered otherwise.
    Opens(&'static str),
}
use Then::{NothingRuns, Opens};

struct Step {
    name: &'static str,
    left_out: Vec<Omission>,
    policy: &'static str,
    /// As uid 0; otherwise as a uid without an account.
    rooted: bool,
    then: Then,
}

fn step(name: &'static str, left_out: impl Into<Vec<Omission>>, then: Then) -> Step {
    Step {
        name,
        left_out: left_out.into(),
        policy: "",
        rooted: false,
        then,
    }
}

fn rooted(name: &'static str, left_out: impl Into<Vec<Omission>>, then: Then) -> Step {
    Step {
        rooted: true,
        ..step(name, left_out, then)
    }
}

const fn prctl(option: i32) -> Omission {
    Omission::which(libc::SYS_prctl, With(0, option as u64))
}

const fn filter(nth: usize) -> Omission {
    Omission::which(libc::SYS_seccomp, Nth(nth))
}

fn mount(at: impl Into<PathBuf>) -> Omission {
    Omission::which(libc::SYS_mount, At(1, at.into()))
}

const fn namespace(flag: i32) -> Omission {
    Omission::flags(libc::SYS_unshare, Instead::Without(flag as u64))
}

const fn born(flag: u64) -> Omission {
    Omission::flags(libc::SYS_clone3, Instead::WithoutAt(flag))
}

/// Steps upon which the launcher does not rely without looking.
fn looked_at() -> Vec<Step> {
    const INTO_CGROUP: u64 = 1 << 33;
    vec![
        rooted(
            "capabilities",
            [Omission::all(libc::SYS_capset)],
            NothingRuns("has capabilities"),
        ),
        step(
            "the bounding set",
            [prctl(libc::PR_CAPBSET_DROP)],
            NothingRuns("has capabilities: CapBnd"),
        ),
        step(
            "the user id",
            [Omission::all(libc::SYS_setresuid)],
            NothingRuns("has the user ids 0"),
        ),
        step(
            "the group id",
            [Omission::all(libc::SYS_setresgid)],
            NothingRuns("has the group ids 0"),
        ),
        step(
            "other groups",
            [Omission::all(libc::SYS_setgroups)],
            NothingRuns("has the groups"),
        ),
        step(
            "no_new_privs",
            [prctl(libc::PR_SET_NO_NEW_PRIVS)],
            NothingRuns("Operation not permitted"),
        ),
        step(
            "all filters of system calls",
            [Omission::all(libc::SYS_seccomp)],
            NothingRuns("has Seccomp \"0\""),
        ),
        // It loses what the launcher looks by.
        step(
            "the mount namespace",
            [namespace(libc::CLONE_NEWNS)],
            NothingRuns("looking at the agent's first process"),
        ),
        step(
            "the IPC namespace",
            [namespace(libc::CLONE_NEWIPC)],
            NothingRuns("shares this ipc namespace"),
        ),
        step(
            "the UTS namespace",
            [namespace(libc::CLONE_NEWUTS)],
            NothingRuns("shares this uts namespace"),
        ),
        step(
            "the cgroup namespace",
            [namespace(libc::CLONE_NEWCGROUP)],
            NothingRuns("shares this cgroup namespace"),
        ),
        step(
            "the pid namespace",
            [born(libc::CLONE_NEWPID as u64)],
            NothingRuns("shares this pid namespace"),
        ),
        step(
            "being born in the cgroup",
            [born(INTO_CGROUP)],
            NothingRuns("instead of the agent's cgroup"),
        ),
    ]
}

/// Steps that nobody looks at again.
fn relied_on() -> Result<Vec<Step>> {
    let cgroups = mount_point()?;
    Ok(vec![
        step(
            "descriptors from outside",
            [Omission::all(libc::SYS_close_range)],
            Opens("found(can(lambda: os.write(9, b'x')))"),
        ),
        step(
            "the filter of calls that lead out",
            [filter(1)],
            Opens("found(libc.unshare(0x10000000) == 0)"),
        ),
        step(
            "the filter of socket families",
            [filter(2)],
            // A socket by which the kernel tells of all sockets, and closes them.
            Opens("import socket\nfound(can(lambda: socket.socket(16, socket.SOCK_RAW, 4)))"),
        ),
        step(
            "the filter of calls that no filter can judge",
            [filter(3)],
            Opens(
                "clone3, child, user = 435, 17, 0x10000000\n\
                 args = struct.pack('11Q', user, 0, 0, 0, child, 0, 0, 0, 0, 0, 0)\n\
                 pid = libc.syscall(clone3, args, len(args))\n\
                 if pid == 0: os._exit(0)\n\
                 found(pid > 0)",
            ),
        ),
        Step {
            policy: "[process]\nread = [\"/usr\", \"/lib\", \"/lib64\", \"/bin\", \"/etc\"]\n",
            ..step(
                "places to read, by Landlock",
                [Omission::all(libc::SYS_landlock_restrict_self)],
                Opens("found(can(lambda: open(scene + '/readable').read()))"),
            )
        },
        // Where no uid changes, nothing else sees to it.
        rooted(
            "an init that cannot be looked into",
            [prctl(libc::PR_SET_DUMPABLE)],
            Opens("found(can(lambda: open('/proc/' + init + '/environ').read()))"),
        ),
        step(
            "a session of its own",
            [Omission::all(libc::SYS_setsid)],
            Opens("found(writable('/dev/tty'))"),
        ),
        // Without the second it could not ask.
        step(
            "a keyring of its own",
            [Omission::which(libc::SYS_keyctl, With(0, 1)), filter(1)],
            Opens("found(libc.syscall(250, 10, -3, b'user', b'witness', 0) > 0)"),
        ),
        step(
            "no core dumps",
            [Omission::which(
                libc::SYS_prlimit64,
                With(1, u64::from(libc::RLIMIT_CORE)),
            )],
            Opens("found(resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)"),
        ),
        step(
            "a `/run` of its own",
            [mount("/run")],
            Opens("found(os.path.exists('/run/service'))"),
        ),
        step(
            "a `/proc` of its own",
            [mount("/proc")],
            Opens("found(os.path.exists('/proc/' + outsider))"),
        ),
        step(
            "terminals of its own",
            [mount("/dev/pts")],
            Opens("found(os.path.exists(terminal))"),
        ),
        step(
            "shared memory of its own",
            [mount("/dev/shm")],
            Opens("found(os.path.exists(memory))"),
        ),
        // Either of the two does; together they are the step.
        step(
            "the cgroup file system",
            [Omission::all(libc::SYS_umount2), mount(&cgroups)],
            Opens("found(os.path.exists(cgroups + '/cgroup.procs'))"),
        ),
        step(
            "keys out of sight",
            [mount("/proc/keys")],
            Opens("found(open('/proc/keys').read())"),
        ),
        step(
            "users of keys out of sight",
            [mount("/proc/key-users")],
            Opens("found(open('/proc/key-users').read())"),
        ),
        rooted(
            "settings of the kernel",
            [mount("/proc/sys")],
            Opens("found(writable('/proc/sys/kernel/core_pattern'))"),
        ),
        rooted(
            "attributes of devices and modules",
            [mount("/sys")],
            Opens("found(writable('/sys/kernel/rcu_expedited'))"),
        ),
        rooted(
            "the audit log",
            [Omission::which(libc::SYS_mount, At(1, AUDIT.into()))],
            Opens("found(can(lambda: open(audit).read()) and open(audit).read())"),
        ),
    ])
}

/// Stands for the path of a run's audit log.
const AUDIT: &str = "AUDIT";

/// What agents could get at.
struct Scene {
    world: World,
    folder: PathBuf,
    memory: PathBuf,
    terminal: nix::pty::OpenptyResult,
    omit: PathBuf,
}

impl Scene {
    fn new() -> Result<Self> {
        let world = World::new()?;
        let folder = world.scratch().to_owned();
        let omit = PathBuf::from(env!("CARGO_BIN_EXE_omit"));
        for (name, mode) in [("witness", 0o600), ("readable", 0o644)] {
            let path = world.file(name, "there is something\n")?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        let run = folder.join("run");
        fs::create_dir(&run)?;
        fs::write(run.join("service"), "")?;
        let memory = Path::new("/dev/shm").join(format!("sluice-{}", random()?));
        fs::write(&memory, "")?;
        Ok(Self {
            terminal: openpty(None, None).context("a terminal")?,
            world,
            folder,
            memory,
            omit,
        })
    }

    /// The beginning of every command: in a mount namespace of its own, whatever is mounted there.
    fn setting(&self) -> Result<Vec<OsString>> {
        let bind = format!("mount --bind {} /run && exec \"$@\"", self.run().display());
        let mut words: Vec<OsString> = ["unshare", "--mount", "--propagation", "private", "--"]
            .map(OsString::from)
            .to_vec();
        words.extend(["/bin/sh", "-c", &bind, "sh", PYTHON, "-c", SETTING].map(OsString::from));
        words.extend([(&self.folder).into(), ttyname(&self.terminal.slave)?.into()]);
        Ok(words)
    }

    fn run(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// `init` is the process that others of the same user could look into.
    fn question(&self, asked: &str, audit: &Path, init: &str) -> Result<Vec<OsString>> {
        let script = format!("{QUESTION}{asked}\n");
        Ok(vec![
            PYTHON.into(),
            "-c".into(),
            script.into(),
            self.folder.clone().into(),
            ttyname(&self.terminal.slave)?.into(),
            audit.into(),
            mount_point()?.into(),
            std::process::id().to_string().into(),
            self.memory.clone().into(),
            init.into(),
        ])
    }

    /// What root unconfined answers.
    fn free(&self, asked: &str) -> Result<String> {
        let audit = self.world.file("audit", "there is something\n")?;
        let words = self.setting()?.into_iter();
        let own = std::process::id().to_string();
        let mut free = command(words.chain(self.question(asked, &audit, &own)?));
        free.stdin(Stdio::null());
        let output = self.world.node.run(|| free.output())?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What an agent answers, or what was said instead.
    fn shut(&self, step: &Step, asked: &str, left_out: bool) -> Result<Finished> {
        let policy = format!("schema = 1\nagent = \"launched\"\n{}", step.policy);
        let name = format!("{}.toml", random()?);
        let policy = self.world.file(&name, &policy)?.display().to_string();
        let audit = self.world.scratch().join(format!("{}.jsonl", random()?));
        let mut words = self.setting()?;
        if left_out {
            let mut steps = step.left_out.clone();
            for step in &mut steps {
                if let At(_, path) = &mut step.of
                    && path == Path::new(AUDIT)
                {
                    path.clone_from(&audit);
                }
            }
            words.extend([(&self.omit).into(), serde_json::to_string(&steps)?.into()]);
        }
        let user = if step.rooted { "0" } else { "61999" };
        let question = self.question(asked, &audit, "1")?;
        Agent::behind(&self.world, &words, audit)?
            .options(["--policy", &policy, "--user", user])
            .run(question)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.memory));
    }
}

/// Answers with what is not as it should be.
fn wrong(scene: &Scene, step: &Step) -> Result<Option<String>> {
    let asked = match step.then {
        NothingRuns(_) => "found(True)",
        Opens(asked) => asked,
    };
    let whole = scene.shut(step, asked, false)?;
    let without = scene.shut(step, asked, true)?;
    Ok(match step.then {
        NothingRuns(words) => {
            let runs = whole.status == 0 && whole.out() == "open";
            let stays = without.status == FAILED && without.out().is_empty();
            (!runs || !stays || !without.err().contains(words))
                .then(|| format!("{whole:?}\nwithout: {without:?}"))
        }
        Opens(asked) => {
            let free = scene.free(asked)?;
            let answers = [free, whole.out(), without.out()];
            let filter = step.left_out.iter().any(|it| it.call == libc::SYS_seccomp);
            let told = without
                .err()
                .contains("system call filters are not in force");
            (answers != ["open", "shut", "open"] || filter != told)
                .then(|| format!("{answers:?}\n{}\n{}", whole.err(), without.err()))
        }
    })
}

fn all_are_needed(steps: Vec<Step>) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        skip::because("steps can be left out on x86_64 only");
        return Ok(());
    }
    let scene = Scene::new()?;
    let mut found = Vec::new();
    for step in steps {
        match wrong(&scene, &step) {
            Ok(None) => {}
            Ok(Some(wrong)) => found.push(format!("{}: {wrong}", step.name)),
            Err(error) => found.push(format!("{}: {error:#}", step.name)),
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n\n"));
    // What lost its mounts could not clear up after itself.
    sweep(&scene.world)
}

#[test]
fn without_a_step_that_is_looked_at_nothing_runs() -> Result<()> {
    needs_root!();
    all_are_needed(looked_at())
}

#[test]
fn without_any_other_step_something_is_open() -> Result<()> {
    needs_root!();
    all_are_needed(relied_on()?)
}
