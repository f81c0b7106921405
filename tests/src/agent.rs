//! Any command as an agent under `sluice run`, in the node's namespace.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    cgroup,
    deadline::{shell_status, wait_for, wait_for_exit},
    world::World,
};

/// Where `sluice` pins its links; below it a folder for each version, then one for each run.
pub const PINS: &str = "/sys/fs/bpf/sluice";

/// The `sluice` binary: named by `SLUICE_BIN`, or beside the tests.
///
/// # Errors
/// If it is not there.
pub fn sluice() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SLUICE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe()?;
    let folder = own.ancestors().nth(2);
    let path = folder
        .context("tests lie two folders below the binaries")?
        .join("sluice");
    ensure!(
        path.is_file(),
        "no {}: build it first, `cargo build -p gateway-userspace`",
        path.display()
    );
    Ok(path)
}

/// A run that is being prepared.
#[derive(Debug)]
pub struct Agent<'world> {
    world: &'world World,
    command: Command,
    audit: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl<'world> Agent<'world> {
    /// An agent under this policy (the text of the file), with a clean environment.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn new(world: &'world World, policy: &str) -> Result<Self> {
        let id = random()?;
        let policy = world.file(&format!("{id}.toml"), policy)?;
        let mut agent = Self::without_policy(world)?;
        agent.command.arg("--policy").arg(policy);
        Ok(agent)
    }

    /// The same without `--policy`.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn without_policy(world: &'world World) -> Result<Self> {
        let audit = world.scratch().join(format!("{}.jsonl", random()?));
        Self::behind(world, &[], audit)
    }

    /// The same, where `sluice` is what a command starts that ends with these words, and its
    /// records go there.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn behind(world: &'world World, before: &[OsString], audit: PathBuf) -> Result<Self> {
        let id = random()?;
        let at = |ending: &str| world.scratch().join(format!("{id}.{ending}"));
        let (stdout, stderr) = (at("stdout"), at("stderr"));
        let words = before.iter().cloned().chain([sluice()?.into()]);
        let mut command = command(words);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            // Its signals are its own, as in a shell.
            .process_group(0)
            .arg("run")
            .arg("--audit")
            .arg(&audit);
        Ok(Self {
            world,
            command,
            audit,
            stdout,
            stderr,
        })
    }

    /// More options of `sluice run`.
    #[must_use]
    pub fn options<const N: usize>(mut self, options: [&str; N]) -> Self {
        self.command.args(options);
        self
    }

    /// Changes what `sluice` is started with: standard input, environment.
    #[must_use]
    pub fn prepare(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Starts the command confined; it is under way when this returns, not necessarily started.
    ///
    /// # Errors
    /// If `sluice` cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(
        mut self,
        command: impl IntoIterator<Item = S>,
    ) -> Result<Running> {
        self.command.arg("--").args(command);
        let child = self.world.node.run(|| self.command.spawn());
        Ok(Running {
            child: child.context("starting sluice")?,
            run: None,
            audit: self.audit,
            stdout: self.stdout,
            stderr: self.stderr,
        })
    }

    /// Runs the command confined, until it ends.
    ///
    /// # Errors
    /// If `sluice` cannot be started, or does not end.
    pub fn run<S: AsRef<OsStr>>(self, command: impl IntoIterator<Item = S>) -> Result<Finished> {
        self.spawn(command)?.finish()
    }
}

/// The command of these words.
pub fn command(words: impl IntoIterator<Item = OsString>) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// What a run left.
pub struct Finished {
    /// The exit status of `sluice`, as a shell tells it.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, Sluice's lines included.
    pub stderr: Vec<u8>,
    /// The audit records.
    pub records: Vec<Value>,
}

impl Finished {
    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The records of which all these fields have these values; numbers and `null` in JSON's
    /// spelling. A field of the process is `process.pid`.
    #[must_use]
    pub fn records_with(&self, fields: &[(&str, &str)]) -> Vec<&Value> {
        let matches = |record: &&Value| {
            fields
                .iter()
                .all(|(name, expected)| field(record, name) == *expected)
        };
        self.records.iter().filter(matches).collect()
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "status {}", self.status)?;
        writeln!(out, "stdout: {}", self.out())?;
        writeln!(out, "stderr: {}", self.err())?;
        self.records
            .iter()
            .try_for_each(|record| writeln!(out, "{record}"))
    }
}

/// The text of a field of a record, such as `rule` or `process.pid`.
#[must_use]
pub fn field(record: &Value, name: &str) -> String {
    let value = name
        .split('.')
        .try_fold(record, |value, part| value.get(part));
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// An agent that is running. Dropped, it ends, with all that its run holds.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Name of the run, once it was asked for.
    run: Option<String>,
    audit: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// The process of `sluice`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The agent's standard input, where [`Agent::prepare`] made it a pipe.
    pub const fn stdin(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Sends a signal to `sluice`.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).context("sending a signal to sluice")
    }

    /// Writes a line to the agent's standard input, which [`Agent::prepare`] made a pipe.
    ///
    /// # Errors
    /// If it has none, or nobody reads it.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no pipe to the agent")?;
        writeln!(stdin, "{line}").context("writing to the agent")
    }

    /// Waits until the agent has written this to standard output; answers with all of it.
    ///
    /// # Errors
    /// If it does not; the error has what was written on standard error.
    pub fn wait_for_output(&mut self, text: &str) -> Result<String> {
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        wait_for(&format!("{text:?} on standard output"), || {
            let said = fs::read_to_string(&stdout)?;
            Ok(said.contains(text).then_some(said))
        })
        .with_context(|| fs::read_to_string(stderr).unwrap_or_default())
    }

    /// The name of the run, which its pins and cgroups have.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn name(&mut self) -> Result<String> {
        if let Some(name) = &self.run {
            return Ok(name.clone());
        }
        let name = session_of(self.child.id(), "run-")?;
        self.run = Some(name.clone());
        Ok(name)
    }

    /// The cgroup of the agent's processes.
    ///
    /// # Errors
    /// If the run does not come up.
    pub fn cgroup(&mut self) -> Result<PathBuf> {
        let name = self.name()?;
        Ok(cgroup::mount_point()?
            .join("sluice")
            .join(name)
            .join("agent"))
    }

    /// Kills `sluice` without warning; the agent lives on.
    ///
    /// # Errors
    /// If it does not die.
    pub fn kill_sluice(&mut self) -> Result<()> {
        self.name()?;
        self.child.kill()?;
        // Waiting would close it, and the agent is to live on.
        let stdin = self.child.stdin.take();
        wait_for_exit(&mut self.child)?;
        self.child.stdin = stdin;
        // Its worker goes with it, by the kernel's hand, and the listeners with that.
        let gateway = self.cgroup()?.with_file_name("gateway");
        wait_for("the worker to end", || {
            Ok((!cgroup::has_worker(&gateway)?).then_some(()))
        })
    }

    /// The records so far. A line that is still being written is left out.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn records(&self) -> Result<Vec<Value>> {
        read_records(&self.audit)
    }

    /// Waits until `sluice` has ended, and gathers what it left.
    ///
    /// # Errors
    /// If it does not end.
    pub fn finish(mut self) -> Result<Finished> {
        // An agent that reads it gets to its end.
        drop(self.child.stdin.take());
        let status = wait_for_exit(&mut self.child)
            .with_context(|| fs::read_to_string(&self.stderr).unwrap_or_default())?;
        Ok(Finished {
            status: shell_status(status),
            stdout: fs::read(&self.stdout)?,
            stderr: fs::read(&self.stderr)?,
            records: read_records(&self.audit)?,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        if ended && self.run.is_none() {
            return;
        }
        // In order: whoever is inside, then `sluice`, which ends by that.
        if let Ok(cgroup) = self.cgroup() {
            cgroup::kill(&cgroup);
        }
        if wait_for_exit(&mut self.child).is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The name of the session that this process of `sluice` serves; it begins with `prefix`.
pub(crate) fn session_of(pid: u32, prefix: &str) -> Result<String> {
    let process = format!("/proc/{pid}/cgroup");
    wait_for("the gateway to enter its cgroup", || {
        let text = fs::read_to_string(&process)?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        let run = path
            .and_then(|path| path.strip_suffix("/gateway"))
            .and_then(|path| path.rsplit('/').next());
        Ok(run.filter(|run| run.starts_with(prefix)).map(str::to_owned))
    })
}

/// Lets `sluice` clear away what a killed run left.
///
/// # Errors
/// If it does not work.
pub fn sweep(world: &World) -> Result<()> {
    let finished = Agent::without_policy(world)?.run(["true"])?;
    ensure!(finished.status == 0, "{}", finished.err());
    Ok(())
}

/// The folder of a run's pins.
#[must_use]
pub fn pins(run: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(PINS).ok()?;
    versions
        .flatten()
        .map(|version| version.path().join(run))
        .find(|path| path.is_dir())
}

/// The lines of an audit file; none where the file is not there.
pub(crate) fn read_records(path: &Path) -> Result<Vec<Value>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.context("reading the audit file")?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("audit line {line:?}")))
        .collect()
}

/// `env -u` for all variables that name a proxy, and the command: an agent that knows none.
#[must_use]
pub fn without_proxy<S: AsRef<OsStr>>(command: impl IntoIterator<Item = S>) -> Vec<OsString> {
    let mut words = vec![OsString::from("env")];
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        for name in [name.to_owned(), name.to_uppercase()] {
            words.extend(["-u".into(), name.into()]);
        }
    }
    words.extend(["-u", "NODE_USE_ENV_PROXY"].map(OsString::from));
    words.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
    words
}

/// Sixteen random hexadecimal digits.
///
/// # Errors
/// If the kernel has none.
pub fn random() -> Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
