//! The canary: before an agent starts, a process inside its boundary tries to get out and must
//! fail. Attaching without an error is no proof that anything is enforced.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::kernel::{
    Boundary, BoundaryError, bpf_is_refused,
    cgroup::{self, Cgroup},
};
use crate::netns::NetworkNamespace;

/// Longest a canary's connect may take; over loopback it is answered at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the boundary is not believed.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The canary could not be set out.
    #[error("setting out the canary")]
    Io(#[from] io::Error),
    /// It got out.
    #[error(
        "the boundary leaks: the canary got out by {0}; the agent is not started. \
         Run `sluice doctor` to see what this kernel holds"
    )]
    Escaped(String),
    /// Policy rests on what does not hold.
    #[error(transparent)]
    Boundary(#[from] BoundaryError),
    /// It did not come back with an answer.
    #[error("the canary ended with {0} instead of an answer")]
    Lost(ExitStatus),
}

/// Sockets outside the boundary that must stay silent.
#[derive(Debug)]
pub struct Canary {
    tcp: TcpListener,
    udp: UdpSocket,
    /// The namespace that they are in, where it is not this process's.
    aside: Option<NetworkNamespace>,
}

impl Canary {
    /// Opens the sockets, on loopback. This process must not be inside the boundary.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn set_out() -> Result<Self, CanaryError> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let tcp = TcpListener::bind(any)?;
        let udp = UdpSocket::bind(any)?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self {
            tcp,
            udp,
            aside: None,
        })
    }

    /// The same in a network namespace of its own, where no gateway listens: for an agent that is
    /// being served.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn set_out_aside() -> Result<Self, CanaryError> {
        let namespace = NetworkNamespace::fresh()?;
        let canary = namespace.run(Self::set_out)??;
        Ok(Self {
            aside: Some(namespace),
            ..canary
        })
    }

    /// Sends the canary into `agent`'s cgroup and checks that it stays there.
    ///
    /// To be called before the gateway's sockets are marked, or in a namespace where there are none:
    /// then nothing at all gets out.
    ///
    /// # Errors
    /// [`CanaryError::Escaped`] names the way out that it found.
    pub fn check(self, agent: &Cgroup) -> Result<(), CanaryError> {
        let (tcp, udp) = (self.tcp.local_addr()?, self.udp.local_addr()?);
        let send = || {
            Command::new("/proc/self/exe")
                .arg("canary")
                .arg("--cgroup")
                .arg(agent.path())
                .args(["--tcp", &tcp.to_string()])
                .args(["--udp", &udp.to_string()])
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
        };
        let output = match &self.aside {
            Some(namespace) => namespace.run(send)??,
            None => send()?,
        };
        if !output.status.success() {
            return Err(CanaryError::Lost(output.status));
        }
        let mut escapes: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        // The receiving end has the last word.
        if self.tcp.accept().is_ok() {
            escapes.push("a TCP connection that arrived".to_owned());
        }
        if self.udp.recv(&mut [0; 16]).is_ok() {
            escapes.push("a datagram that arrived".to_owned());
        }
        if escapes.is_empty() {
            Ok(())
        } else {
            Err(CanaryError::Escaped(escapes.join(", ")))
        }
    }
}

/// Sees for itself what else the boundary holds: that a process which leaves `agent`'s cgroup for
/// `outside` is killed, and that the LSM programs refuse. What was attached and does nothing counts
/// for nothing.
///
/// # Errors
/// If a process cannot be sent, or policy rests on what does not hold.
pub fn prove(boundary: &mut Boundary, agent: &Cgroup, outside: &Cgroup) -> Result<(), CanaryError> {
    if boundary.held().leavers {
        let leave = [OsStr::new("--leave"), outside.path().as_os_str()];
        if send_in(agent, leave)?.signal() != Some(SIGKILL) {
            boundary.leavers_live();
        }
    }
    let refuses = boundary.held().lsm && send_in(agent, [OsStr::new("--bpf")])?.success();
    Ok(boundary.lsm_seen(refuses)?)
}

/// How a process ends that does this inside `agent`.
fn send_in<const N: usize>(agent: &Cgroup, what: [&OsStr; N]) -> io::Result<ExitStatus> {
    Command::new("/proc/self/exe")
        .arg("canary")
        .arg("--cgroup")
        .arg(agent.path())
        .args(what)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
}

/// The signal that a leaver dies of.
const SIGKILL: i32 = 9;

/// The hidden command that the canary runs.
#[derive(clap::Args, Debug)]
pub struct CanaryCommand {
    /// Cgroup to join.
    #[arg(long)]
    cgroup: PathBuf,
    /// Listener outside.
    #[arg(long, required_unless_present_any = ["leave", "bpf"])]
    tcp: Option<SocketAddr>,
    /// Datagram socket outside.
    #[arg(long, required_unless_present_any = ["leave", "bpf"])]
    udp: Option<SocketAddr>,
    /// Cgroup to leave for, instead of trying to get out otherwise.
    #[arg(long)]
    leave: Option<PathBuf>,
    /// Try `bpf(2)`, and end well if it is refused.
    #[arg(long)]
    bpf: bool,
}

impl CanaryCommand {
    /// Joins the cgroup, tries every way out, and names those that worked on standard output.
    ///
    /// # Errors
    /// If the cgroup cannot be joined.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // Opened outside: inside it may be refused, and that is not what is to be seen.
        let leave = self.leave.map(|outside| outside.join("cgroup.procs"));
        let leave = leave.map(|procs| File::options().write(true).open(procs));
        cgroup::enter(&self.cgroup)?;
        if let Some(procs) = leave {
            procs?.write_all(b"0")?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.bpf {
            return Ok(ExitCode::from(u8::from(!bpf_is_refused())));
        }
        let (Some(tcp), Some(udp)) = (self.tcp, self.udp) else {
            anyhow::bail!("--tcp and --udp are missing");
        };
        let (tcp, udp) = (tcp.into(), udp.into());
        let ways: [(&str, io::Result<()>); 4] = [
            ("connect over TCP", connect(&tcp)),
            ("a datagram", send(&udp)),
            ("a datagram on a connected socket", connected(&udp)),
            ("a raw socket", raw()),
        ];
        for (way, result) in ways {
            match result {
                Ok(()) => println!("{way}"),
                Err(error) => tracing::debug!(way, %error, "refused, as it should be"),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn connect(to: &SockAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(to, PATIENCE)
}

fn send(to: &SockAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.send_to(b"canary", to).map(drop)
}

fn connected(to: &SockAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(to)?;
    socket.send(b"canary").map(drop)
}

fn raw() -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).map(drop)
}
