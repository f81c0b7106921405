//! The `vector` program under way, confined or not, and what it and the audit log say.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tempfile::TempDir;

use super::world::{ORIGIN4, ORIGIN6};
use crate::{
    netns::Netns,
    vector::{Attempt, local::DEVICE},
};

/// Longest that one attempt, or the start of Sluice, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody's uid, for attempts outside a boundary.
const NOBODY: u32 = 65_534;

/// What the kernel half does about direct TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// Sends them to the gateway.
    Redirect,
    /// Refuses them.
    Deny,
}

impl Direct {
    /// Its name in a policy.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Deny => "deny",
        }
    }
}

/// A folder with what sessions need, readable by everybody.
#[derive(Debug)]
pub struct Bench {
    folder: TempDir,
    vector: PathBuf,
    sluice: PathBuf,
}

/// One line of the audit log.
pub type Record = serde_json::Value;

impl Bench {
    /// Puts the `vector` program where an agent can run it.
    ///
    /// # Errors
    /// If there is no `sluice` to run.
    pub fn new(vector: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vectors-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let copy = folder.path().join("vector");
        fs::copy(vector, &copy).context("copying the vector program")?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        make_device(&folder.path().join(DEVICE))?;
        Ok(Self {
            folder,
            vector: copy,
            sluice: sluice()?,
        })
    }

    /// Starts attempts under a policy that allows nothing.
    ///
    /// # Errors
    /// If Sluice cannot be started.
    pub fn confined(
        &self,
        node: &Netns,
        direct: Direct,
        tag: &str,
        attempts: &[(&str, u16)],
    ) -> anyhow::Result<Session> {
        let policy = self.folder.path().join(format!("{tag}.toml"));
        let direct = direct.label();
        let text = format!("schema = 1\nagent = \"vectors\"\n[network]\ndirect = \"{direct}\"\n");
        fs::write(&policy, text)?;
        let audit = self.folder.path().join(format!("{tag}.jsonl"));
        let mut command = Command::new(&self.sluice);
        command.arg("run").arg("--policy").arg(&policy);
        command.arg("--audit").arg(&audit).arg("--");
        command.arg(&self.vector).args(arguments(tag, attempts));
        command.env_remove("SUDO_UID");
        self.start(node, command, tag, Some(audit))
    }

    /// Starts attempts outside any boundary, without privilege unless `root`.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn free(
        &self,
        node: &Netns,
        root: bool,
        tag: &str,
        attempts: &[(&str, u16)],
    ) -> anyhow::Result<Session> {
        let mut command = Command::new(&self.vector);
        command.args(arguments(tag, attempts));
        command.env_remove("HTTP_PROXY");
        if !root {
            command.uid(NOBODY).gid(NOBODY);
        }
        self.start(node, command, tag, None)
    }

    /// Starts attempts by root inside the cgroup of an agent: only the programs hold.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn inside_as_root(
        &self,
        node: &Netns,
        agent: u32,
        tag: &str,
        attempts: &[(&str, u16)],
    ) -> anyhow::Result<Session> {
        let mount = gateway_userspace::kernel::cgroup::mount_point()?;
        let procs = mount.join(cgroup_of(agent)?).join("cgroup.procs");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]);
        command.arg(procs).arg(&self.vector);
        command.args(arguments(tag, attempts));
        let environment = fs::read(format!("/proc/{agent}/environ"))?;
        let proxy = environment
            .split(|byte| *byte == 0)
            .find_map(|variable| variable.strip_prefix(b"HTTP_PROXY="))
            .context("the agent knows no gateway")?;
        command.env("HTTP_PROXY", OsStr::from_bytes(proxy));
        self.start(node, command, tag, None)
    }

    /// Starts a command and reads what it prints.
    fn start(
        &self,
        node: &Netns,
        mut command: Command,
        tag: &str,
        audit: Option<PathBuf>,
    ) -> anyhow::Result<Session> {
        let errors = self.folder.path().join(format!("{tag}.stderr"));
        command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?);
        let mut child = node.run(|| command.spawn()).context("starting a session")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (send, lines) = mpsc::channel();
        let stdout = stdout.context("no standard output")?;
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            for line in lines {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Session {
            child,
            stdin,
            lines,
            audit,
            errors,
        })
    }
}

/// A way to make network interfaces, for those who may: everybody may open it.
fn make_device(path: &Path) -> anyhow::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    const TUN: (u64, u64) = (10, 200);
    mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(TUN.0, TUN.1)).context("making a device")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(())
}

fn arguments(tag: &str, attempts: &[(&str, u16)]) -> Vec<String> {
    let target = [ORIGIN4.to_string(), ORIGIN6.to_string(), tag.to_owned()];
    let ways = attempts.iter().map(|(name, port)| format!("{name}={port}"));
    target.into_iter().chain(ways).collect()
}

/// The `sluice` under test.
///
/// # Errors
/// If it has not been built.
pub fn sluice() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("SLUICE_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let here = std::env::current_exe()?;
            let target = here.ancestors().nth(2).context("no target folder")?;
            target.join("sluice")
        }
    };
    anyhow::ensure!(
        path.is_file(),
        "no {}; build it: cargo build -p gateway-userspace",
        path.display()
    );
    Ok(path)
}

/// The cgroup of a process, within the hierarchy.
///
/// # Errors
/// If the process is gone.
pub fn cgroup_of(pid: u32) -> anyhow::Result<String> {
    let path = gateway_userspace::kernel::cgroup::of_process(&pid.to_string())?;
    let path = path.with_context(|| format!("process {pid} is gone"))?;
    Ok(path.trim_start_matches('/').to_owned())
}

/// A program under way.
#[derive(Debug)]
pub struct Session {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    audit: Option<PathBuf>,
    errors: PathBuf,
}

impl Session {
    /// The next attempt that is over, or under way and waiting.
    ///
    /// # Errors
    /// If there is none within the deadline.
    pub fn next(&self) -> anyhow::Result<Attempt> {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .with_context(|| format!("no attempt: {}", self.complaints()))?;
        serde_json::from_str(&line).with_context(|| format!("not an attempt: {line}"))
    }

    /// Lets a waiting attempt go on.
    ///
    /// # Errors
    /// If it is gone.
    pub fn go(&mut self) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(b"\n").context("letting it go on")
    }

    /// The attempts that are left, and the records once the program has ended.
    ///
    /// # Errors
    /// If it does not end in time, or ends with an error.
    pub fn finish(mut self) -> anyhow::Result<(Vec<Attempt>, Vec<Record>)> {
        drop(self.stdin.take());
        let mut attempts = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            attempts.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        let status = self.status()?;
        anyhow::ensure!(status.success(), "{status}: {}", self.complaints());
        let Some(audit) = &self.audit else {
            return Ok((attempts, Vec::new()));
        };
        let log = fs::read_to_string(audit).context("reading the audit log")?;
        let records = log
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        Ok((attempts, records))
    }

    /// Waits for the end. Standard output is closed by now, so it is near.
    fn status(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "it does not end");
            thread::yield_now();
        }
    }

    fn complaints(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Session {
    /// After a panic: the program ends when its standard input does. Sluice then clears away
    /// after itself; what is killed, the next run clears away.
    fn drop(&mut self) {
        drop(self.stdin.take());
        if self.status().is_err() {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}
