//! Sockets that an agent had before it was confined: closed by `SOCK_DESTROY`, or counted.
//!
//! A socket belongs for life to the cgroup it was made in. One that was made elsewhere and
//! brought along meets no program on the agent's cgroup, so it must be closed; one that was made
//! in the agent's cgroup would only fall silent, and is closed, too, so that its owner knows.
//!
//! Closing cuts a connection and leaves its owner the descriptor, which can be connected again. One
//! that was made in the agent's cgroup then meets the boundary; one that was brought along goes
//! past it, and is counted for that.
//!
//! Takes `CONFIG_INET_DIAG_DESTROY`; without it every socket is reported as open.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike as _},
};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use crate::netns::{self, NetworkNamespace};

/// What became of the sockets that there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Closed {
    /// TCP and UDP sockets that were closed.
    pub closed: usize,
    /// TCP and UDP sockets that the kernel would not close.
    pub left: usize,
    /// TCP and UDP sockets that were made outside the agent's cgroup, closed or not.
    pub brought: usize,
    /// Unix sockets, which nothing can close.
    pub unix: usize,
    /// Sockets of other kinds (raw, packet, netlink), which nothing can close.
    pub other: usize,
}

/// Closes the TCP and UDP sockets of all processes in a cgroup, and counts the others. With
/// `held_before`, those that were made in it go on: a boundary was around it all the while, and
/// there is one now, which looks at each of their packets.
///
/// # Errors
/// If the cgroup or its namespaces cannot be read, or the kernel has no socket diagnostics.
pub fn close(cgroup: &Path, held_before: bool) -> io::Result<Closed> {
    let held = held(cgroup)?;
    let mut result = Closed::default();
    let mut inet = HashSet::new();
    let own = ids(cgroup)?;
    let mut namespaces = netns::of_cgroup(cgroup)?;
    namespaces.push(NetworkNamespace::own()?);
    for namespace in namespaces {
        namespace.run(|| -> io::Result<()> {
            let diagnostics = Diagnostics::open()?;
            for (family, protocol) in KINDS {
                for (found, cgroup_id) in diagnostics.list(family, protocol)? {
                    if !held.contains(&u64::from(found.inode)) {
                        continue;
                    }
                    inet.insert(u64::from(found.inode));
                    // One of which the kernel does not tell may be from anywhere.
                    let made_inside = cgroup_id.is_some_and(|id| own.contains(&id));
                    result.brought += usize::from(!made_inside);
                    if made_inside && held_before {
                        continue;
                    }
                    match diagnostics.destroy(family, protocol, &found) {
                        Ok(()) => result.closed += 1,
                        // It was gone by itself.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => {
                            tracing::debug!(%error, "a socket cannot be closed");
                            result.left += 1;
                        }
                    }
                }
            }
            Ok(())
        })??;
    }
    let unix = unix_inodes(cgroup)?;
    result.unix = held.iter().filter(|inode| unix.contains(inode)).count();
    let known = |inode: &&u64| inet.contains(*inode) || unix.contains(*inode);
    result.other = held.len() - held.iter().filter(known).count();
    Ok(result)
}

/// The kinds of sockets that can be closed: family and protocol.
const KINDS: [(u8, u8); 6] = [
    (AF_INET, TCP),
    (AF_INET6, TCP),
    (AF_INET, UDP),
    (AF_INET6, UDP),
    (AF_INET, UDPLITE),
    (AF_INET6, UDPLITE),
];
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDPLITE: u8 = 136;

/// Inodes of the sockets that processes in a cgroup hold. A process that ends meanwhile holds
/// none.
fn held(cgroup: &Path) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for pid in netns::processes(cgroup)? {
        let folder = Path::new("/proc").join(pid.to_string()).join("fd");
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(entry.path()) else {
                continue;
            };
            inodes.extend(link.to_str().and_then(socket_inode));
        }
    }
    Ok(inodes)
}

/// Ids of a cgroup and of those below it.
fn ids(cgroup: &Path) -> io::Result<HashSet<u64>> {
    let mut found = HashSet::from([fs::metadata(cgroup)?.ino()]);
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that is removed meanwhile has no sockets that anybody holds.
            found.extend(ids(&entry.path()).unwrap_or_default());
        }
    }
    Ok(found)
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Inodes of the unix sockets in the network namespaces of a cgroup's processes.
fn unix_inodes(cgroup: &Path) -> io::Result<HashSet<u64>> {
    let mut inodes = HashSet::new();
    for pid in netns::processes(cgroup)? {
        let path = Path::new("/proc").join(pid.to_string()).join("net/unix");
        let Ok(table) = fs::read_to_string(path) else {
            continue;
        };
        let inode = |line: &str| line.split_whitespace().nth(6)?.parse::<u64>().ok();
        inodes.extend(table.lines().filter_map(inode));
    }
    Ok(inodes)
}

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

/// `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct SocketId {
    ports: [u16; 2],
    addresses: [u32; 8],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2` behind its header.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Request {
    header: Header,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_msg`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Found {
    family: u8,
    state: u8,
    timer: u8,
    retransmissions: u8,
    id: SocketId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const INET_DIAG_CGROUP_ID: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes that one answer of the kernel may have.
const ANSWER_MAX: usize = 64 << 10;
/// How long the kernel may take; it answers at once.
const PATIENCE_SECONDS: i64 = 5;

/// The kernel's socket diagnostics in this thread's network namespace.
struct Diagnostics(OwnedFd);

impl Diagnostics {
    fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Self(socket))
    }

    /// All sockets of a kind, with the cgroup that each was made in.
    fn list(&self, family: u8, protocol: u8) -> io::Result<Vec<(Found, Option<u64>)>> {
        let mut request = request(SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, family, protocol);
        request.states = u32::MAX;
        self.send(&request)?;
        let mut found = Vec::new();
        loop {
            let answer = self.receive()?;
            for message in messages(&answer) {
                let (header, payload) = message?;
                match header.kind {
                    NLMSG_DONE => return Ok(found),
                    // A kernel without this protocol has no such sockets.
                    NLMSG_ERROR => match error_of(payload) {
                        Some(error) if error.kind() == io::ErrorKind::NotFound => {
                            return Ok(found);
                        }
                        Some(error) => return Err(error),
                        None => {}
                    },
                    _ => found.extend(
                        Found::read_from_prefix(payload)
                            .map(|(found, attributes)| (found, cgroup_of(attributes))),
                    ),
                }
            }
        }
    }

    /// Closes one, with an error for its owner.
    fn destroy(&self, family: u8, protocol: u8, found: &Found) -> io::Result<()> {
        let mut request = request(SOCK_DESTROY, REQUEST | ACKNOWLEDGE, family, protocol);
        request.states = u32::MAX;
        request.id = found.id;
        self.send(&request)?;
        let answer = self.receive()?;
        for message in messages(&answer) {
            let (header, payload) = message?;
            if header.kind == NLMSG_ERROR {
                return error_of(payload).map_or(Ok(()), Err);
            }
        }
        Err(io::Error::from(io::ErrorKind::InvalidData))
    }

    fn send(&self, request: &Request) -> io::Result<()> {
        send(self.0.as_raw_fd(), request.as_bytes(), MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; ANSWER_MAX];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
    }
}

fn request(kind: u16, flags: u16, family: u8, protocol: u8) -> Request {
    let mut request = Request::new_zeroed();
    request.header.length = size_of::<Request>() as u32;
    request.header.kind = kind;
    request.header.flags = flags;
    request.family = family;
    request.protocol = protocol;
    request
}

/// The messages of an answer, each with what follows its header.
fn messages(answer: &[u8]) -> impl Iterator<Item = io::Result<(Header, &[u8])>> {
    let mut rest = answer;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let Ok((header, _)) = Header::read_from_prefix(rest) else {
            rest = &[];
            return Some(Err(malformed()));
        };
        let length = header.length as usize;
        let Some(payload) = rest.get(size_of::<Header>()..length) else {
            rest = &[];
            return Some(Err(malformed()));
        };
        // Each begins at a multiple of four.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok((header, payload)))
    })
}

/// The attribute with a socket's cgroup (kernel ≥ 5.8); none if there is none.
fn cgroup_of(mut attributes: &[u8]) -> Option<u64> {
    loop {
        // `struct nlattr`.
        let ([length, kind], _) = <[u16; 2]>::read_from_prefix(attributes).ok()?;
        let value = attributes.get(4..usize::from(length))?;
        if kind == INET_DIAG_CGROUP_ID {
            return u64::read_from_bytes(value).ok();
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..)?;
    }
}

/// The error of an `NLMSG_ERROR`; none if it is an acknowledgement.
fn error_of(payload: &[u8]) -> Option<io::Error> {
    match i32::read_from_prefix(payload) {
        Ok((0, _)) => None,
        Ok((code, _)) => Some(io::Error::from_raw_os_error(code.wrapping_neg())),
        Err(_) => Some(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<Request>(), 16 + 56);
        assert_eq!(size_of::<Found>(), 72);
    }

    #[test]
    fn links_of_sockets_are_known() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        assert_eq!(socket_inode("pipe:[123]"), None);
        assert_eq!(socket_inode("/tmp/socket:[123]"), None);
    }

    #[test]
    fn the_cgroup_is_found_among_attributes_and_in_no_broken_ones() {
        let mut bytes = vec![5, 0, 8, 0, 1, 0, 0, 0, 12, 0, 21, 0];
        bytes.extend(7_u64.to_ne_bytes());
        assert_eq!(cgroup_of(&bytes), Some(7));
        assert_eq!(cgroup_of(&bytes[..19]), None);
        assert_eq!(cgroup_of(&bytes[..8]), None);
        assert_eq!(cgroup_of(&[0; 8]), None);
        assert_eq!(cgroup_of(&[]), None);
    }

    #[test]
    fn a_message_that_is_cut_off_is_an_error() {
        let mut bytes = request(SOCK_DESTROY, 0, AF_INET, TCP).as_bytes().to_vec();
        assert!(messages(&bytes).all(|message| message.is_ok()));
        bytes.truncate(60);
        assert!(messages(&bytes).any(|message| message.is_err()));
        assert!(messages(&bytes[..7]).any(|message| message.is_err()));
    }
}
