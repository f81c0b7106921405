//! The one place for what the compiler cannot check: that shared layouts are plain data, that a
//! ring keeps its descriptor, and system calls that no crate makes.
#![expect(unsafe_code, reason = "see each SAFETY")]

use std::{
    ffi::{CString, c_int},
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use nix::libc;
use tokio::io::unix::AsyncFd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value as the kernel half has it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Wire<T>(pub(super) T);

// SAFETY: `IntoBytes` and `FromBytes`, both checked at compile time, say that T has no padding
// and that every bit pattern is a T; `Wire` is transparent over it.
unsafe impl<T: Copy + FromBytes + IntoBytes + Immutable + 'static> aya::Pod for Wire<T> {}

/// A ring of the kernel half, to be waited on.
///
/// # Errors
/// If the descriptor cannot be registered with the runtime.
pub(super) fn pollable<R: Ring>(ring: R) -> io::Result<AsyncFd<R>> {
    // SAFETY: a `Ring` answers with the same descriptor, which it owns, for as long as it lives.
    let registered = unsafe { AsyncFd::register(ring) };
    registered.map_err(io::Error::from)
}

/// What owns one descriptor for life.
pub(super) trait Ring: AsRawFd {}

impl Ring for RingBuf<MapData> {}

impl Ring for EbpfLogger<&'static dyn log::Log> {}

/// The cookie of the network namespace that a socket was made in (`SO_NETNS_COOKIE`).
///
/// Minimum kernel 5.14.
///
/// # Errors
/// What `getsockopt(2)` says.
pub fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `cookie`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Attaches a program to a cgroup by a link (`BPF_LINK_CREATE`, kernel ≥ 5.7).
pub(super) fn link_to_cgroup(
    program: impl AsFd,
    cgroup: impl AsFd,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    const LINK_CREATE: c_int = 28;
    /// `struct { … } link_create` in `union bpf_attr`.
    #[repr(C)]
    struct Arguments {
        program: RawFd,
        target: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let arguments = Arguments {
        program: program.as_fd().as_raw_fd(),
        target: cgroup.as_fd().as_raw_fd(),
        attach_type,
        flags: 0,
    };
    let link = bpf(LINK_CREATE, &arguments)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Exchanges the program behind a link (`BPF_LINK_UPDATE`, kernel ≥ 5.7). It happens at once: no
/// call meets neither, and none meets both.
pub(super) fn exchange_program(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    const LINK_UPDATE: c_int = 29;
    /// `struct { … } link_update` in `union bpf_attr`.
    #[repr(C)]
    struct Arguments {
        link: RawFd,
        program: RawFd,
        flags: u32,
        old_program: RawFd,
    }
    let arguments = Arguments {
        link: link.as_fd().as_raw_fd(),
        program: program.as_fd().as_raw_fd(),
        flags: 0,
        old_program: 0,
    };
    bpf(LINK_UPDATE, &arguments).map(drop)
}

/// What a link to a cgroup ties together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The id of the cgroup; 0 if it is gone.
    pub(super) cgroup: u64,
    /// The id of the program.
    pub(super) program: u32,
}

/// What this link ties together (`BPF_OBJ_GET_INFO_BY_FD`).
///
/// # Errors
/// If it is no link to a cgroup.
pub(super) fn ends_of_link(link: impl AsFd) -> io::Result<Ends> {
    const OBJ_GET_INFO_BY_FD: c_int = 15;
    const LINK_TYPE_CGROUP: u32 = 3;
    /// `struct bpf_link_info` as of a link to a cgroup.
    #[repr(C)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        zero: u32,
        cgroup: u64,
        attach_type: u32,
        padding: u32,
    }
    /// `struct { … } info` in `union bpf_attr`.
    #[repr(C)]
    struct Arguments {
        object: RawFd,
        length: u32,
        info: u64,
    }
    let mut info = Info {
        kind: 0,
        id: 0,
        program: 0,
        zero: 0,
        cgroup: 0,
        attach_type: 0,
        padding: 0,
    };
    let arguments = Arguments {
        object: link.as_fd().as_raw_fd(),
        length: size_of::<Info>() as u32,
        info: (&raw mut info).addr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &arguments)?;
    // The kernel wrote through the address.
    // SAFETY: `info` is alive and plain numbers.
    let info = unsafe { std::ptr::read_volatile(&raw const info) };
    if info.kind != LINK_TYPE_CGROUP {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    Ok(Ends {
        cgroup: info.cgroup,
        program: info.program,
    })
}

/// The id of a program on this hook of a cgroup that suffers no other beside it
/// (`BPF_PROG_QUERY`).
pub(super) fn attached_alone(cgroup: impl AsFd, attach_type: u32) -> io::Result<Option<u32>> {
    const PROG_QUERY: c_int = 16;
    const ALLOW_MULTI: u32 = 2;
    const QUERY_EFFECTIVE: u32 = 1;
    /// `struct { … } query` in `union bpf_attr`.
    #[repr(C)]
    struct Arguments {
        target: RawFd,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        zero: u32,
    }
    let query = |query_flags| -> io::Result<(u32, Option<u32>)> {
        let mut programs = [0_u32; 64];
        let mut arguments = Arguments {
            target: cgroup.as_fd().as_raw_fd(),
            attach_type,
            query_flags,
            attach_flags: 0,
            programs: programs.as_mut_ptr().addr() as u64,
            count: programs.len() as u32,
            zero: 0,
        };
        let address = &raw mut arguments;
        // SAFETY: the kernel writes within `arguments` and `programs`, which are alive and plain
        // numbers.
        let (flags, count, first) = unsafe {
            bpf(PROG_QUERY, &*address)?;
            (
                std::ptr::read_volatile(&raw const (*address).attach_flags),
                std::ptr::read_volatile(&raw const (*address).count),
                std::ptr::read_volatile(&raw const programs[0]),
            )
        };
        Ok((flags, (count > 0).then_some(first)))
    };
    let (flags, own) = query(0)?;
    if own.is_some() {
        return Ok(own.filter(|_| flags & ALLOW_MULTI == 0));
    }
    // Then it is an ancestor's.
    query(QUERY_EFFECTIVE).map(|(_, inherited)| inherited)
}

/// Opens what is pinned on a BPF file system (`BPF_OBJ_GET`).
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    const OBJ_GET: c_int = 7;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let arguments = Pinned {
        path: path.as_ptr().addr() as u64,
        object: 0,
        flags: 0,
    };
    let object = bpf(OBJ_GET, &arguments)?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// The anonymous struct for `BPF_OBJ_*` in `union bpf_attr`.
#[repr(C)]
struct Pinned {
    path: u64,
    object: RawFd,
    flags: u32,
}

/// Gives a program on socket addresses to the kernel (`BPF_PROG_LOAD`), as of an attach type that
/// aya does not know. `I` is an instruction, of eight bytes.
///
/// # Errors
/// What the kernel says; where it refuses the code, the end of its verdict too.
pub(super) fn load_sock_addr<I>(name: &str, code: &[I], attach_type: u32) -> io::Result<OwnedFd> {
    const { assert!(size_of::<I>() == 8, "an instruction has eight bytes") };
    const PROG_LOAD: c_int = 5;
    const CGROUP_SOCK_ADDR: u32 = 18;
    /// `struct { … } prog_load`, up to `expected_attach_type`.
    #[repr(C)]
    struct Arguments {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(name.bytes()).take(15) {
        *to = from;
    }
    let mut arguments = Arguments {
        kind: CGROUP_SOCK_ADDR,
        count: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr().addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: short,
        interface: 0,
        attach_type,
    };
    let program = bpf(PROG_LOAD, &arguments).or_else(|error| {
        // Once more, for what it has to say.
        let mut log = vec![0_u8; 1 << 24];
        arguments.log_level = 1;
        arguments.log_size = log.len() as u32;
        arguments.log = log.as_mut_ptr().addr() as u64;
        bpf(PROG_LOAD, &arguments).map_err(|_| {
            let said = log.split(|byte| *byte == 0).next().unwrap_or(&[]);
            let said = String::from_utf8_lossy(said);
            if said.is_empty() {
                return error;
            }
            let lines: Vec<_> = said.lines().rev().take(4).collect();
            let verdict: Vec<_> = lines.into_iter().rev().collect();
            io::Error::new(error.kind(), format!("{error}: {}", verdict.join(" | ")))
        })
    })?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// Whether a security module refuses this process `bpf(2)` as such: of a command that there is
/// not, the kernel says `EINVAL`, unless it was stopped before it looked.
pub fn bpf_is_refused() -> bool {
    // In the bits above, newer kernels (7.3 does) see flags, and look at more arguments before they
    // ask anybody.
    const NO_COMMAND: c_int = 0xffff;
    let refused = bpf(NO_COMMAND, &0_u64).err();
    refused.and_then(|error| error.raw_os_error()) == Some(libc::EPERM)
}

/// Gives the kernel a program that does nothing, and takes it back, to see whether it may.
pub(crate) fn load_nothing() -> io::Result<()> {
    const CGROUP_INET4_CONNECT: u32 = 10;
    // `r0 = 1; exit`.
    let code = [
        u64::from_ne_bytes([0xb7, 0, 0, 0, 1, 0, 0, 0]),
        u64::from_ne_bytes([0x95, 0, 0, 0, 0, 0, 0, 0]),
    ];
    load_sock_addr("nothing", &code, CGROUP_INET4_CONNECT).map(drop)
}

/// Pins a link on a BPF file system (`BPF_OBJ_PIN`).
pub(super) fn pin(link: &impl AsFd, path: &Path) -> io::Result<()> {
    const OBJ_PIN: c_int = 6;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let arguments = Pinned {
        path: path.as_ptr().addr() as u64,
        object: link.as_fd().as_raw_fd(),
        flags: 0,
    };
    bpf(OBJ_PIN, &arguments).map(drop)
}

/// The `bpf(2)` system call with the part of `union bpf_attr` that a command reads; the kernel
/// takes what is missing for zero.
fn bpf<A>(command: c_int, arguments: &A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told, which is the size of A, and what the
    // pointers in it lead to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(arguments),
            size_of::<A>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(descriptor) if descriptor >= 0 => Ok(descriptor),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
