//! The other side of the gateway: nginx, and sockets that nothing may reach.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{network, receivers::Receivers};
use crate::{process::Guarded, workspace};

/// How long nginx may take until it listens.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait before looking again.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// Where nginx writes what it was asked.
const LOG: &str = "arrived.log";

/// What reached the upstream.
pub(super) struct Arrived {
    /// `METHOD URL` of each request, in order.
    pub(super) requests: Vec<String>,
    /// Whatever reached a socket that nothing may reach, in words.
    pub(super) strays: Vec<String>,
}

/// A running upstream, in a namespace of its own; ends when dropped.
pub(super) struct Upstream {
    log: PathBuf,
    receivers: Receivers,
    keeper: Option<Keeper>,
}

impl Upstream {
    /// Starts it and lays the cable to it from this thread's namespace. `folder` has the
    /// certificate, and gets the logs.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let (keeper, receivers) = Keeper::start(folder.to_owned())?;
        Ok(Self {
            log: folder.join(LOG),
            receivers,
            keeper: Some(keeper),
        })
    }

    /// Ends nginx, so that its log is whole, and answers what reached the upstream.
    pub(super) fn arrived(&mut self) -> Result<Arrived> {
        let strays = self.receivers.arrived()?;
        drop(self.keeper.take());
        let log = fs::read_to_string(&self.log).context("reading nginx's log")?;
        Ok(Arrived {
            requests: log.lines().map(str::to_owned).collect(),
            strays,
        })
    }
}

/// The thread that lives in the upstream's namespace, and nginx with it: the kernel ends nginx
/// when the thread that started it ends.
struct Keeper {
    leave: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(folder: PathBuf) -> Result<(Self, Receivers)> {
        let (namespace, made) = mpsc::channel();
        let (joined, go_on) = mpsc::channel();
        let (receivers, opened) = mpsc::channel();
        let (leave, left) = mpsc::channel();
        let thread = thread::spawn(move || {
            let ready = network::enter_own().map(|()| network::own());
            let failed = ready.is_err();
            if namespace.send(ready).is_err() || failed || go_on.recv().is_err() {
                return;
            }
            match serve(&folder) {
                Ok((nginx, opened)) => {
                    if receivers.send(Ok(opened)).is_ok() {
                        wait(&left);
                    }
                    drop(nginx);
                }
                // Only fails where nobody waits for it any more.
                Err(error) => drop(receivers.send(Err(error))),
            }
        });
        let keeper = Self {
            leave: Some(leave),
            thread: Some(thread),
        };
        network::join(&receive(&made)?)?;
        joined
            .send(())
            .map_err(|_| anyhow!("the upstream's thread ended"))?;
        Ok((keeper, receive(&opened)?))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            drop(thread.join());
        }
    }
}

/// What the thread has to say, be it an error.
fn receive<T>(from: &Receiver<Result<T>>) -> Result<T> {
    from.recv().context("the upstream's thread ended")?
}

/// Until the other end is dropped.
fn wait(left: &Receiver<()>) {
    while left.recv().is_ok() {}
}

/// Starts what the upstream is, from within its namespace.
fn serve(folder: &Path) -> Result<(Guarded, Receivers)> {
    network::bring_up_upstream()?;
    let receivers = Receivers::open()?;
    // nginx looks for certificates beside its configuration.
    let configuration = folder.join("nginx.conf");
    fs::copy(workspace::root().join("demo/nginx.conf"), &configuration)
        .context("copying nginx's configuration")?;
    let mut nginx = Guarded::spawn("nginx", |command| {
        command
            .arg("-p")
            .arg(folder)
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(configuration);
    })?;
    wait_until_up(&mut nginx)?;
    Ok((nginx, receivers))
}

/// Until nginx accepts connections; what keeps it from that, it says itself.
fn wait_until_up(nginx: &mut Guarded) -> Result<()> {
    let begun = Instant::now();
    let address = SocketAddr::from((network::UPSTREAM, 443));
    while let Err(error) = TcpStream::connect_timeout(&address, DEADLINE) {
        if let Some(status) = nginx.child().try_wait().context("asking for nginx")? {
            bail!("nginx ended with {status}");
        }
        if begun.elapsed() > DEADLINE {
            bail!("nginx does not listen: {error}");
        }
        thread::sleep(BETWEEN_TRIES);
    }
    Ok(())
}
