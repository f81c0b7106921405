//! Everybody outside whom an agent might get to act for it: real processes and real listeners,
//! each with a way to the origin.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, IoSlice, Write as _},
    net::{Ipv4Addr, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, listen, recv, send, sendmsg, socket,
};

use super::{
    session::{NOBODY, Who, credentials},
    world::{ORIGIN4, World},
};
use crate::{
    agent, cgroup,
    deadline::patience,
    vector::{
        MARKER,
        stage::{Kind, Outsider, Stage},
    },
};

/// The port at the origin that outsiders send to.
pub const PORT: u16 = 2000;

/// What a listener does with whoever comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Service {
    /// Sends on what it is told.
    Relay,
    /// Hands out a socket that is connected to the origin.
    Handout,
}

/// Where listeners are: services of systems by the paths at which agents find them, `/run` being
/// the test's own.
const LISTENERS: &[(&str, &str, Kind, Service)] = &[
    (
        "passed-path",
        "/run/handout",
        Kind::Stream,
        Service::Handout,
    ),
    (
        "passed-abstract",
        "@handout",
        Kind::Stream,
        Service::Handout,
    ),
    ("unix-stream", "/run/stream", Kind::Stream, Service::Relay),
    (
        "unix-packets",
        "/run/packets",
        Kind::Packets,
        Service::Relay,
    ),
    (
        "unix-datagram",
        "/run/datagram",
        Kind::Datagram,
        Service::Relay,
    ),
    (
        "unix-datagram-connected",
        "/run/datagrams",
        Kind::Datagram,
        Service::Relay,
    ),
    ("unix-abstract", "@stream", Kind::Stream, Service::Relay),
    (
        "unix-abstract-datagram",
        "@datagram",
        Kind::Datagram,
        Service::Relay,
    ),
    ("docker", "/run/docker.sock", Kind::Stream, Service::Relay),
    (
        "containerd",
        "/run/containerd/containerd.sock",
        Kind::Stream,
        Service::Relay,
    ),
    (
        "dbus",
        "/run/dbus/system_bus_socket",
        Kind::Stream,
        Service::Relay,
    ),
    (
        "systemd",
        "/run/systemd/private",
        Kind::Stream,
        Service::Relay,
    ),
    (
        "journald",
        "/run/systemd/journal/socket",
        Kind::Datagram,
        Service::Relay,
    ),
    (
        "syslog",
        "/run/systemd/journal/dev-log",
        Kind::Datagram,
        Service::Relay,
    ),
    ("nscd", "/run/nscd/socket", Kind::Stream, Service::Relay),
    (
        "resolved",
        "/run/systemd/resolve/io.systemd.Resolve",
        Kind::Stream,
        Service::Relay,
    ),
    (
        "ssh-agent",
        "SCRATCH/ssh-XXXXXXagent/agent.1",
        Kind::Stream,
        Service::Relay,
    ),
    (
        "tmux",
        "SCRATCH/tmux-65534/default",
        Kind::Stream,
        Service::Relay,
    ),
];

/// The outsiders. They end with this value.
#[derive(Debug)]
pub struct Outside {
    facts: Stage,
    run: PathBuf,
    outsider: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    mortal: Child,
    gateway: Child,
    cgroups: Cgroups,
    fences: Vec<Fence>,
    /// At the origin, so that nobody hears that his words were not welcome.
    _sink: UdpSocket,
}

/// Two cgroups without any program, removed in the end.
#[derive(Debug)]
struct Cgroups {
    /// Where unconfined attempts begin.
    inside: PathBuf,
    /// Where they move to.
    outside: PathBuf,
}

impl Outside {
    /// Puts everybody into place. `folder` is readable by everybody, `outsider` the program.
    ///
    /// # Errors
    /// If something of it fails: without it no attempt proves anything.
    pub fn new(
        world: &World,
        folder: &Path,
        vector: &Path,
        outsider: &Path,
        who: Who,
    ) -> anyhow::Result<Self> {
        let run = folder.join("run");
        let scratch = folder.join("scratch");
        fs::create_dir_all(&run)?;
        fs::create_dir_all(&scratch)?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o1777))?;
        let mut facts = Stage {
            scratch: scratch.clone(),
            setuid: Some(setuid_copy(folder, vector)?),
            cgroups: cgroup::mount_point()?,
            ..Stage::default()
        };
        let sink = world.origin.run(|| UdpSocket::bind((ORIGIN4, PORT)));
        let sink = sink.context("a socket at the origin")?;
        let token = agent::random()?;
        let mut fences = Vec::new();
        for (name, path, kind, service) in LISTENERS {
            let told = match path.strip_prefix('@') {
                Some(name) => format!("@{name}-{token}"),
                None => path.replace("SCRATCH", &scratch.to_string_lossy()),
            };
            let real = told.replacen(
                "/run",
                &run.to_string_lossy(),
                usize::from(path.starts_with("/run")),
            );
            let fence = open(world, &real, *kind, *service);
            fences.push(fence.with_context(|| format!("listening on {real}"))?);
            facts.sockets.insert((*name).to_owned(), (told, *kind));
        }
        let cgroups = Cgroups::new(&facts.cgroups, &token)?;
        let relative = cgroups.outside.strip_prefix(&facts.cgroups);
        facts.outside = relative.context("a cgroup below the mount")?.to_owned();

        // With the very credentials of those who tamper with it.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$@\"", "sh"]);
        command.args(credentials(who)).arg(outsider);
        command.arg(ORIGIN4.to_string()).arg(PORT.to_string());
        command.current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut outsider = world.node.run(|| command.spawn()).context("an outsider")?;
        let orders = outsider.stdin.take().context("no standard input")?;
        let mut answers = BufReader::new(outsider.stdout.take().context("no standard output")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let known: Outsider = serde_json::from_str(&line).context("what the outsider says")?;
        facts.outsider = Some(known);

        let mortal = idler(NOBODY)?;
        let gateway = idler(0)?;
        facts.mortal = Some(i32::try_from(mortal.id())?);
        Ok(Self {
            facts,
            run,
            outsider,
            orders,
            answers,
            mortal,
            gateway,
            cgroups,
            fences,
            _sink: sink,
        })
    }

    /// What attempts are told.
    #[must_use]
    pub const fn facts(&self) -> &Stage {
        &self.facts
    }

    /// What stands in for `/run`.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The cgroup in which unconfined attempts begin.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroups.inside
    }

    /// A process of root's that stands in for the gateway, where there is none.
    #[must_use]
    pub fn stand_in(&self) -> u32 {
        self.gateway.id()
    }

    /// Waits until all that outsiders were told so far is sent, what others have left in the
    /// memory of one included.
    ///
    /// # Errors
    /// If it is not.
    pub fn speak(&mut self, world: &World) -> anyhow::Result<()> {
        self.fences.iter().try_for_each(|fence| fence.pass(world))?;
        self.orders.write_all(b"speak\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(line == "spoken\n", "the outsider says {line:?}");
        Ok(())
    }

    /// Whether the process that attempts may end has not been.
    ///
    /// # Errors
    /// If it cannot be asked after.
    pub fn mortal_lives(&mut self) -> anyhow::Result<bool> {
        Ok(self.mortal.try_wait()?.is_none())
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in [&mut self.outsider, &mut self.mortal, &mut self.gateway] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Cgroups {
    fn new(mount: &Path, token: &str) -> anyhow::Result<Self> {
        let top = mount.join(format!("vectors-{token}"));
        let made = Self {
            inside: top.join("inside"),
            outside: top.join("outside"),
        };
        fs::create_dir_all(&made.inside).context("making a cgroup")?;
        fs::create_dir(&made.outside).context("making a cgroup")?;
        Ok(made)
    }
}

impl Drop for Cgroups {
    /// Attempts leave cgroups of their own below, all empty by now.
    fn drop(&mut self) {
        if let Some(top) = self.inside.parent() {
            cgroup::kill(top);
            remove(top);
        }
    }
}

fn remove(cgroup: &Path) {
    for child in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path());
        }
    }
    // Processes that were killed a moment ago keep it for that moment.
    drop(crate::deadline::wait_for(
        "an empty cgroup",
        || match fs::remove_dir(cgroup) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
            result => Ok(Some(result?)),
        },
    ));
}

/// A process that waits for its standard input to end.
fn idler(uid: u32) -> anyhow::Result<Child> {
    let mut command = Command::new("/bin/cat");
    command
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command.spawn().context("starting cat")
}

fn setuid_copy(folder: &Path, vector: &Path) -> anyhow::Result<PathBuf> {
    let copy = folder.join("vector-setuid");
    fs::copy(vector, &copy).context("copying the vector program")?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755))?;
    Ok(copy)
}

/// What a listener is told last: that it has done all that it was told before.
const FENCE: &[u8] = b"[fence]";

/// Asks a listener for the end of its work.
#[derive(Debug)]
struct Fence {
    path: String,
    kind: Kind,
    passed: Receiver<()>,
}

impl Fence {
    fn pass(&self, world: &World) -> anyhow::Result<()> {
        let (path, kind) = (&self.path, self.kind);
        let told = world.node.run(|| {
            let socket = socket_of(kind)?;
            connect(socket.as_raw_fd(), &unix_address(path)?)?;
            send(socket.as_raw_fd(), FENCE, MsgFlags::empty())
        });
        told.with_context(|| format!("telling {}", self.path))?;
        let passed = self.passed.recv_timeout(patience());
        passed.with_context(|| format!("{} does not end", self.path))
    }
}

/// Listens in the node's namespace, on a thread that ends with the process.
fn open(world: &World, path: &str, kind: Kind, service: Service) -> anyhow::Result<Fence> {
    if !path.starts_with('@') {
        let folder = Path::new(path).parent().context("a path has a folder")?;
        fs::create_dir_all(folder)?;
    }
    let (pass, passed) = mpsc::channel();
    let way_out = world.node.run(to_origin)?;
    let listener = world.node.run(|| {
        let socket = socket_of(kind)?;
        bind(socket.as_raw_fd(), &unix_address(path)?)?;
        if kind != Kind::Datagram {
            listen(&socket, Backlog::MAXCONN)?;
        }
        nix::Result::Ok(socket)
    })?;
    let clerk = Clerk {
        listener,
        service,
        way_out,
        pass,
    };
    thread::spawn(move || match kind {
        Kind::Datagram => clerk.hear(clerk.listener.as_raw_fd()),
        Kind::Stream | Kind::Packets => clerk.receive(),
    });
    if !path.starts_with('@') {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    Ok(Fence {
        path: path.to_owned(),
        kind,
        passed,
    })
}

/// Whoever serves at a listener, one caller after another.
struct Clerk {
    listener: OwnedFd,
    service: Service,
    way_out: UdpSocket,
    pass: Sender<()>,
}

impl Clerk {
    fn receive(&self) {
        while let Ok(number) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: the kernel has just made this descriptor for the caller.
            let caller = unsafe { OwnedFd::from_raw_fd(number) };
            if self.service == Service::Handout {
                // A caller that is gone gets nothing.
                self.hand_out(&caller).ok();
            }
            self.hear(caller.as_raw_fd());
        }
    }

    /// Sends on what comes, until the other side has had enough.
    fn hear(&self, number: RawFd) {
        let mut buffer = [0; 2048];
        while let Ok(length @ 1..) = recv(number, &mut buffer, MsgFlags::empty()) {
            let told = buffer.get(..length).unwrap_or_default();
            // Whether it arrives, and whether anybody waits for the end, is the test's affair.
            if told == FENCE {
                self.pass.send(()).ok();
            } else if told.starts_with(MARKER) {
                self.way_out.send(told).ok();
            }
        }
    }

    fn hand_out(&self, caller: &OwnedFd) -> nix::Result<()> {
        let numbers = [self.way_out.as_raw_fd()];
        let parts = [IoSlice::new(b"!")];
        let control = [ControlMessage::ScmRights(&numbers)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<UnixAddr>(caller.as_raw_fd(), &parts, &control, flags, None).map(drop)
    }
}

/// A datagram socket to the origin.
fn to_origin() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((ORIGIN4, PORT))?;
    Ok(socket)
}

fn socket_of(kind: Kind) -> nix::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => SockType::Stream,
        Kind::Datagram => SockType::Datagram,
        Kind::Packets => SockType::SeqPacket,
    };
    socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
}

fn unix_address(path: &str) -> nix::Result<UnixAddr> {
    match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes()),
        None => UnixAddr::new(path),
    }
}
