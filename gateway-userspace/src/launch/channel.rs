//! The line between `run` and the init it started: short messages that keep their bounds, and
//! one descriptor, of the agent's terminal.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};

/// What the inside says.
#[derive(Debug)]
pub enum Report {
    /// The init's process id out here.
    Made(i32),
    /// It has shut itself in, and waits; with the master of the agent's terminal if it has one.
    Ready(Box<Shut>, Option<OwnedFd>),
    /// The command was stopped, by this signal.
    Stopped(i32),
    /// The other side is gone.
    Gone,
}

/// What the init says of itself: what can't be read from outside.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Shut {
    /// Whether it was made inside the cgroup rather than moved there.
    pub born_inside: bool,
    /// Landlock version in force; 0 without Landlock.
    pub landlock: u8,
    /// What could not be taken out of sight.
    pub in_sight: Vec<String>,
    /// System call filters that it put on and does not have.
    pub missing_filters: u64,
    /// Those of standard input, output and error that are unix sockets.
    pub unix: Vec<String>,
}

/// What the outside tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    /// Start the command.
    Go,
    /// Put the command into the foreground of its terminal.
    Front,
    /// Send this signal to the command's process.
    Signal(u8),
    /// Send it to the command's process group.
    Group(u8),
}

/// One end.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Bytes of the longest message.
const LONGEST: usize = 16 << 10;

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// If the kernel has no socket.
    pub fn pair() -> rustix::io::Result<(Self, Self)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// An end that was handed over.
    #[must_use]
    pub const fn from_descriptor(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// The descriptor, to wait on.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Says something to the outside.
    ///
    /// # Errors
    /// If the other side is gone.
    pub fn report(&self, report: &Report) -> rustix::io::Result<()> {
        match report {
            Report::Made(pid) => self.send(b'p', &pid.to_ne_bytes(), None),
            Report::Ready(shut, terminal) => {
                let text = serde_json::to_vec(shut).map_err(|_| Errno::INVAL)?;
                self.send(b'r', &text, terminal.as_ref())
            }
            Report::Stopped(signal) => self.send(b't', &signal.to_ne_bytes(), None),
            Report::Gone => Ok(()),
        }
    }

    /// Tells the inside something.
    ///
    /// # Errors
    /// If the other side is gone.
    pub fn tell(&self, tell: Tell) -> rustix::io::Result<()> {
        match tell {
            Tell::Go => self.send(b'g', &[], None),
            Tell::Front => self.send(b'f', &[], None),
            Tell::Signal(signal) => self.send(b's', &[signal], None),
            Tell::Group(signal) => self.send(b'k', &[signal], None),
        }
    }

    /// Waits for the next report. One that cannot be read is an error.
    ///
    /// # Errors
    /// What the kernel says; `EBADMSG` for what is none.
    pub fn next_report(&self) -> rustix::io::Result<Report> {
        let (text, descriptor) = self.receive()?;
        let number = |rest: &[u8]| {
            let bytes = rest.try_into().map_err(|_| Errno::BADMSG)?;
            Ok::<_, Errno>(i32::from_ne_bytes(bytes))
        };
        match text.split_first() {
            None => Ok(Report::Gone),
            Some((b'p', rest)) => Ok(Report::Made(number(rest)?)),
            Some((b't', rest)) => Ok(Report::Stopped(number(rest)?)),
            Some((b'r', rest)) => serde_json::from_slice(rest)
                .map(|shut| Report::Ready(shut, descriptor))
                .map_err(|_| Errno::BADMSG),
            Some(_) => Err(Errno::BADMSG),
        }
    }

    /// Waits for what the outside tells; none once it is gone.
    ///
    /// # Errors
    /// What the kernel says; `EBADMSG` for what is none.
    pub fn next_tell(&self) -> rustix::io::Result<Option<Tell>> {
        let (text, _) = self.receive()?;
        match *text.as_slice() {
            [] => Ok(None),
            [b'g'] => Ok(Some(Tell::Go)),
            [b'f'] => Ok(Some(Tell::Front)),
            [b's', signal] => Ok(Some(Tell::Signal(signal))),
            [b'k', signal] => Ok(Some(Tell::Group(signal))),
            _ => Err(Errno::BADMSG),
        }
    }

    fn send(&self, kind: u8, rest: &[u8], descriptor: Option<&OwnedFd>) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<_> = descriptor.iter().map(|one| one.as_fd()).collect();
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&[kind]), IoSlice::new(rest)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .map(drop)
    }

    fn receive(&self) -> rustix::io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut text = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut text)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok((Vec::new(), None)),
                result => break result?,
            }
        };
        text.truncate(received.bytes);
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        Ok((text, descriptor))
    }
}
