//! System calls by `int 0x80`, the 32-bit gate that 64-bit kernels keep.

use std::{arch::asm, io, num::NonZeroUsize};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// `socketcall` in the 32-bit table.
const SOCKETCALL: u32 = 102;
/// `SYS_SOCKET` and `SYS_SENDTO` of `socketcall`.
const SOCKET: u32 = 1;
const SENDTO: u32 = 11;
/// Where things lie in the page that both sides can address.
const ADDRESS: usize = 64;
const BYTES: usize = 256;
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("a page has a size");

/// `socket(2)`.
///
/// # Errors
/// What the kernel says.
pub fn socket(family: i32, kind: i32) -> io::Result<i32> {
    call(SOCKET, &[family as u32, kind as u32, 0], &[], &[])
}

/// `sendto(2)` with an address as the kernel reads it.
///
/// # Errors
/// What the kernel says.
pub fn send_to(socket: i32, address: &[u8], bytes: &[u8]) -> io::Result<i32> {
    // The places of bytes and address are filled in below.
    let words = [
        socket as u32,
        0,
        bytes.len() as u32,
        0,
        0,
        address.len() as u32,
    ];
    call(SENDTO, &words, address, bytes)
}

fn call(what: u32, words: &[u32], address: &[u8], bytes: &[u8]) -> io::Result<i32> {
    assert!(address.len() <= BYTES - ADDRESS && bytes.len() <= PAGE.get() - BYTES);
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing. It is never
    // unmapped: the process makes one attempt.
    let page = unsafe { mmap_anonymous(None, PAGE, protection, flags) }?;
    // SAFETY: the mapping has this length, is writable, zeroed and nobody else's.
    let room = unsafe { std::slice::from_raw_parts_mut(page.cast::<u8>().as_ptr(), PAGE.get()) };
    let base = page.as_ptr() as usize;
    room[ADDRESS..ADDRESS + address.len()].copy_from_slice(address);
    room[BYTES..BYTES + bytes.len()].copy_from_slice(bytes);
    let mut words = words.to_vec();
    if what == SENDTO {
        words[1] = (base + BYTES) as u32;
        words[4] = (base + ADDRESS) as u32;
    }
    for (place, word) in room.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    let answer: i64;
    // SAFETY: the kernel reads arguments, address and bytes from the page, all of which lie
    // below 4 GiB by MAP_32BIT. `rbx` is the compiler's and given back; older kernels clear
    // r8 to r11.
    unsafe {
        asm!(
            "xchg {what:r}, rbx",
            "int 0x80",
            "xchg {what:r}, rbx",
            what = inout(reg) u64::from(what) => _,
            inlateout("rax") i64::from(SOCKETCALL) => answer,
            in("rcx") base,
            in("rdx") 0_u64,
            in("rsi") 0_u64,
            in("rdi") 0_u64,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    // A negative number of the 32-bit call.
    match answer as i32 {
        number @ 0.. => Ok(number),
        error => Err(io::Error::from_raw_os_error(error.wrapping_neg())),
    }
}
