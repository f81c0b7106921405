//! An agent that opens what it is told to, when it is told to, and says how that ended.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use crate::{
    agent::{Agent, Running},
    skip::PYTHON,
};

/// Tells the proxy that it was given, then obeys lines of `KIND ADDRESS PORT`.
const PROGRAM: &str = r#"
import errno, os, socket, sys
associated = {}
print("gateway", os.environ["http_proxy"].rsplit(":", 1)[1], flush=True)
for number, line in enumerate(sys.stdin):
    kind, host, port = line.split()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    stream = kind == "tcp"
    try:
        if kind == "send":
            associated.pop(host).send(b"leaked")
            print(f"{number}: sent;", flush=True)
            continue
        one = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        one.settimeout(20)
        if kind == "defer":
            one = socket.socket(family, socket.SOCK_STREAM)
            one.setsockopt(socket.IPPROTO_TCP, 34, 1)  # TCP_FASTOPEN_NO_COOKIE
            one.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
            one.setblocking(False)
            one.connect((host, int(port)))
            associated[host] = one
            result = "associated"
        elif stream:
            one.connect((host, int(port)))
            one.sendall(b"x")
            answer = one.recv(16)
            result = "answered" if answer else "closed"
        elif kind == "associate":
            one.connect((host, int(port)))
            associated[host] = one
            result = "associated"
        else:
            one.sendto(b"x", (host, int(port)))
            result = "sent"
    except OSError as error:
        result = errno.errorcode.get(error.errno, repr(error))
    print(f"{number}: {result};", flush=True)
"#;

/// How the attempts go out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Connects, sends a byte and waits for an answer.
    Tcp,
    /// Sends one datagram.
    Udp,
    /// Connects a UDP socket, and keeps it.
    Associate,
    /// Connects a TCP socket whose SYN waits for the first bytes, and keeps it.
    Defer,
    /// Sends on the socket kept for this address, wherever that leads by now, and forgets it.
    Send,
}

/// The agent.
#[derive(Debug)]
pub struct Probe {
    /// Its run.
    pub running: Running,
    gateway: u16,
    asked: usize,
}

impl Probe {
    /// Starts it, and waits until it is there.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(agent: Agent<'_>) -> Result<Self> {
        let agent = agent.prepare(|command| {
            command.stdin(Stdio::piped());
        });
        let mut running = agent.spawn([PYTHON, "-c", PROGRAM])?;
        let said = running.wait_for_output("\n")?;
        let gateway = said.trim().strip_prefix("gateway ");
        Ok(Self {
            gateway: gateway.context("the probe's first line")?.parse()?,
            running,
            asked: 0,
        })
    }

    /// The gateway's port.
    #[must_use]
    pub const fn gateway(&self) -> u16 {
        self.gateway
    }

    /// Lets it try; answers with `answered`, `closed`, `sent`,
    /// `associated`, or the name of the errno.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&mut self, kind: Kind, to: SocketAddr) -> Result<String> {
        self.tell(kind, to)?;
        self.answer()
    }

    /// Lets it try, and does not wait for how that ends.
    ///
    /// # Errors
    /// If it has ended.
    pub fn tell(&mut self, kind: Kind, to: SocketAddr) -> Result<()> {
        let kind = match kind {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Associate => "associate",
            Kind::Defer => "defer",
            Kind::Send => "send",
        };
        let host: IpAddr = to.ip();
        let stdin = self.running.stdin().context("it has ended")?;
        writeln!(stdin, "{kind} {host} {}", to.port())?;
        Ok(())
    }

    /// How the attempt ended that it was told last.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn answer(&mut self) -> Result<String> {
        let lead = format!("{}: ", self.asked);
        self.asked += 1;
        let said = self.running.wait_for_output(&format!("\n{lead}"))?;
        // The line may not be there in full yet.
        let said = if said.ends_with(";\n") {
            said
        } else {
            self.running.wait_for_output(";\n")?
        };
        let answer = said.lines().find_map(|line| line.strip_prefix(&lead));
        Ok(answer
            .context("an answer")?
            .trim_end_matches(';')
            .to_owned())
    }
}
