//! Tries to get bytes out, one way after another, and says what came of each.
//!
//! `vector V4 V6 TAG NAME=PORT…` tries the named ways towards the two addresses. Each prints one
//! line of JSON: the way, the call that failed, its errno, and an address seen, where one was.
//! `NAME` may also be `wait`: it says so and goes on once a line comes in on standard input.

use std::{net::IpAddr, process::ExitCode};

use anyhow::Context as _;
use sluice_tests::vector::{self, Attempt, Target};

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().with_context(|| format!("no {what}"));
    let (v4, v6, tag) = (next("V4")?, next("V6")?, next("TAG")?);
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4.parse()?, v6.parse()?) else {
        anyhow::bail!("V4 and V6 are the wrong way round");
    };
    for argument in arguments {
        let (name, port) = argument.split_once('=').context("not NAME=PORT")?;
        let target = Target {
            v4,
            v6,
            port: port.parse()?,
            marker: vector::marker(&tag, name),
            gateway: vector::gateway_port(),
        };
        let way = vector::find(name).with_context(|| format!("no vector {name}"))?;
        // Records name the command, and so tell attempts apart.
        nix::sys::prctl::set_name(&vector::command_name(target.port))?;
        Attempt::of(name, way(&target)).print()?;
    }
    Ok(ExitCode::SUCCESS)
}
