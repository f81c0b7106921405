//! The canary: before an agent starts, a process inside its boundary tries to get out and must
//! fail. Attaching without an error is no proof that anything is enforced.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::kernel::cgroup::{self, Cgroup};

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
    /// It did not come back with an answer.
    #[error("the canary ended with {0} instead of an answer")]
    Lost(std::process::ExitStatus),
}

/// Sockets outside the boundary that must stay silent.
#[derive(Debug)]
pub struct Canary {
    tcp: TcpListener,
    udp: UdpSocket,
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
        Ok(Self { tcp, udp })
    }

    /// Sends the canary into `agent`'s cgroup and checks that it stays there.
    ///
    /// To be called before the gateway's sockets are marked: then nothing at all gets out.
    ///
    /// # Errors
    /// [`CanaryError::Escaped`] names the way out that it found.
    pub fn check(self, agent: &Cgroup) -> Result<(), CanaryError> {
        let output = Command::new("/proc/self/exe")
            .arg("canary")
            .arg("--cgroup")
            .arg(agent.path())
            .args(["--tcp", &self.tcp.local_addr()?.to_string()])
            .args(["--udp", &self.udp.local_addr()?.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
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

/// Whether a process that leaves `agent`'s cgroup for `outside` is killed: seen, not assumed.
///
/// # Errors
/// If the process cannot be sent.
pub fn leaving_kills(agent: &Cgroup, outside: &Cgroup) -> Result<bool, CanaryError> {
    let status = Command::new("/proc/self/exe")
        .arg("canary")
        .arg("--cgroup")
        .arg(agent.path())
        .arg("--leave")
        .arg(outside.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    Ok(status.signal() == Some(SIGKILL))
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
    #[arg(long, required_unless_present = "leave")]
    tcp: Option<SocketAddr>,
    /// Datagram socket outside.
    #[arg(long, required_unless_present = "leave")]
    udp: Option<SocketAddr>,
    /// Cgroup to leave for, instead of trying to get out otherwise.
    #[arg(long)]
    leave: Option<PathBuf>,
}

impl CanaryCommand {
    /// Joins the cgroup, tries every way out, and names those that worked on standard output.
    ///
    /// # Errors
    /// If the cgroup cannot be joined.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        cgroup::enter(&self.cgroup)?;
        if let Some(outside) = &self.leave {
            cgroup::enter(outside)?;
            return Ok(ExitCode::SUCCESS);
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
