//! How long a boundary's programs are behind their links: until another takes the links over.

use std::{io, os::fd::OwnedFd};

use super::{abi, bpffs::Pins};

/// The program that keeps the kernel's ledger.
const PROGRAM: &str = "agent_ops";

/// The time of the program that keeps the kernel's ledger.
#[derive(Debug)]
pub(super) struct Tenure {
    link: OwnedFd,
    program: u32,
}

impl Tenure {
    /// Of the program that is there now.
    pub(super) fn begin(pins: &Pins) -> io::Result<Self> {
        let link = abi::open_pinned(&pins.link(PROGRAM))?;
        let program = abi::ends_of_link(&link)?.program;
        Ok(Self { link, program })
    }

    /// Whether another program was seen in its place.
    pub(super) fn is_over(&self) -> bool {
        abi::ends_of_link(&self.link).is_ok_and(|ends| ends.program != self.program)
    }
}
