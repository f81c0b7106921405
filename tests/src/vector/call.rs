//! System calls that `nix` and `socket2` do not have, or hide too well.

pub mod gate;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
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

/// `sendto(2)` on a packet socket, to everybody on the link.
///
/// # Errors
/// What `sendto(2)` says.
pub fn send_frame(socket: &Socket, interface: u32, kind: u16, bytes: &[u8]) -> io::Result<()> {
    let address = link_address(interface, kind);
    // SAFETY: both pointers come with the sizes of what they point to, which outlives the call.
    let answer = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            address.as_ptr().cast(),
            address.len() as libc::socklen_t,
        )
    };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `struct sockaddr_ll` for everybody on the link.
#[must_use]
pub fn link_address(interface: u32, kind: u16) -> Vec<u8> {
    let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    address.extend(kind.to_be_bytes());
    address.extend(interface.to_ne_bytes());
    // Hardware and packet type are the kernel's business; six bytes of address follow.
    address.extend([0, 0, 0, 6]);
    address.extend([0xff; 6]);
    address.extend([0; 2]);
    address
}

/// `struct sockaddr_in`.
#[must_use]
pub fn inet_address(address: std::net::Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    bytes.extend(address.octets());
    bytes.extend([0; 8]);
    bytes
}

/// `socket(2)` by its number in the x32 table.
///
/// # Errors
/// What the kernel says; `ENOSYS` where it has no such table.
pub fn x32_socket(family: i32, kind: i32) -> io::Result<Socket> {
    /// `__X32_SYSCALL_BIT`.
    const X32: libc::c_long = 0x4000_0000;
    // SAFETY: the call takes three numbers.
    let answer = unsafe { libc::syscall(X32 | libc::SYS_socket, family, kind, 0) };
    let number = Errno::result(answer)?;
    descriptor(number).map(Socket::from)
}

/// A descriptor that the kernel has just answered with.
fn descriptor(number: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `pidfd_open(2)`.
///
/// # Errors
/// What the kernel says.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    descriptor(Errno::result(answer)?)
}

/// `pidfd_getfd(2)`: another process's descriptor (kernel 5.6 and newer).
///
/// # Errors
/// What the kernel says.
pub fn pidfd_getfd(process: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three numbers.
    let answer = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    descriptor(Errno::result(answer)?)
}

/// `kcmp(2)` of both processes' first descriptor.
///
/// # Errors
/// What the kernel says.
pub fn compare(other: i32) -> io::Result<()> {
    /// `KCMP_FILE`.
    const FILE: libc::c_int = 0;
    let own = nix::unistd::getpid().as_raw();
    // SAFETY: the call takes five numbers.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, own, other, FILE, 0, 0) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `process_vm_writev(2)` of one piece.
///
/// # Errors
/// What the kernel says.
pub fn write_memory(process: i32, at: u64, bytes: &[u8]) -> io::Result<()> {
    use nix::{
        sys::uio::{RemoteIoVec, process_vm_writev},
        unistd::Pid,
    };
    let base = usize::try_from(at).map_err(io::Error::other)?;
    let there = RemoteIoVec {
        base,
        len: bytes.len(),
    };
    let here = io::IoSlice::new(bytes);
    process_vm_writev(Pid::from_raw(process), &[here], &[there])?;
    Ok(())
}

/// `TIOCSTI`: puts one byte into the input of the terminal at standard input.
///
/// # Errors
/// What `ioctl(2)` says.
pub fn type_byte(byte: u8) -> io::Result<()> {
    // SAFETY: the kernel reads one byte, which outlives the call.
    let answer = unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const byte) };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `request_key(2)` with information for a helper, which the kernel starts in the host's
/// namespaces to make the key.
///
/// # Errors
/// What the kernel says; `ENOKEY` once a helper was looked for and has made none.
pub fn request_key(description: &std::ffi::CStr, callout: &std::ffi::CStr) -> io::Result<()> {
    /// `KEY_SPEC_PROCESS_KEYRING`.
    const OWN: libc::c_long = -2;
    // SAFETY: three strings with their ends, which outlive the call, and a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_request_key,
            c"user".as_ptr(),
            description.as_ptr(),
            callout.as_ptr(),
            OWN,
        )
    };
    Errno::result(answer).map(drop).map_err(io::Error::from)
}

/// `fork(2)`: 0 in the child. Only for programs of one thread.
///
/// # Errors
/// What the kernel says.
pub fn fork() -> io::Result<i32> {
    // SAFETY: the programs that call this have one thread, so that no lock is held in the child.
    let answer = unsafe { libc::fork() };
    Errno::result(answer).map_err(io::Error::from)
}

/// `clone3(2)` as a fork straight into another cgroup (kernel 5.7 and newer): 0 in the child.
///
/// # Errors
/// What the kernel says.
pub fn fork_into(cgroup: &OwnedFd) -> io::Result<i32> {
    /// `CLONE_INTO_CGROUP`.
    const INTO_CGROUP: u64 = 1 << 33;
    let mut arguments = [0_u64; 11];
    arguments[0] = INTO_CGROUP;
    // exit_signal and cgroup.
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: `struct clone_args` of its third version, as long as it says; without a stack of
    // its own the child goes on with a copy of this one, as after `fork`.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            arguments.as_mut_ptr(),
            size_of_val(&arguments),
        )
    };
    let pid = Errno::result(answer)?;
    i32::try_from(pid).map_err(io::Error::other)
}

/// `bpf(2)` with the fields that object and link commands read: two numbers of 32 bits, or one
/// of 64, and three more.
///
/// # Errors
/// What the kernel says.
pub fn bpf(command: libc::c_long, words: [u32; 6]) -> io::Result<libc::c_long> {
    let mut attributes = words;
    // SAFETY: the kernel reads, and for some commands writes, as many bytes as it is told.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    Errno::result(answer).map_err(io::Error::from)
}

/// A BPF command that answers with a descriptor.
///
/// # Errors
/// What the kernel says.
pub fn bpf_descriptor(command: libc::c_long, words: [u32; 6]) -> io::Result<OwnedFd> {
    descriptor(bpf(command, words)?)
}

/// The number of the first BPF object of a kind that is higher than this one.
///
/// # Errors
/// What the kernel says.
pub fn bpf_next(command: libc::c_long, after: u32) -> io::Result<u32> {
    let mut attributes = [after, 0, 0, 0];
    // SAFETY: the kernel reads and writes as many bytes as it is told.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    Errno::result(answer)?;
    Ok(attributes[1])
}

/// Lets any process of this uid trace the caller, where the Yama module would say no.
pub fn let_anybody_trace() {
    // SAFETY: the call takes numbers. Without that module it is an error, and not needed.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
}
