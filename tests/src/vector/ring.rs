//! `io_uring`: the kernel makes the calls, in the second kind on a thread of its own.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use io_uring::{IoUring, opcode, squeue, types};
use socket2::SockAddr;

use super::{Failed, Outcome, Target, failed};

/// Entries of a ring.
const ENTRIES: u32 = 8;
/// How long the kernel's thread looks for work before it sleeps, milliseconds.
const IDLE: u32 = 50;

pub(super) fn tcp(target: &Target) -> Outcome {
    let ring = IoUring::new(ENTRIES).map_err(failed("io_uring_setup"))?;
    exchange(ring, libc::SOCK_STREAM, target.v4(), &target.marker)
}

pub(super) fn tcp_polled(target: &Target) -> Outcome {
    exchange(polled()?, libc::SOCK_STREAM, target.v4(), &target.marker)
}

pub(super) fn udp(target: &Target) -> Outcome {
    let ring = IoUring::new(ENTRIES).map_err(failed("io_uring_setup"))?;
    send(ring, target.v4(), &target.marker)
}

pub(super) fn udp_polled(target: &Target) -> Outcome {
    send(polled()?, target.v4(), &target.marker)
}

fn polled() -> Result<IoUring, Failed> {
    IoUring::builder()
        .setup_sqpoll(IDLE)
        .build(ENTRIES)
        .map_err(failed("io_uring_setup"))
}

fn exchange(mut ring: IoUring, kind: i32, to: SocketAddr, bytes: &[u8]) -> Outcome {
    let socket = socket(&mut ring, kind)?;
    let fd = types::Fd(socket.as_raw_fd());
    let address = SockAddr::from(to);
    let connect = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
    submit(&mut ring, &connect).map_err(failed("connect"))?;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let send = opcode::Send::new(fd, bytes.as_ptr(), length).build();
    let end = opcode::Shutdown::new(fd, libc::SHUT_WR).build();
    let mut answer = [0; 512];
    let read = opcode::Recv::new(fd, answer.as_mut_ptr(), 512).build();
    for (call, work) in [("send", send), ("shutdown", end), ("recv", read)] {
        match submit(&mut ring, &work) {
            // Whoever resets was reached.
            Err(error) if error.raw_os_error().is_some_and(|it| OVER.contains(&it)) => break,
            result => result.map_err(failed(call))?,
        };
    }
    Ok(None)
}

/// How a connection looks that the other side has ended.
const OVER: &[i32] = &[libc::ECONNRESET, libc::EPIPE, libc::ENOTCONN];

/// An unconnected datagram.
fn send(mut ring: IoUring, to: SocketAddr, bytes: &[u8]) -> Outcome {
    let socket = socket(&mut ring, libc::SOCK_DGRAM)?;
    let address = SockAddr::from(to);
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
    let send = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const message).build();
    submit(&mut ring, &send).map_err(failed("sendmsg"))?;
    Ok(None)
}

/// Made by the ring as well (kernel 5.19 and newer).
fn socket(ring: &mut IoUring, kind: i32) -> Result<OwnedFd, Failed> {
    let make = opcode::Socket::new(libc::AF_INET, kind, 0).build();
    let number = submit(ring, &make).map_err(failed("socket"))?;
    // SAFETY: the ring has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Hands in one piece of work and waits for its end: no buffer is used after that.
fn submit(ring: &mut IoUring, work: &squeue::Entry) -> io::Result<i32> {
    // SAFETY: each caller's buffers outlive this call, which ends when the kernel is done.
    unsafe { ring.submission().push(work) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next();
    let answer = done.map_or(-libc::EIO, |done| done.result());
    match answer {
        0.. => Ok(answer),
        _ => Err(io::Error::from_raw_os_error(-answer)),
    }
}
