//! Kills what left an agent's cgroup and was not the one that called: the kernel half kills the
//! caller itself, and orders the others' death here.
//!
//! A thread of its own, so that no work of the gateway stands between the order and the kill. It
//! also takes in the events of processes, so that their ring never fills while nobody connects.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use gateway_common::{
    ABI_VERSION,
    process::{LEAVER_UNKNOWN, Leaver, MEMBER_LEFT},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use zerocopy::FromBytes as _;

use super::{
    abi::Wire,
    boundary::BoundaryError,
    exe,
    processes::{Members, Processes},
};

/// How often the table itself is looked through, for orders that found no room in the ring.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The thread. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

struct Watcher {
    orders: RingBuf<MapData>,
    members: Members,
    processes: Arc<Processes>,
    /// `cgroup.kill` of the agent's cgroup.
    end_all: PathBuf,
    stop: Arc<OwnedFd>,
}

impl Watch {
    /// Starts to watch over the agent in this cgroup.
    pub(super) fn start(
        orders: RingBuf<MapData>,
        members: Members,
        processes: Arc<Processes>,
        cgroup: &std::path::Path,
    ) -> Result<Self, BoundaryError> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| BoundaryError::Poll(error.into()))?;
        let stop = Arc::new(stop);
        let watcher = Watcher {
            orders,
            members,
            processes,
            end_all: cgroup.join("cgroup.kill"),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::Builder::new()
            .name("leavers".to_owned())
            .spawn(|| watcher.run())
            .map_err(BoundaryError::Poll)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).is_ok();
        if let Some(thread) = self.thread.take()
            && told
            && thread.join().is_err()
        {
            tracing::error!("the watch over processes that leave ended by itself");
        }
    }
}

impl Watcher {
    fn run(mut self) {
        loop {
            match self.wait() {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the watch over processes that leave cannot wait");
                    return;
                }
            }
        }
    }

    /// Waits for orders and carries them out; answers whether it is to end.
    fn wait(&mut self) -> io::Result<bool> {
        let timeout = Timespec::try_from(SWEEP_EVERY).map_err(io::Error::other)?;
        let mut waiting = [
            PollFd::from_borrowed_fd(self.orders.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.processes.descriptor(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
        ];
        let ready = match poll(&mut waiting, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => 0,
            ready => ready?,
        };
        let [_, _, stop] = waiting;
        let stop = !stop.revents().is_empty();
        self.carry_out();
        self.processes.drain();
        if ready == 0 {
            self.sweep();
        }
        Ok(stop)
    }

    fn carry_out(&mut self) {
        loop {
            let Some(item) = self.orders.next() else {
                return;
            };
            let order = Leaver::read_from_bytes(&item)
                .ok()
                .filter(|order| order.abi == ABI_VERSION);
            drop(item);
            match order {
                Some(order) if order.kind == LEAVER_UNKNOWN => self.end_agent(),
                Some(order) => kill(order.tgid, order.started_ns),
                // Whom it was about stands in the table.
                None => tracing::error!("an order of the kernel half cannot be read"),
            }
        }
    }

    fn sweep(&self) {
        let left = self.members.iter().filter_map(Result::ok);
        for (tgid, Wire(member)) in left {
            if member.state == MEMBER_LEFT {
                kill(tgid, member.started_ns);
            }
        }
    }

    /// A process that nobody keeps account of could leave unseen.
    fn end_agent(&self) {
        tracing::error!("more processes than account is kept of: all of the agent is ended");
        if let Err(error) = fs::write(&self.end_all, "1") {
            tracing::error!(%error, "ending all of the agent");
        }
    }
}

/// Kills a process, unless its number is somebody else's by now.
fn kill(tgid: u32, started_ns: u64) {
    let Some(pid) = i32::try_from(tgid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // From here on the number cannot change hands unseen.
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    if !exe::began_at(tgid, started_ns) {
        return;
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) => tracing::debug!(tgid, "killed a process that left"),
        // It ended by itself meanwhile.
        Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::error!(%error, tgid, "killing a process that left"),
    }
}
