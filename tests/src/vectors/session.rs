//! The `vector` program under way, confined or not, and what it and the audit log say.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tempfile::TempDir;

use super::{
    outside::Outside,
    world::{ORIGIN4, ORIGIN6, World},
};
use crate::{
    deadline::scaled,
    netns::Netns,
    vector::{Attempt, local::DEVICE, stage::Stage},
};

/// Longest that one attempt, or the start of Sluice, may take, before [`scaled`].
const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody's uid, for attempts without privilege, inside a boundary and outside.
pub const NOBODY: u32 = 65_534;
/// What Docker leaves to root in a container, as `setpriv` spells it.
const DOCKER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,\
    +setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
/// Begins a session in a mount namespace of its own, where `/run` is the test's, and in a cgroup.
const SETTING: &str = "mount --bind \"$1\" /run && { [ -z \"$2\" ] || echo 0 > \"$2\"; } && \
    shift 2 && exec \"$@\"";

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
    outside: Option<Outside>,
}

/// One line of the audit log.
pub type Record = serde_json::Value;

/// Who makes attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody in particular.
    Nobody,
    /// Root, with every capability.
    Root,
    /// Root with what Docker leaves to it in a container.
    Container,
}

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
            outside: None,
        })
    }

    /// Puts outsiders into place, for all sessions from now on. `outsider` is that program,
    /// which has these credentials.
    ///
    /// # Errors
    /// If one of them cannot be.
    pub fn furnish(&mut self, world: &World, outsider: &Path, who: Who) -> anyhow::Result<()> {
        let copy = self.folder.path().join("outsider");
        fs::copy(outsider, &copy).context("copying the outsider")?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        let outside = Outside::new(world, self.folder.path(), &self.vector, &copy, who)?;
        self.outside = Some(outside);
        Ok(())
    }

    /// The outsiders.
    ///
    /// # Errors
    /// If there are none.
    pub fn outside(&mut self) -> anyhow::Result<&mut Outside> {
        self.outside.as_mut().context("no outsiders are in place")
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
        let direct = direct.label();
        let policy = format!("schema = 1\nagent = \"vectors\"\n[network]\ndirect = \"{direct}\"\n");
        self.launched(node, Who::Nobody, &policy, tag, attempts)
    }

    /// Starts attempts under this policy, by the launcher.
    ///
    /// # Errors
    /// If Sluice cannot be started.
    pub fn launched(
        &self,
        node: &Netns,
        who: Who,
        policy: &str,
        tag: &str,
        attempts: &[(&str, u16)],
    ) -> anyhow::Result<Session> {
        let file = self.folder.path().join(format!("{tag}.toml"));
        fs::write(&file, policy)?;
        let audit = self.audit(tag);
        let mut command = self.set(None);
        command.arg(&self.sluice);
        command.arg("run").arg("--policy").arg(&file);
        command.arg("--audit").arg(&audit);
        match who {
            // The uid that outsiders have: whatever they may do to each other, it may to them.
            Who::Nobody => command.args(["--user", &NOBODY.to_string()]),
            Who::Root | Who::Container => command.args(["--user", "root"]),
        };
        command.arg("--").arg(&self.vector);
        command.args(self.arguments(tag, attempts, Some(&audit), None));
        command.env_remove("SUDO_UID");
        self.start(node, command, tag, Some(audit))
    }

    /// Starts attempts outside any boundary.
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
        let cgroup = self.outside.as_ref().map(Outside::cgroup);
        let mut command = self.set(cgroup);
        command.args(credentials(if root { Who::Root } else { Who::Nobody }));
        command.arg(&self.vector);
        let audit = self.audit(tag);
        fs::write(&audit, "")?;
        let gateway = self.outside.as_ref().map(Outside::stand_in);
        command.args(self.arguments(tag, attempts, Some(&audit), gateway));
        command.env_remove("HTTP_PROXY");
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
        self.inside(node, agent, Who::Root, tag, attempts)
    }

    /// Starts attempts inside the cgroup of an agent: only the programs hold.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn inside(
        &self,
        node: &Netns,
        agent: u32,
        who: Who,
        tag: &str,
        attempts: &[(&str, u16)],
    ) -> anyhow::Result<Session> {
        let mount = gateway_userspace::kernel::cgroup::mount_point()?;
        let mut command = self.set(Some(&mount.join(cgroup_of(agent)?)));
        command.args(credentials(who)).arg(&self.vector);
        let audit = self.audit(tag);
        fs::write(&audit, "")?;
        command.args(self.arguments(tag, attempts, Some(&audit), None));
        let proxy = proxy_of(agent)?.context("the agent knows no gateway")?;
        command.env("HTTP_PROXY", proxy);
        self.start(node, command, tag, None)
    }

    /// Where the audit log of a session is; one without a boundary has a file that stands for it.
    #[must_use]
    pub fn audit(&self, tag: &str) -> PathBuf {
        self.folder.path().join(format!("{tag}.jsonl"))
    }

    /// The beginning of a command: where it finds outsiders, and in which cgroup it runs.
    fn set(&self, cgroup: Option<&Path>) -> Command {
        let procs = cgroup.map(|cgroup| cgroup.join("cgroup.procs"));
        let procs = procs.unwrap_or_default();
        let run = self
            .outside
            .as_ref()
            .map_or(Path::new("/run"), Outside::run);
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c"]);
        command.arg(SETTING).arg("sh").arg(run).arg(procs);
        command
    }

    fn arguments(
        &self,
        tag: &str,
        attempts: &[(&str, u16)],
        audit: Option<&Path>,
        gateway: Option<u32>,
    ) -> Vec<String> {
        let known = self.outside.as_ref().map(Outside::facts);
        let stage = Stage {
            audit: audit.map(Path::to_owned),
            gateway: gateway.and_then(|pid| i32::try_from(pid).ok()),
            ..known.cloned().unwrap_or_default()
        };
        let stage = serde_json::to_string(&stage).expect("paths of a test are text");
        let target = [
            ORIGIN4.to_string(),
            ORIGIN6.to_string(),
            tag.to_owned(),
            stage,
        ];
        let ways = attempts.iter().map(|(name, port)| format!("{name}={port}"));
        target.into_iter().chain(ways).collect()
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

/// What a process was told about the gateway.
fn proxy_of(pid: u32) -> anyhow::Result<Option<OsString>> {
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    let proxy = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"HTTP_PROXY="));
    Ok(proxy.map(|proxy| OsStr::from_bytes(proxy).to_owned()))
}

/// How a command is given these credentials.
pub(super) fn credentials(who: Who) -> Vec<String> {
    let nobody = NOBODY.to_string();
    let options: &[&str] = match who {
        Who::Nobody => &["--reuid", &nobody, "--regid", &nobody, "--clear-groups"],
        Who::Root => return Vec::new(),
        // What it may use follows from this once it has become another program.
        Who::Container => &["--bounding-set", DOCKER, "--inh-caps", "-all"],
    };
    let setpriv = ["setpriv"].into_iter().chain(options.iter().copied());
    setpriv.chain(["--"]).map(str::to_owned).collect()
}

/// A way to make network interfaces, for those who may: everybody may open it.
fn make_device(path: &Path) -> anyhow::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    const TUN: (u64, u64) = (10, 200);
    mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(TUN.0, TUN.1)).context("making a device")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    Ok(())
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
            .recv_timeout(scaled(PATIENCE))
            .with_context(|| format!("no attempt: {}", self.complaints()))?;
        serde_json::from_str(&line).with_context(|| format!("not an attempt: {line}"))
    }

    /// A process of the agent, by its number outside: inside it has another. There is one from
    /// the first attempt on.
    ///
    /// # Errors
    /// If there is none, or no boundary.
    pub fn agent(&self) -> anyhow::Result<u32> {
        let gateway = cgroup_of(self.child.id())?;
        let run = gateway.strip_suffix("/gateway");
        let run = run.with_context(|| format!("{gateway} is no gateway's"))?;
        let mount = gateway_userspace::kernel::cgroup::mount_point()?;
        let procs = fs::read_to_string(mount.join(run).join("agent/cgroup.procs"))?;
        let processes: Vec<u32> = procs.lines().filter_map(|pid| pid.parse().ok()).collect();
        processes
            .into_iter()
            .find(|pid| proxy_of(*pid).is_ok_and(|proxy| proxy.is_some()))
            .context("no process of the agent knows of the gateway")
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
        while let Ok(line) = self.lines.recv_timeout(scaled(PATIENCE)) {
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
        let deadline = Instant::now() + scaled(PATIENCE);
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
