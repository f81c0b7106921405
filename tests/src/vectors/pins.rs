//! Takes one program away from a running boundary, as a mutation.

use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::Context as _;
use gateway_common::ABI_VERSION;
use nix::errno::Errno;

use super::session::cgroup_of;

/// `BPF_OBJ_GET`.
const OBJECT_GET: libc::c_long = 7;
/// `BPF_LINK_DETACH` (kernel ≥ 5.9).
const LINK_DETACH: libc::c_long = 34;

/// The part of `union bpf_attr` that both commands read.
#[repr(C)]
struct Attributes {
    first: u64,
    descriptor: u32,
    flags: u32,
}

/// Detaches this program from the boundary around the process.
///
/// # Errors
/// If it has no such link, or the kernel refuses.
pub fn detach(agent: u32, program: &str) -> anyhow::Result<()> {
    let cgroup = cgroup_of(agent)?;
    let run = Path::new(&cgroup).parent().and_then(Path::file_name);
    let run = run.and_then(std::ffi::OsStr::to_str);
    detach_from(
        run.with_context(|| format!("{cgroup} is no agent's"))?,
        program,
    )
}

/// Detaches this program from the boundary of the run.
///
/// # Errors
/// If it has no such link, or the kernel refuses.
pub fn detach_from(run: &str, program: &str) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/bpf/sluice").join(format!("v{ABI_VERSION}"));
    let path = root.join(run).join("links").join(program);
    let link = open(&path).with_context(|| format!("opening {}", path.display()))?;
    let number = u64::try_from(link.as_raw_fd())?;
    bpf(LINK_DETACH, u64::from_ne_bytes(low_half(number))).context("detaching")?;
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let number = bpf(OBJECT_GET, path.as_ptr() as u64)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(number)?) })
}

/// A 32-bit field at the beginning of eight bytes.
fn low_half(number: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(number as u32).to_ne_bytes());
    bytes
}

fn bpf(command: libc::c_long, first: u64) -> Result<libc::c_long, Errno> {
    let attributes = Attributes {
        first,
        descriptor: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads as many bytes as it is told; what `first` may point to outlives
    // the call in both callers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    Errno::result(answer)
}
