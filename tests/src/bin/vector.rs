//! Tries to get bytes out, one way after another, and says what came of each.
//!
//! `vector V4 V6 TAG STAGE NAME=PORT…` tries the named ways towards the two addresses, each in a
//! process of its own. Each prints one line of JSON: the way, the call that failed, its errno or
//! the signal that ended the process, and an address seen, where one was. `NAME` may also be
//! `wait`: it says so and goes on once a line comes in on standard input.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use anyhow::Context as _;
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{Pid, alarm},
};
use sluice_tests::vector::{self, Attempt, Target, call, stage::Stage};

/// Longest that an attempt may take, seconds: far more than any of its waits, less than the
/// patience of whoever reads. One that waits for its test may take as long as that does.
const LONGEST: u32 = 20;

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("no {what}"));
    let (v4, v6) = (next("V4")?, next("V6")?);
    let (tag, stage) = (next("TAG")?, next("STAGE")?);
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4.parse()?, v6.parse()?) else {
        anyhow::bail!("V4 and V6 are the wrong way round");
    };
    let stage: Stage = serde_json::from_str(&stage).context("STAGE")?;
    for argument in arguments {
        let (name, port) = argument.split_once('=').context("not NAME=PORT")?;
        let target = target((v4, v6), &tag, &stage, name, port.parse()?);
        match call::fork()? {
            0 => return attempt(&target),
            child => watch(name, child)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn target(
    (v4, v6): (Ipv4Addr, Ipv6Addr),
    tag: &str,
    stage: &Stage,
    name: &str,
    port: u16,
) -> Target {
    Target {
        name: name.to_owned(),
        tag: tag.to_owned(),
        stage: stage.clone(),
        v4,
        v6,
        port,
        marker: vector::marker(tag, name),
        gateway: vector::gateway_port(),
    }
}

/// Makes the attempt, in the child.
fn attempt(target: &Target) -> anyhow::Result<ExitCode> {
    let name = &target.name;
    let way = vector::find(name).with_context(|| format!("no vector {name}"))?;
    // Records name the command, and so tell attempts apart.
    nix::sys::prctl::set_name(&vector::command_name(target.port))?;
    if !vector::PATIENT.contains(&name.as_str()) {
        alarm::set(LONGEST);
    }
    Attempt::of(name, way(target)).print()?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for the child's end, and says what it could not say itself.
fn watch(name: &str, child: i32) -> anyhow::Result<()> {
    match waitpid(Pid::from_raw(child), None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Signaled(_, signal, _) => {
            let pid = u32::try_from(child)?;
            Ok(Attempt::ended(name, pid, signal as i32).print()?)
        }
        other => anyhow::bail!("{name}: {other:?}"),
    }
}
