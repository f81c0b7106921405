//! Starts workers, serves what they ask for, and starts another when one dies.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::{SendFlags, Shutdown, sockopt},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    dialer::Dialer,
    identity::Identities,
    packet,
    policies::Policies,
    pulse::{self, Change, HAND_OVER},
    start::{Head, Lines, READY, hand_over, observes, send_policy},
    tries::Tries,
};
use crate::{
    app::Bound,
    audit::{Audit, Blame, Kind, Outcome, Record, Subject},
    launch::user::AgentUser,
    policy::Policy,
    tls::IssuerText,
};

/// How often a worker is started again in one session.
const AGAIN: u32 = 3;
/// How long a worker may take to lock itself in.
const START: Duration = Duration::from_secs(20);
/// How much longer than its drain a worker may take to end.
const END: Duration = Duration::from_secs(5);
/// How long a worker may take to compile a policy.
const RELOAD: Duration = Duration::from_secs(10);
/// Octets of a worker's log line that are passed on.
const LINE: u64 = 8 << 10;

/// What workers are started with and served from.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) policies: Policies,
    pub(crate) audit: Audit,
    pub(crate) subject: Subject,
    pub(crate) drain: Duration,
    pub(crate) identities: Arc<Identities>,
    pub(crate) servers: Vec<std::net::SocketAddr>,
    /// Makes the certificates with which the worker opens TLS.
    pub(crate) issuer: IssuerText,
}

/// The thread that keeps a worker alive.
///
/// The kernel ends a worker with the thread that started it, so that one stays for as long.
#[derive(Debug)]
pub(crate) struct Keeper {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
    policies: Policies,
    /// Cancelled when no worker is left and none is started any more.
    lost: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    ending: AtomicBool,
    /// Whether there is a worker that stands still.
    silent: AtomicBool,
    /// Cancelled when the worker accepts no more, as it was told.
    handed_over: CancellationToken,
    current: Mutex<Option<Grip>>,
    /// Who waits for the worker's word on a policy that it was sent.
    reloading: Mutex<Option<oneshot::Sender<bool>>>,
}

/// Why the policy stays what it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReloaded {
    /// It could not be sent.
    #[error("the gateway's worker cannot be sent the policy: {0}")]
    Sending(#[from] io::Error),
    /// The worker says no.
    #[error("the gateway's worker did not take the policy")]
    Refused,
    /// The worker says nothing.
    #[error("the gateway's worker did not answer, and is killed; another is started")]
    Silent,
}

/// What ends a worker.
#[derive(Debug)]
struct Grip {
    control: OwnedFd,
    process: OwnedFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Grip>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> MutexGuard<'_, Option<oneshot::Sender<bool>>> {
        let waiting = self.reloading.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, work: impl FnOnce(&Grip)) {
        if let Some(worker) = &*self.lock() {
            work(worker);
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}

impl Keeper {
    /// Starts the first worker; answers when it is locked in.
    ///
    /// # Errors
    /// If it could not be started, or gave up.
    pub(crate) async fn begin(keep: Keep, bound: Bound) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let lost = CancellationToken::new();
        let (started, first) = oneshot::channel();
        let runtime = Handle::current();
        let policies = keep.policies.clone();
        let (mine, told) = (Arc::clone(&shared), lost.clone());
        let thread = std::thread::Builder::new()
            .name("sluice-keeper".to_owned())
            .spawn(move || {
                let _lost = told.drop_guard();
                run(&Arc::new(keep), &bound, &mine, &runtime, started);
            })?;
        first.await.map_err(io::Error::other)??;
        Ok(Self {
            thread,
            shared,
            policies,
            lost,
        })
    }

    /// Waits until there is no worker and none is started any more.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Whether the worker answers when it is asked.
    pub(crate) fn answers(&self) -> bool {
        !self.shared.silent.load(Ordering::SeqCst)
    }

    /// Puts another policy in force: here, where connections are opened, and in the worker. If
    /// that does not come to it, the one before stays in force in both.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) async fn reload(&self, policy: &Policy) -> Result<(), NotReloaded> {
        let before = self.policies.current();
        let (sender, answer) = oneshot::channel();
        let sent = {
            let current = self.shared.lock();
            // What the old one alone allows is no longer opened, what the new one alone allows is
            // not asked for yet.
            self.policies.replace(Arc::new(policy.clone()));
            *self.shared.answer() = Some(sender);
            // One that is started next begins with it.
            current
                .as_ref()
                .map(|worker| send_policy(&worker.control, policy))
        };
        let refused = match sent {
            None => return Ok(()),
            Some(Err(error)) => NotReloaded::Sending(error),
            Some(Ok(())) => match tokio::time::timeout(RELOAD, answer).await {
                // Where it died over it, the next one begins with the policy.
                Ok(Ok(true) | Err(_)) => return Ok(()),
                Ok(Ok(false)) => NotReloaded::Refused,
                Err(_) => NotReloaded::Silent,
            },
        };
        let current = self.shared.lock();
        self.policies.replace(before);
        if let (NotReloaded::Silent, Some(worker)) = (&refused, &*current) {
            kill(worker);
        }
        Err(refused)
    }

    /// Asks the worker to accept no more and let what is open go on; answers when it is so, or
    /// when it does not come to it.
    pub(crate) async fn hand_over(&self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.with(|worker| {
            if let Err(error) = packet::send(&worker.control, HAND_OVER, &[], SendFlags::DONTWAIT) {
                tracing::debug!(%error, "the worker cannot be told to hand over");
            }
        });
        let handed = tokio::time::timeout(END, async {
            tokio::select! {
                () = self.shared.handed_over.cancelled() => {}
                () = self.lost.cancelled() => {}
            }
        });
        if handed.await.is_err() {
            tracing::error!("the gateway's worker does not hand over, and is killed");
            self.shared.with(kill);
            self.lost.cancelled().await;
        }
    }

    /// Asks the worker to finish, and waits for it for as long as it may take.
    pub(crate) async fn end(self, drain: Duration) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.with(|worker| {
            // The end of this stream is the word.
            if let Err(error) = rustix::net::shutdown(&worker.control, Shutdown::Write) {
                tracing::debug!(%error, "the worker cannot be told to finish");
            }
        });
        if tokio::time::timeout(drain + END, self.lost.cancelled())
            .await
            .is_err()
        {
            tracing::error!("the gateway's worker does not finish, and is killed");
            self.shared.with(kill);
        }
        // It is on its last steps.
        if tokio::task::spawn_blocking(move || self.thread.join())
            .await
            .is_err()
        {
            tracing::error!("the thread that kept the gateway's worker failed");
        }
    }
}

fn kill(worker: &Grip) {
    if let Err(error) = pidfd_send_signal(&worker.process, Signal::KILL) {
        tracing::debug!(%error, "the worker cannot be killed");
    }
}

fn run(
    keep: &Arc<Keep>,
    bound: &Bound,
    shared: &Arc<Shared>,
    runtime: &Handle,
    started: oneshot::Sender<io::Result<()>>,
) {
    let mut started = Some(started);
    let mut again = 0;
    loop {
        let ended = match start(keep, bound, shared, runtime) {
            Ok(worker) => {
                tell(keep, shared, Change::Answers);
                if let Some(started) = started.take() {
                    let _whoever_asked_is_gone = started.send(Ok(()));
                }
                worker.wait(shared)
            }
            Err(error) => {
                if let Some(started) = started.take() {
                    let _whoever_asked_is_gone = started.send(Err(error));
                    return;
                }
                format!("did not start: {error}")
            }
        };
        if shared.is_ending() {
            return;
        }
        let hint = if again < AGAIN {
            format!("the gateway's worker {ended}; another is started")
        } else {
            format!("the gateway's worker {ended}, once too often; nothing leaves the agent")
        };
        crate::cli::say::error(&hint);
        record(keep, Outcome::Deny, "gateway_died", hint);
        if again == AGAIN {
            return;
        }
        again += 1;
    }
}

fn record(keep: &Keep, outcome: Outcome, reason: &'static str, hint: String) {
    let now = jiff::Timestamp::now();
    let mut record =
        Record::new(&keep.subject, now, Kind::Finding, outcome, reason).blame(Blame::Us);
    record.hint = Some(hint);
    if !keep.audit.offer(record) {
        tracing::error!(reason, "a finding found no room in the audit log");
    }
}

/// Says that the worker stands still, once, and that one serves again, once.
fn tell(keep: &Keep, shared: &Shared, change: Change) {
    use pulse::{OVER, SILENT};
    match change {
        Change::Silent => {
            shared.silent.store(true, Ordering::SeqCst);
            let hint = format!(
                "the gateway's worker has not answered for {SILENT} seconds; nothing leaves the \
                 agent meanwhile, and after {OVER} seconds it is killed"
            );
            crate::cli::say::error(&hint);
            record(keep, Outcome::Deny, "gateway_silent", hint);
        }
        Change::Answers => {
            if shared.silent.swap(false, Ordering::SeqCst) {
                let hint = "the gateway's worker answers again";
                crate::cli::say::line(hint);
                record(keep, Outcome::Allow, "gateway_answers", hint.to_owned());
            }
        }
        Change::Over => {
            crate::cli::say::error(format_args!(
                "the gateway's worker has not answered for {OVER} seconds, and is killed"
            ));
            shared.with(kill);
        }
        Change::HandedOver => shared.handed_over.cancel(),
        Change::Reloaded(taken) => {
            if let Some(waiting) = shared.answer().take() {
                let _whoever_waited_gave_up = waiting.send(taken);
            }
        }
    }
}

/// A worker that is locked in and serves.
struct Worker {
    child: Child,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Waits for its end, and for what it handed over. Says how it ended.
    fn wait(mut self, shared: &Shared) -> String {
        let status = self.child.wait();
        shared.lock().take();
        shared.answer().take();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread that served the worker failed");
            }
        }
        match status {
            Ok(status) => format!("ended ({status})"),
            Err(error) => format!("cannot be waited for: {error}"),
        }
    }
}

/// A process of the worker's program, not yet handed anything.
pub(super) fn spawn(errors: Stdio) -> io::Result<(Child, OwnedFd)> {
    use std::os::unix::process::CommandExt as _;
    let (control, theirs) = packet::pair()?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut command = Command::new("/proc/self/exe");
    // Its own group: a key at the terminal is for the command.
    command.env_clear().process_group(0);
    // Where the operator keeps root certificates, if not where the system does.
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(filter) = crate::cli::logging::filter() {
        command.arg("--log").arg(filter);
    }
    let child = command
        .arg("worker")
        .arg(format!("--control={}", theirs.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()?;
    Ok((child, control))
}

/// What a worker is told first.
pub(super) fn head(
    keep: &Keep,
    policy: &Policy,
    sockets: usize,
    tries: Option<Tries>,
) -> io::Result<Head> {
    let uid = AgentUser::unused().map_err(io::Error::other)?;
    Ok(Head {
        agent: policy.agent().to_string(),
        observe: observes(policy),
        assurance: keep.subject.assurance,
        issuer: keep.issuer.clone(),
        drain: keep.drain,
        sockets,
        uid: uid.as_raw(),
        supervisor: std::process::id(),
        tries,
    })
}

fn start(
    keep: &Arc<Keep>,
    bound: &Bound,
    shared: &Arc<Shared>,
    runtime: &Handle,
) -> io::Result<Worker> {
    let (records, their_records) = packet::pair()?;
    let (dial, their_dial) = packet::pair()?;
    let (identity, their_identity) = packet::pair()?;
    let theirs = Lines {
        records: their_records,
        dial: their_dial,
        identity: their_identity,
    };
    let (mut child, control) = spawn(Stdio::piped())?;
    let mut threads = Vec::new();
    if let Some(errors) = child.stderr.take() {
        threads.push(thread("sluice-log", move || {
            pass_on(errors);
            Ok(())
        })?);
    }
    let policy = keep.policies.current();
    let begun = (|| {
        let head = head(keep, &policy, bound.sockets().count(), None)?;
        hand_over(&control, &head, &theirs, &policy, bound.sockets())?;
        sockopt::set_socket_timeout(&control, sockopt::Timeout::Recv, Some(START))?;
        let mut said = [0; READY.len()];
        match packet::receive(&control, &mut said)? {
            Some(_) if said == READY => {}
            Some(_) | None => return Err(io::Error::other("it gave up before it served")),
        }
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        Ok((control.try_clone()?, Grip { control, process }))
    })();
    drop(theirs);
    let (control, grip) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _it_may_have_ended = child.kill();
            let _status = child.wait();
            for thread in threads {
                let _joined = thread.join();
            }
            return Err(error);
        }
    };
    {
        let mut current = shared.lock();
        // Whoever was to end it, or to give it another policy, while it started, found nobody to
        // tell.
        let is_old = !Arc::ptr_eq(&policy, &keep.policies.current());
        if shared.is_ending() || is_old {
            kill(&grip);
        }
        *current = Some(grip);
    }
    let lines = Supervisors {
        control,
        records,
        dial,
        identity,
    };
    let lines = serve_lines(keep, bound, shared, runtime, lines);
    match lines {
        Ok(lines) => threads.extend(lines),
        Err(error) => {
            shared.with(kill);
            Worker { child, threads }.wait(shared);
            return Err(error);
        }
    }
    Ok(Worker { child, threads })
}

/// This process's ends of a worker's lines.
struct Supervisors {
    control: OwnedFd,
    records: OwnedFd,
    dial: OwnedFd,
    identity: OwnedFd,
}

fn serve_lines(
    keep: &Arc<Keep>,
    bound: &Bound,
    shared: &Arc<Shared>,
    runtime: &Handle,
    lines: Supervisors,
) -> io::Result<Vec<JoinHandle<()>>> {
    let Supervisors {
        control,
        records,
        dial,
        identity,
    } = lines;
    // Whoever breaks the form is ended.
    let served = |result: io::Result<()>, shared: &Shared| {
        if let Err(error) = result
            && !matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        {
            tracing::error!(%error, "the gateway's worker is killed for what it sent");
            shared.with(kill);
        }
        Ok(())
    };
    let (audit, subject) = (keep.audit.clone(), keep.subject.clone());
    let policies = keep.policies.clone();
    let (known, own, handle) = (
        Arc::clone(&keep.identities),
        Arc::clone(shared),
        runtime.clone(),
    );
    let records = thread("sluice-records", move || {
        let taken = audit.take_from(
            &records,
            |policy| Subject {
                policy: policies.named(policy),
                ..subject.clone()
            },
            &handle,
            |cookie| known.known(cookie),
        );
        served(taken, &own)
    })?;
    let dialer = Dialer {
        policy: keep.policies.handle(),
        listening: bound.addresses().collect(),
        servers: keep.servers.clone(),
    };
    let (own, handle) = (Arc::clone(shared), runtime.clone());
    let dial = thread("sluice-dialer", move || {
        served(dialer.serve(dial, &handle), &own)
    })?;
    let (identities, own) = (Arc::clone(&keep.identities), Arc::clone(shared));
    let identity = thread("sluice-identity", move || {
        served(identities.serve(&identity), &own)
    })?;
    let (keep, own) = (Arc::clone(keep), Arc::clone(shared));
    let pulse = thread("sluice-pulse", move || {
        let watched = pulse::watch(&control, |change| tell(&keep, &own, change));
        served(watched, &own)
    })?;
    Ok(vec![records, dial, identity, pulse])
}

fn thread(
    name: &str,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if let Err(error) = work() {
                tracing::error!(%error, "serving the gateway's worker");
            }
        })
}

/// Passes on what a worker logs, line by line.
fn pass_on(errors: impl io::Read) {
    use std::io::{BufRead as _, Read as _, Write as _};
    let mut lines = io::BufReader::new(errors);
    let mut line = Vec::new();
    while let Ok(1..) = lines.by_ref().take(LINE).read_until(b'\n', &mut line) {
        let text = crate::sanitize::sanitize_bytes(line.trim_ascii_end());
        let _nobody_reads_it = writeln!(io::stderr(), "{text}");
        line.clear();
    }
}
