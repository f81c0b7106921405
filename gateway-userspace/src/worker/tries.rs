//! What a worker that was taken over would try, tried from inside the very same locks.
//!
//! `sluice worker --try` is not for users: it starts a worker as `run` does, which then tries
//! instead of serving, and prints a line for each try with the error number, 0 for success.

use std::{
    fs::File,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use nix::{
    sys::signal::kill,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
    unistd::Pid,
};
use rustix::net::SendFlags;
use serde::{Deserialize, Serialize};

use super::{
    DialPath, Purpose,
    dialer::Dialer,
    keeper, packet,
    start::{Head, Lines, hand_over},
};
use crate::{
    dns::resolver::SystemNames,
    identity::Assurance,
    kernel::load_nothing,
    launch::{Attempt, attempt, user::AgentUser},
    policy::Policy,
    tls::Authority,
};

const PATIENCE: Duration = Duration::from_secs(5);

/// What to try.
#[derive(clap::Args, Debug)]
pub(super) struct TriesFlags {
    /// Try, rather than serve.
    #[arg(id = "tries", long = "try", requires_all = ["policy", "file", "receiver"])]
    tries: bool,
    /// The policy that the dial path goes by.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// A file to open for writing.
    #[arg(long)]
    file: Option<PathBuf>,
    /// An address that answers, to connect to.
    #[arg(long)]
    receiver: Option<SocketAddr>,
    /// Addresses to ask the dial path for.
    #[arg(long)]
    dial: Vec<SocketAddr>,
    /// The control: try without the locks.
    #[arg(long)]
    unconfined: bool,
}

/// The same, as the worker is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tries {
    pub(super) confined: bool,
    file: PathBuf,
    receiver: SocketAddr,
    dial: Vec<SocketAddr>,
    victim: u32,
}

impl TriesFlags {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (Some(policy), Some(file), Some(receiver)) = (self.policy, self.file, self.receiver)
        else {
            anyhow::bail!("--try needs --policy, --file and --receiver");
        };
        let policy = Policy::load(&policy)?;
        let victim = Command::new("/bin/sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .context("starting a process to be attacked")?;
        let mut victim = Ended(victim);
        let (dial, their_dial) = packet::pair()?;
        let (_records, records) = packet::pair()?;
        let (_identity, identity) = packet::pair()?;
        let lines = Lines {
            records,
            dial: their_dial,
            identity,
        };
        let (mut child, control) = keeper::spawn(Stdio::inherit())?;
        let head = Head {
            agent: policy.agent().to_string(),
            observe: false,
            assurance: Assurance::Confined,
            issuer: Authority::in_memory("tries")?.issuer()?,
            drain: Duration::ZERO,
            sockets: 0,
            uid: AgentUser::unused()?.as_raw(),
            supervisor: std::process::id(),
            tries: Some(Tries {
                confined: !self.unconfined,
                file,
                receiver,
                dial: self.dial,
                victim: victim.0.id(),
            }),
        };
        hand_over(&control, &head, &lines, &policy, std::iter::empty())?;
        drop(lines);
        let runtime = tokio::runtime::Runtime::new()?;
        let dialer = Dialer {
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            listening: Vec::new(),
            servers: SystemNames::read()?.servers(),
        };
        let handle = runtime.handle().clone();
        std::thread::spawn(move || dialer.serve(dial, &handle));
        let mut line = [0; 256];
        while let Ok(Some((length, _))) = packet::receive(&control, &mut line) {
            let text = line.get(..length).unwrap_or_default();
            println!("{}", crate::sanitize::sanitize_bytes(text));
        }
        let status = child.wait()?;
        println!("ended {}", status.code().unwrap_or(-1));
        let killed = victim.0.try_wait()?.is_some();
        println!("victim {}", if killed { "gone" } else { "there" });
        Ok(ExitCode::SUCCESS)
    }
}

/// Ends the process when it goes.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _it_may_be_gone = self.0.kill();
        let _status = self.0.wait();
    }
}

fn errno(result: &std::io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

impl Tries {
    /// Tries it all, in an order that lets the next be tried where the one before succeeds.
    pub(super) fn run(
        &self,
        control: &OwnedFd,
        dial: OwnedFd,
        supervisor: u32,
    ) -> anyhow::Result<ExitCode> {
        let say = |name: &str, result: std::io::Result<()>| {
            let text = format!("{name} {}", errno(&result));
            packet::send(control, text.as_bytes(), &[], SendFlags::empty())
        };
        let victim = Pid::from_raw(self.victim.cast_signed());
        say("open", File::open("/etc/passwd").map(drop))?;
        let audit = File::options().append(true).open(&self.file);
        say("append", audit.map(drop))?;
        say("socket", self.connect())?;
        say("bpf", load_nothing())?;
        say("ptrace", attempt(Attempt::Ptrace(self.victim)))?;
        say("io_uring", attempt(Attempt::IoUring))?;
        say("fork", attempt(Attempt::Fork))?;
        say(
            "unix",
            std::os::unix::net::UnixDatagram::unbound().map(drop),
        )?;
        say(
            "datagrams",
            std::os::unix::net::UnixDatagram::pair().map(drop),
        )?;
        say("spawn", Command::new("/bin/true").status().map(drop))?;
        say("signal", kill(victim, None).map_err(Into::into))?;
        let supervisor = Pid::from_raw(supervisor.cast_signed());
        say("supervisor", kill(supervisor, None).map_err(Into::into))?;
        let path = DialPath::new(dial)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        for &address in &self.dial {
            let asked = runtime.block_on(path.open(Purpose::Upstream, address, PATIENCE));
            say(&format!("dial {address}"), asked.map(drop))?;
        }
        for purpose in [Purpose::NameServer, Purpose::Datagrams] {
            let asked = runtime.block_on(path.open(purpose, self.receiver, PATIENCE));
            say(&format!("{purpose:?}"), asked.map(drop))?;
        }
        // Comes back only where it fails.
        let failed = Command::new("/bin/true").exec();
        say("execve", Err(failed))?;
        Ok(ExitCode::SUCCESS)
    }

    fn connect(&self) -> std::io::Result<()> {
        let family = match self.receiver {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let descriptor = socket(family, SockType::Stream, flags, None)?;
        let to = SockaddrStorage::from(self.receiver);
        connect(std::os::fd::AsRawFd::as_raw_fd(&descriptor), &to)?;
        Ok(())
    }
}
