//! A process outside every boundary, with a way to the origin and nothing to say of its own.
//!
//! `outsider V4 PORT` says on one line of JSON where its memory and its descriptors are. Told to by
//! a line on standard input, it sends to the origin what others have written into its memory and
//! into its pipe.

use std::{
    fs::OpenOptions,
    io::{self, BufRead as _, Write as _},
    net::{Ipv4Addr, UdpSocket},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
};

use anyhow::Context as _;
use nix::fcntl::OFlag;
use sluice_tests::vector::{
    call,
    stage::{Outsider, SLOT, SLOTS},
};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let v4: Ipv4Addr = arguments.next().context("no V4")?.parse()?;
    let port: u16 = arguments.next().context("no PORT")?.parse()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((v4, port))?;
    // Held on to, so that the pipe never ends.
    let (pipe, _writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
    let memory: &'static [u8] = vec![0; SLOT * SLOTS].leak();
    let at = memory.as_ptr() as u64;
    // As on a kernel without the Yama module, or with it switched off.
    call::let_anybody_trace();

    let known = Outsider {
        pid: i32::try_from(std::process::id())?,
        memory: at,
        socket: socket.as_raw_fd(),
        pipe: pipe.as_raw_fd(),
    };
    println!("{}", serde_json::to_string(&known)?);
    // As a file, since the compiler knows of nobody who writes there.
    let own = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    for line in io::stdin().lock().lines() {
        line?;
        let mut buffer = [0; 2048];
        while let Ok(length @ 1..) = nix::unistd::read(&pipe, &mut buffer) {
            socket.send(&buffer[..length])?;
        }
        for number in 0..SLOTS {
            let mut slot = [0; SLOT];
            own.read_exact_at(&mut slot, at + (number * SLOT) as u64)?;
            let text: Vec<u8> = slot.into_iter().take_while(|byte| *byte != 0).collect();
            if !text.is_empty() {
                socket.send(&text)?;
                own.write_all_at(&[0; SLOT], at + (number * SLOT) as u64)?;
            }
        }
        println!("spoken");
        io::stdout().flush()?;
    }
    Ok(())
}
