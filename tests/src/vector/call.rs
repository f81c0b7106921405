//! System calls that `nix` and `socket2` do not have, or hide too well.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{SockAddr, Socket};

use super::patience;

/// A socket of any kind, close-on-exec.
///
/// # Errors
/// What `socket(2)` says.
pub fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<Socket> {
    Socket::new_raw(
        family.into(),
        (kind | libc::SOCK_CLOEXEC).into(),
        Some(protocol.into()),
    )
}

/// Sets a socket option to bytes.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn set_option(socket: &Socket, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: pointer and length are one slice's, which outlives the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// Sets a socket option to a number.
///
/// # Errors
/// What `setsockopt(2)` says.
pub fn set_number(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option(socket, level, name, &value.to_ne_bytes())
}

/// `sendmsg(2)` with one control message, where one is given: level, type and bytes.
///
/// # Errors
/// What `sendmsg(2)` says.
pub fn send_message(
    socket: &Socket,
    to: SocketAddr,
    bytes: &[u8],
    control: Option<(i32, i32, &[u8])>,
) -> io::Result<()> {
    let address = SockAddr::from(to);
    let buffer = control.map_or_else(Vec::new, |(level, kind, value)| {
        control_message(level, kind, value)
    });
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a message header of zeroes is a valid, empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !buffer.is_empty() {
        message.msg_control = buffer.as_ptr().cast_mut().cast();
        message.msg_controllen = buffer.len();
    }
    // SAFETY: all that the header points to lives until the call is over; it is only read.
    let answer =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// A control message as `CMSG_DATA` and its kin lay it out.
fn control_message(level: i32, kind: i32, value: &[u8]) -> Vec<u8> {
    let header = size_of::<libc::cmsghdr>();
    let mut buffer = (header + value.len()).to_ne_bytes().to_vec();
    buffer.extend(level.to_ne_bytes());
    buffer.extend(kind.to_ne_bytes());
    buffer.resize(header, 0);
    buffer.extend(value);
    buffer.resize(buffer.len().next_multiple_of(size_of::<usize>()), 0);
    buffer
}

/// `sendmmsg(2)` of one datagram.
///
/// # Errors
/// What `sendmmsg(2)` says.
pub fn send_many(socket: &Socket, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let address = SockAddr::from(to);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a message header of zeroes is a valid, empty one.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_hdr.msg_namelen = address.len();
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    // SAFETY: one header is given and one announced; all that it points to outlives the call.
    let answer = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, 0) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `connect(2)` with the address family `AF_UNSPEC`: dissolves what was connected.
///
/// # Errors
/// What `connect(2)` says.
pub fn dissolve(socket: &Socket) -> io::Result<()> {
    // SAFETY: a socket address of zeroes is one of the family AF_UNSPEC, which is 0.
    let address: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: pointer and length are one variable's, which outlives the call.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), &raw const address, length) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `sendto(2)` an IPv4 address whose family says `AF_UNSPEC`, which UDP takes for IPv4.
///
/// # Errors
/// What `sendto(2)` says.
pub fn send_to_unspec(socket: &Socket, to: std::net::SocketAddrV4, bytes: &[u8]) -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_UNSPEC as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(to.ip().octets()),
        },
        sin_zero: [0; 8],
    };
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: both pointers come with the sizes of what they point to, which outlives the call.
    let answer = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            length,
        )
    };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `send(2)` on whatever descriptor has this number.
///
/// # Errors
/// What `send(2)` says.
pub fn send_on(number: RawFd, bytes: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length are one slice's; a number that is no descriptor is an error.
    let answer = unsafe { libc::send(number, bytes.as_ptr().cast(), bytes.len(), flags) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// Waits until the socket is ready, at most [`patience`].
///
/// # Errors
/// `ETIMEDOUT` if it is not ready by then.
pub fn ready(socket: &Socket, events: PollFlags) -> io::Result<()> {
    use std::os::fd::AsFd as _;
    let deadline = Instant::now() + patience();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).map_err(io::Error::other)?;
        let mut sockets = [PollFd::new(socket.as_fd(), events)];
        match poll(&mut sockets, timeout) {
            Ok(0) => return Err(Errno::ETIMEDOUT.into()),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
