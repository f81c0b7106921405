//! The constants that one agent's programs are loaded with.
//!
//! They live in the object's read-only data, which the kernel freezes: the verifier folds them
//! and nothing can change them afterwards. All zeroes, which is what an object has that nobody
//! configured, denies everything.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ABI_VERSION, endpoint::Endpoint};

/// Refusals are carried out.
pub const MODE_ENFORCE: u32 = 1;
/// Refusals are recorded and not carried out.
pub const MODE_OBSERVE: u32 = 2;

/// Direct TCP connections are sent to the gateway.
pub const DIRECT_REDIRECT: u32 = 1;
/// Direct TCP connections are refused.
pub const DIRECT_DENY: u32 = 2;

/// Port 53 is refused like any other.
pub const DNS_OFF: u32 = 1;
/// Port 53 over UDP and TCP is sent to the gateway's resolver.
pub const DNS_GATEWAY: u32 = 2;

/// Nobody may connect to the agent.
pub const INBOUND_DENY: u32 = 1;
/// Local processes may connect to the agent over loopback.
pub const INBOUND_LOOPBACK: u32 = 2;
/// Anybody may connect to the agent.
pub const INBOUND_ALLOW: u32 = 3;

/// Policy names devices, which are in a map.
pub const FEATURE_DEVICES: u32 = 1;
/// The agent reaches its own listeners on loopback.
pub const FEATURE_OWN_LOOPBACK: u32 = 2;

/// Devices that a policy may name for one agent.
pub const DEVICES_MAX: usize = 32;

/// A device, by its kind and numbers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Device {
    /// [`DEVICE_BLOCK`] or [`DEVICE_CHARACTER`].
    pub kind: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl Device {
    /// The numbers in place of an address, for a refusal's record: kind, major and minor are the
    /// last words. No address has such a first word.
    #[inline(always)]
    #[must_use]
    pub const fn as_endpoint(&self) -> Endpoint {
        Endpoint::new([u32::MAX, self.kind, self.major, self.minor], 0)
    }

    /// The device that [`Self::as_endpoint`] stands for; none if it is an address.
    #[must_use]
    pub const fn from_endpoint(endpoint: &Endpoint) -> Option<Self> {
        match endpoint.address {
            [u32::MAX, kind, major, minor] => Some(Self { kind, major, minor }),
            _ => None,
        }
    }
}

/// A block device.
pub const DEVICE_BLOCK: u32 = 1;
/// A character device.
pub const DEVICE_CHARACTER: u32 = 2;

/// What the programs of one agent know.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct AgentConfig {
    /// Cgroup id (inode number in cgroup2) the programs are attached to.
    pub cgroup: u64,
    /// [`ABI_VERSION`] of the loader; anything else denies everything.
    pub abi: u32,
    /// Number of the agent on this node, never 0.
    pub agent: u32,
    /// [`MODE_ENFORCE`] or [`MODE_OBSERVE`].
    pub mode: u32,
    /// [`DIRECT_REDIRECT`] or [`DIRECT_DENY`].
    pub direct: u32,
    /// [`DNS_OFF`] or [`DNS_GATEWAY`].
    pub dns: u32,
    /// [`INBOUND_DENY`], [`INBOUND_LOOPBACK`] or [`INBOUND_ALLOW`].
    pub inbound: u32,
    /// Port of the gateway on 127.0.0.1 and ::1, TCP and UDP, host order.
    pub gateway_port: u16,
    /// 1 if any of [`LoopbackPorts`] is set, else 0.
    pub has_loopback: u16,
    /// Any of the `FEATURE_` constants.
    pub features: u32,
    /// Port of the gateway that this one took over from, on which established connections may go
    /// on to their end and none begins; 0 if there is none.
    pub draining_port: u16,
    /// Always zero.
    pub zero: [u8; 6],
}

impl AgentConfig {
    /// Denies everything: the state of an object that nobody configured.
    pub const SHUT: Self = Self {
        cgroup: 0,
        abi: 0,
        agent: 0,
        mode: 0,
        direct: 0,
        dns: 0,
        inbound: 0,
        gateway_port: 0,
        has_loopback: 0,
        features: 0,
        draining_port: 0,
        zero: [0; 6],
    };

    /// Whether the loader filled this in and speaks the same ABI.
    #[inline(always)]
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.abi == ABI_VERSION && self.agent != 0 && self.gateway_port != 0
    }

    /// Whether all of these features are on.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, features: u32) -> bool {
        self.features & features == features
    }

    /// Whether refusals are recorded but not carried out.
    #[inline(always)]
    #[must_use]
    pub const fn observes(&self) -> bool {
        self.is_configured() && self.mode == MODE_OBSERVE
    }
}

/// Other local TCP ports that the agent may reach: a bit for each port.
///
/// Apart from [`AgentConfig`], so that an agent without any pays nothing for them; bits rather
/// than a list, so that a look-up is one load.
pub type LoopbackPorts = [u64; LOOPBACK_WORDS];

/// Words that hold a bit for each port.
pub const LOOPBACK_WORDS: usize = 1024;

/// Index of the word that has a port's bit, and the bit.
#[inline(always)]
#[must_use]
pub const fn loopback_bit(port: u16) -> (usize, u64) {
    ((port >> 6) as usize, 1 << (port & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_a_bit_of_its_own() {
        let mut words: LoopbackPorts = [0; LOOPBACK_WORDS];
        for port in 0..=u16::MAX {
            let (word, bit) = loopback_bit(port);
            assert_eq!(words[word] & bit, 0, "{port}");
            words[word] |= bit;
        }
        assert!(words.iter().all(|word| *word == u64::MAX));
    }
}
