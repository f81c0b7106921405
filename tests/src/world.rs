//! The world of a test: the node where the agent and its gateway live, the origin that they want
//! to reach, and a cable between the two. It ends with the test, whatever becomes of that.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::netns::Netns;

/// The node's address on the cable, of the documentation's range (RFC 5737).
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The origin's.
pub const ORIGIN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The node's IPv6 address (RFC 3849).
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The origin's.
pub const ORIGIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// The node's end of the cable.
pub const NODE_DEVICE: &str = "node0";
/// The origin's.
pub const ORIGIN_DEVICE: &str = "origin0";

/// Two namespaces with a cable, and a folder for files.
#[derive(Debug)]
pub struct World {
    /// Where the agent and its gateway live.
    pub node: Netns,
    /// What they want to reach.
    pub origin: Netns,
    scratch: TempDir,
}

impl World {
    /// Makes the world.
    ///
    /// # Errors
    /// Not root, or no iproute2.
    pub fn new() -> Result<Self> {
        let (node, origin) = (Netns::new()?, Netns::new()?);
        node.join(NODE_DEVICE, &origin, ORIGIN_DEVICE)?;
        for (side, device, ip4, ip6) in [
            (&node, NODE_DEVICE, NODE4, NODE6),
            (&origin, ORIGIN_DEVICE, ORIGIN4, ORIGIN6),
        ] {
            side.ip(&format!("addr add {ip4}/24 dev {device}"))?;
            side.ip(&format!("addr add {ip6}/64 dev {device} nodad"))?;
            side.ip(&format!("link set {device} up"))?;
        }
        // Whatever is not here goes down the cable, where it can be seen.
        node.ip(&format!("route add default via {ORIGIN4}"))?;
        node.ip(&format!("-6 route add default via {ORIGIN6}"))?;
        let scratch = tempfile::Builder::new().prefix("sluice-test-").tempdir()?;
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            node,
            origin,
            scratch,
        })
    }

    /// A folder that everybody may read, removed with the world.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Writes a file that everybody may read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.scratch().join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// Makes a program readable for everybody, wherever it lies.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn publish(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program has a name")?;
        let path = self.scratch().join(name);
        fs::copy(program, &path).with_context(|| format!("copying {}", program.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}
