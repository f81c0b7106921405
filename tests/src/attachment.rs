//! `sluice attach`, `detach` and `agents`, in the node's namespace.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    agent::{field, random, read_records, session_of, sluice},
    cgroup,
    deadline::{shell_status, wait_for, wait_for_exit},
    world::World,
};

/// A `sluice attach` that serves. Dropped, it ends, and whoever it confined is free.
#[derive(Debug)]
pub struct Attachment<'world> {
    world: &'world World,
    child: Child,
    name: String,
    audit: PathBuf,
    stderr: PathBuf,
}

impl<'world> Attachment<'world> {
    /// Confines what `target` names (`--pid` and a number, say) under this policy, and waits
    /// until that is done.
    ///
    /// # Errors
    /// If it is refused; the error has what was said.
    pub fn start<S: AsRef<OsStr>>(
        world: &'world World,
        policy: &str,
        target: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        Self::start_as(world, sluice()?, policy, target)
    }

    /// The same by another build of `sluice`.
    ///
    /// # Errors
    /// If it is refused; the error has what was said.
    pub fn start_as<S: AsRef<OsStr>>(
        world: &'world World,
        program: PathBuf,
        policy: &str,
        target: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let mut attachment = Self::spawn(world, program, policy, target)?;
        wait_for("the attachment", || {
            let said = attachment.said()?;
            if let Some(status) = attachment.child.try_wait()? {
                bail!("status {}: {said}", shell_status(status));
            }
            Ok(said.contains("gateway on port").then_some(()))
        })
        .with_context(|| attachment.said().unwrap_or_default())?;
        attachment.name = attachment.session()?;
        Ok(attachment)
    }

    /// Starts one and does not wait for it; it has no name.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(
        world: &'world World,
        program: PathBuf,
        policy: &str,
        target: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let id = random()?;
        let policy = world.file(&format!("{id}.toml"), policy)?;
        let at = |ending: &str| world.scratch().join(format!("{id}.{ending}"));
        let (audit, stderr) = (at("jsonl"), at("stderr"));
        let mut command = clean(program);
        command
            .arg("attach")
            .arg("--policy")
            .arg(policy)
            .arg("--audit")
            .arg(&audit)
            .args(target)
            .stdout(Stdio::null())
            .stderr(File::create(&stderr)?);
        let child = world.node.run(|| command.spawn());
        Ok(Self {
            world,
            child: child.context("starting sluice attach")?,
            name: String::new(),
            audit,
            stderr,
        })
    }

    /// The name of the session.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the session of one that was not waited for.
    ///
    /// # Errors
    /// If it does not come so far that it has one.
    pub fn session(&self) -> Result<String> {
        session_of(self.child.id(), "attach-")
    }

    /// The process of `sluice`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything on standard error so far.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn said(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.stderr)?)
    }

    /// The gateway's port, as it was announced.
    ///
    /// # Errors
    /// If none was.
    pub fn port(&self) -> Result<u16> {
        let said = self.said()?;
        let port = said.split("gateway on port ").nth(1);
        let port = port.and_then(|rest| rest.lines().next());
        Ok(port.context("the announcement")?.trim().parse()?)
    }

    /// The records so far.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn records(&self) -> Result<Vec<Value>> {
        read_records(&self.audit)
    }

    /// Waits for a record of which all these fields have these values.
    ///
    /// # Errors
    /// If there is none; the error has those that there are.
    pub fn wait_for_record(&self, expected: &[(&str, &str)]) -> Result<Value> {
        let matches = |record: &Value| {
            expected
                .iter()
                .all(|(name, value)| field(record, name) == *value)
        };
        wait_for(&format!("a record of {expected:?}"), || {
            Ok(self.records()?.into_iter().find(matches))
        })
        .with_context(|| format!("{:#?}", self.records()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).context("sending a signal to sluice")
    }

    /// Sends a signal and waits for the end; answers with the exit status, as a shell tells it.
    ///
    /// # Errors
    /// If it does not end.
    pub fn end_by(&mut self, signal: Signal) -> Result<i32> {
        self.signal(signal)?;
        let status = self.wait()?;
        // Its worker goes with it, by the kernel's hand, and the listeners with that.
        let runs = cgroup::mount_point()?.join("sluice");
        let gateway = runs.join(&self.name).join("gateway");
        wait_for("the worker to end", || {
            Ok((!cgroup::has_worker(&gateway)?).then_some(()))
        })?;
        Ok(status)
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait(&mut self) -> Result<i32> {
        let status = wait_for_exit(&mut self.child);
        Ok(shell_status(
            status.with_context(|| self.said().unwrap_or_default())?,
        ))
    }

    /// `sluice detach`: frees whoever it confined.
    ///
    /// # Errors
    /// If that fails, or the attachment goes on.
    pub fn detach(mut self) -> Result<()> {
        let output = call(self.world, ["detach", &self.name])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "detach: {said}");
        self.wait().map(drop)
    }

    /// What `sluice agents --json` says of it; none if it is not listed.
    ///
    /// # Errors
    /// If it fails.
    pub fn listed(&self) -> Result<Option<Value>> {
        let all = agents(self.world)?;
        let own = |session: &Value| session.get("run") == Some(&Value::from(self.name.as_str()));
        Ok(all.into_iter().find(own))
    }
}

impl Drop for Attachment<'_> {
    fn drop(&mut self) {
        // In order: its process, so that it holds nothing; then what it left.
        drop(self.child.kill());
        drop(wait_for_exit(&mut self.child));
        if !self.name.is_empty() {
            drop(call(self.world, ["detach", &self.name]));
        }
    }
}

/// Runs `sluice` in the node's namespace until it ends.
///
/// # Errors
/// If it cannot be started.
pub fn call<S: AsRef<OsStr>>(
    world: &World,
    arguments: impl IntoIterator<Item = S>,
) -> Result<Output> {
    let mut command = clean(sluice()?);
    command.args(arguments);
    world
        .node
        .run(|| command.output())
        .context("running sluice")
}

/// All that `sluice agents --json` lists.
///
/// # Errors
/// If it fails.
pub fn agents(world: &World) -> Result<Vec<Value>> {
    let output = call(world, ["agents", "--json"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "agents: {said}");
    serde_json::from_slice(&output.stdout).context("what it printed")
}

/// `sluice attach` of this target, started by a process inside `cgroup` where there is one; it is
/// expected to refuse.
///
/// # Errors
/// If it cannot be started, or does not end, as one that serves.
pub fn refused<S: Into<OsString>>(
    world: &World,
    cgroup: Option<&Path>,
    target: impl IntoIterator<Item = S>,
) -> Result<(u32, i32, String)> {
    let id = random()?;
    let policy = world.file(&format!("{id}.toml"), "schema = 1\nagent = \"refused\"\n")?;
    let stderr = world.scratch().join(format!("{id}.stderr"));
    let mut command = clean("/bin/sh".into());
    // What is started inherits the shell's number and its cgroup.
    command
        .args([
            "-c",
            "[ -z \"$1\" ] || echo 0 > \"$1/cgroup.procs\"; shift; exec \"$@\"",
            "sh",
        ])
        .arg(cgroup.unwrap_or(Path::new("")))
        .arg(sluice()?)
        .args(["attach", "--audit", "-", "--policy"])
        .arg(policy)
        .args(target.into_iter().map(Into::into))
        .stdout(Stdio::null())
        .stderr(File::create(&stderr)?);
    let mut child = world.node.run(|| command.spawn())?;
    let ended = wait_for_exit(&mut child);
    if ended.is_err() {
        drop(child.kill());
        drop(child.wait());
    }
    let said = fs::read_to_string(stderr)?;
    let status = ended.with_context(|| said.clone())?;
    Ok((child.id(), shell_status(status), said))
}

fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}
