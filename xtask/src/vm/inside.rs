//! Inside a machine: the first process, and the one that works through the plan.
//!
//! Both are xtask itself. Results go out by the second serial line, one JSON object on each, so
//! that nothing which the kernel says on the first can come between.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, killpg},
        wait::{WaitStatus, wait},
    },
    unistd::{Pid, chdir, chroot},
};

use super::report::{Event, Outcome, PLAN, Plan, Planned};

/// Where results go.
const RESULTS: &str = "/dev/ttyS1";
/// Names of the two, on the command line.
pub(super) const INIT: &str = "vm-init";
const SUITE: &str = "vm-suite";
/// Most that is told of a failed test, bytes: the line is slow.
const TOLD: usize = 24 << 10;
/// How often a test is looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// Longest that `sluice doctor` may take.
const DOCTOR: Duration = Duration::from_secs(300);
/// How a test says that it is not run.
const NOT_RUN: &str = " is NOT RUN: ";

/// The first process: sets up what a system has, has the plan worked through, buries whoever is
/// left, and switches off.
pub(crate) fn init() -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is for the first process of a machine");
    }
    if let Err(error) = prepare().and_then(|()| work()) {
        eprintln!("vm: {error:#}");
        tell(&Event::Broken {
            why: format!("{error:#}"),
        })
        .ok();
    }
    // As Alt+SysRq+O would: nothing here wants to be ended in order.
    fs::write("/proc/sysrq-trigger", "o").context("switching off")?;
    loop {
        thread::park();
    }
}

/// Starts the second, and reaps until that has ended.
fn work() -> Result<()> {
    let suite = Command::new("/proc/self/exe")
        .arg(SUITE)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .spawn()
        .context("starting the suite")?;
    let suite = Pid::from_raw(i32::try_from(suite.id()).context("a process id past i32")?);
    loop {
        match wait().context("waiting for whoever ends")? {
            WaitStatus::Exited(pid, 0) if pid == suite => return Ok(()),
            WaitStatus::Exited(pid, status) if pid == suite => {
                bail!("the suite ended with {status}")
            }
            WaitStatus::Signaled(pid, signal, _) if pid == suite => {
                bail!("the suite died of {signal}")
            }
            _ => {}
        }
    }
}

/// Mounts, links and settings.
fn prepare() -> Result<()> {
    // What a kernel unpacks at boot cannot be left by `pivot_root`, nor be covered: a mount of
    // it, moved on top, is a root like any other.
    let no = None::<&str>;
    mount(Some("/"), "/newroot", no, MsFlags::MS_BIND, no).context("mounting the root again")?;
    chdir("/newroot").context("going there")?;
    mount(Some("."), "/", no, MsFlags::MS_MOVE, no).context("moving it")?;
    chroot(".").context("staying there")?;
    chdir("/").context("going to the root")?;
    // The kernel lets everybody write it.
    fs::set_permissions("/", Permissions::from_mode(0o755)).context("closing the root folder")?;

    for (kind, place, options) in [
        ("proc", "/proc", None),
        ("sysfs", "/sys", None),
        ("devtmpfs", "/dev", None),
        ("tmpfs", "/run", Some("mode=755")),
        ("cgroup2", "/sys/fs/cgroup", Some("nsdelegate")),
        ("bpf", "/sys/fs/bpf", Some("mode=700")),
        ("securityfs", "/sys/kernel/security", None),
        ("tracefs", "/sys/kernel/tracing", None),
    ] {
        let mounted = mount(Some(kind), place, Some(kind), MsFlags::empty(), options);
        mounted.with_context(|| format!("mounting {place}"))?;
    }
    for (kind, place, options) in [
        ("devpts", "/dev/pts", Some("gid=5,mode=620,ptmxmode=666")),
        ("tmpfs", "/dev/shm", Some("mode=1777")),
    ] {
        fs::create_dir_all(place).with_context(|| format!("making {place}"))?;
        let mounted = mount(Some(kind), place, Some(kind), MsFlags::empty(), options);
        mounted.with_context(|| format!("mounting {place}"))?;
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        std::os::unix::fs::symlink(target, link).with_context(|| format!("linking {link}"))?;
    }
    // May be off since 6.2, was on before; what it lets through is what is tested.
    match fs::write("/proc/sys/dev/tty/legacy_tiocsti", "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("letting programs type at a terminal");
        }
        _ => (),
    }
    fs::write("/proc/sys/kernel/hostname", "vm").context("naming the machine")?;
    let controllers = "/sys/fs/cgroup/cgroup.subtree_control";
    fs::write(controllers, "+cpu +memory +pids").context("enabling controllers")?;
    Ok(())
}

/// The second process: works through the plan.
pub(crate) fn suite() -> Result<ExitCode> {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    tell(&Event::Up {
        release: read("/proc/sys/kernel/osrelease").context("asking for the kernel's release")?,
        modules: read("/sys/kernel/security/lsm").context("asking for security modules")?,
    })?;
    let plan = fs::read(PLAN).with_context(|| format!("reading {PLAN}"))?;
    let plan: Plan = serde_json::from_slice(&plan).context("reading the plan")?;
    tell(&doctor(&plan.sluice)?)?;
    for test in &plan.tests {
        tell(&Event::Began {
            name: test.name.clone(),
        })?;
        let began = Instant::now();
        let (outcome, output) = run(test, &plan.environment)?;
        tell(&Event::Ended {
            name: test.name.clone(),
            outcome,
            seconds: began.elapsed().as_secs_f32(),
            output,
        })?;
    }
    tell(&Event::Done { used: used() })?;
    Ok(ExitCode::SUCCESS)
}

/// Sends an event. Closing the line waits until it is out.
fn tell(event: &Event) -> Result<()> {
    let mut text = serde_json::to_vec(event).context("an event is JSON")?;
    text.push(b'\n');
    let line = OpenOptions::new().write(true).open(RESULTS);
    let mut line = line.with_context(|| format!("opening {RESULTS}"))?;
    line.write_all(&text).context("telling a result")
}

/// Asks `sluice doctor`.
fn doctor(sluice: &Path) -> Result<Event> {
    let mut command = Command::new(sluice);
    command.args(["doctor", "--json"]);
    let (ended, out, complaint) = captured(command, "doctor", DOCTOR)?;
    let report = serde_json::from_str(&out).ok();
    let complaint = match (&report, ended) {
        (_, None) => format!("it does not end\n{out}{complaint}"),
        (None, _) => format!("{out}{complaint}"),
        (Some(_), _) => complaint,
    };
    Ok(Event::Doctor {
        report,
        complaint: tail(&complaint),
    })
}

/// Runs one test, as `cargo xtask test` would.
fn run(test: &Planned, environment: &[(String, String)]) -> Result<(Outcome, String)> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("isolated")
        .arg(&test.binary)
        .args(["--exact", &test.test, "--nocapture", "--test-threads=1"])
        .envs(environment.iter().cloned())
        .current_dir("/");
    let limit = Duration::from_secs(test.seconds);
    let (ended, out, complaint) = captured(command, "test", limit)?;
    let said = format!("{out}{complaint}");
    let reasons: Vec<_> = complaint
        .lines()
        .filter_map(|line| line.split_once(NOT_RUN))
        .map(|(_, reason)| reason.to_owned())
        .collect();
    let outcome = match ended {
        None => Outcome::TimedOut,
        Some(true) if !out.contains("1 passed") => Outcome::Failed,
        Some(true) if reasons.is_empty() => return Ok((Outcome::Passed, String::new())),
        Some(true) => return Ok((Outcome::Skipped(reasons), String::new())),
        Some(false) => Outcome::Failed,
    };
    Ok((outcome, tail(&said)))
}

/// Runs a command to its end, in a process group of its own that is killed when it is late:
/// whether it succeeded, standard output, standard error.
fn captured(
    mut command: Command,
    name: &str,
    limit: Duration,
) -> Result<(Option<bool>, String, String)> {
    let paths = ["out", "err"].map(|end| format!("/run/{name}.{end}"));
    let [out, err] = &paths;
    let child = command
        .stdin(Stdio::null())
        .stdout(File::create(out).context("making a file")?)
        .stderr(File::create(err).context("making a file")?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let ended = until(child, limit)?;
    let read =
        |path: &String| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((ended, read(out)?, read(err)?))
}

/// Waits for a child; none if it had to be killed.
fn until(mut child: Child, limit: Duration) -> Result<Option<bool>> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("waiting for a child")? {
            return Ok(Some(status.success()));
        }
        thread::sleep(GLANCE);
    }
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id past i32")?);
    killpg(group, Signal::SIGKILL).context("killing what is late")?;
    child.wait().context("waiting for what was killed")?;
    Ok(None)
}

/// The end of a text.
fn tail(text: &str) -> String {
    let start = text.len().saturating_sub(TOLD);
    let start = (start..text.len()).find(|&at| text.is_char_boundary(at));
    text.get(start.unwrap_or(text.len())..)
        .unwrap_or_default()
        .to_owned()
}

/// Memory in use, MiB.
fn used() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let all = value("MemTotal:").unwrap_or_default();
    all.saturating_sub(value("MemAvailable:").unwrap_or_default()) / 1024
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::{TOLD, tail, until};

    #[test]
    fn of_a_long_text_the_end_is_told() {
        assert_eq!(tail("short"), "short");
        let long = format!("{}é{}", "a".repeat(10), "b".repeat(TOLD - 1));
        assert_eq!(tail(&long), "b".repeat(TOLD - 1));
    }

    #[test]
    fn what_does_not_end_is_killed() {
        use std::os::unix::process::CommandExt as _;
        let start = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).process_group(0);
            command.spawn().expect("it starts")
        };
        let limit = Duration::from_secs(60);
        assert_eq!(until(start(&["true"]), limit).expect("it ends"), Some(true));
        assert_eq!(
            until(start(&["false"]), limit).expect("it ends"),
            Some(false)
        );
        let endless = start(&["tail", "-f", "/dev/null"]);
        assert_eq!(until(endless, Duration::ZERO).expect("it is killed"), None);
    }
}
