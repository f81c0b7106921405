//! Device nodes that lead somewhere, found or made.

use std::{fs::OpenOptions, io, path::Path};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{Outcome, Target, failed};

/// Path, major and minor number of what an attempt opens.
struct Device(&'static str, u64, u64);

const TUN: Device = Device("/dev/net/tun", 10, 200);
const KMSG: Device = Device("/dev/kmsg", 1, 11);
const MEM: Device = Device("/dev/mem", 1, 1);
const VHOST_NET: Device = Device("/dev/vhost-net", 10, 238);
const VHOST_VSOCK: Device = Device("/dev/vhost-vsock", 10, 241);
const PPP: Device = Device("/dev/ppp", 108, 0);
const VSOCK: Device = Device("/dev/vsock", 10, 258);

pub(super) fn tun(_: &Target) -> Outcome {
    open(TUN.0)
}

pub(super) fn kmsg(_: &Target) -> Outcome {
    open(KMSG.0)
}

pub(super) fn made_tun(target: &Target) -> Outcome {
    make(&TUN, target)
}

pub(super) fn made_kmsg(target: &Target) -> Outcome {
    make(&KMSG, target)
}

pub(super) fn made_mem(target: &Target) -> Outcome {
    make(&MEM, target)
}

pub(super) fn made_vhost_net(target: &Target) -> Outcome {
    make(&VHOST_NET, target)
}

pub(super) fn made_vhost_vsock(target: &Target) -> Outcome {
    make(&VHOST_VSOCK, target)
}

pub(super) fn made_ppp(target: &Target) -> Outcome {
    make(&PPP, target)
}

pub(super) fn made_vsock(target: &Target) -> Outcome {
    make(&VSOCK, target)
}

/// Makes a node of its own, and opens that.
fn make(Device(path, major, minor): &Device, target: &Target) -> Outcome {
    let name = Path::new(path).file_name().unwrap_or_default();
    let node =
        target
            .stage
            .scratch
            .join(format!("{}-{}-{}", name.display(), target.tag, target.port));
    let kind = SFlag::S_IFCHR;
    mknod(
        &node,
        kind,
        Mode::S_IRUSR | Mode::S_IWUSR,
        makedev(*major, *minor),
    )
    .map_err(io::Error::from)
    .map_err(failed("mknod"))?;
    open(node)
}

fn open(path: impl AsRef<Path>) -> Outcome {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.map(|_| None).map_err(failed("open"))
}
