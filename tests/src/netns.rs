//! Network namespaces without names: they hold no file anywhere and end with whoever holds them.
//!
//! They are entered by `setns` on a thread. `ip netns exec` would also mount another sysfs over
//! `/sys`, which hides cgroups and the BPF file system.

use std::{
    fs::File,
    os::fd::{AsFd as _, OwnedFd},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    namespace: OwnedFd,
}

impl Netns {
    /// Makes one with its loopback up. Only root can.
    ///
    /// # Errors
    /// If the kernel refuses, or `ip` is not there.
    pub fn new() -> Result<Self> {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            let namespace = File::open("/proc/thread-self/ns/net")?.into();
            Ok::<_, anyhow::Error>(Self { namespace })
        };
        let made = thread::scope(|scope| scope.spawn(make).join());
        let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// The namespace that a process is in.
    ///
    /// # Errors
    /// If it is gone.
    pub fn of_process(pid: u32) -> Result<Self> {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?.into();
        Ok(Self { namespace })
    }

    /// Runs `work` on a thread inside; what it starts and opens stays inside.
    ///
    /// # Panics
    /// If the namespace cannot be entered, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWNET)
                .expect("a namespace of our own can be entered");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` inside, with arguments that are separated by spaces.
    ///
    /// # Errors
    /// If it fails; the error has what it said.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let output = self.run(|| Command::new("ip").args(arguments.split(' ')).output());
        let output = output.context("running ip, of iproute2")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("ip {arguments}: {}", said.trim());
        }
        Ok(())
    }

    /// Joins two namespaces by a cable with the ends `here` and `there`.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn join(&self, here: &str, other: &Self, there: &str) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        // This process, since `ip` looks it up from its own.
        let path = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            other.namespace.as_raw_fd()
        );
        self.ip(&format!(
            "link add {here} type veth peer name {there} netns {path}"
        ))
    }
}
