//! What does not lead out by itself: addresses, devices and unix sockets of this host.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream},
    },
};

use super::{Failed, Outcome, Target, call, failed};
use crate::vectors::world::{NODE4, NODE6};

/// Name of the device beside the program: `/dev/net/tun` by another name.
pub const DEVICE: &str = "device";

/// Binds to the address that others know this host by.
pub(super) fn bind4(target: &Target) -> Outcome {
    bind(libc::AF_INET, (NODE4, target.port).into())
}

pub(super) fn bind6(target: &Target) -> Outcome {
    bind(libc::AF_INET6, (NODE6, target.port).into())
}

fn bind(family: i32, to: SocketAddr) -> Outcome {
    let socket = call::socket(family, libc::SOCK_STREAM, 0).map_err(failed("socket"))?;
    socket.bind(&to.into()).map_err(failed("bind"))?;
    Ok(None)
}

/// Opens a device that everybody may open and no agent has, beside this program.
pub(super) fn device(_: &Target) -> Outcome {
    let mut path = std::env::current_exe().map_err(failed("current_exe"))?;
    path.set_file_name(DEVICE);
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(path).map_err(failed("open"))?;
    Ok(None)
}

/// Nobody listens there.
fn nobody(target: &Target) -> Result<UnixAddr, Failed> {
    UnixAddr::from_abstract_name(format!("sluice-nobody-{}", target.port))
        .map_err(failed("address"))
}

pub(super) fn unix_connect(target: &Target) -> Outcome {
    UnixStream::connect_addr(&nobody(target)?).map_err(failed("connect"))?;
    Ok(None)
}

pub(super) fn unix_sendmsg(target: &Target) -> Outcome {
    let socket = UnixDatagram::unbound().map_err(failed("socket"))?;
    socket
        .send_to_addr(b"x", &nobody(target)?)
        .map_err(failed("sendmsg"))?;
    Ok(None)
}
