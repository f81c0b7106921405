//! An address and port in the one spelling that both halves use.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Four words of an IPv6 address, each as it lies in memory in network order.
///
/// Words rather than octets, because that is how the kernel shows addresses to its programs, and
/// what its verifier follows without effort.
pub type Address = [u32; 4];

/// IPv4 or IPv6 address with a port.
///
/// IPv4 is always written IPv4-mapped (`::ffff:a.b.c.d`), so that an AF_INET6 socket talking
/// to a mapped address and an AF_INET socket talking to the plain one are the same endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// Port in host order.
    pub port: u16,
    /// Always zero; keeps the layout free of padding.
    pub zero: u16,
}

/// `::ffff:0:0/96`, the third word.
const MAPPED: u32 = 0xffff_u32.to_be();

/// 127.0.0.1, mapped.
pub const LOOPBACK_V4: Address = mapped(u32::from_ne_bytes([127, 0, 0, 1]));

/// ::1.
pub const LOOPBACK_V6: Address = [0, 0, 0, 1_u32.to_be()];

/// The IPv4-mapped spelling of an IPv4 address, which is given as it lies in memory in network
/// order.
#[inline(always)]
#[must_use]
pub const fn mapped(v4: u32) -> Address {
    [0, 0, MAPPED, v4]
}

impl Endpoint {
    /// No address, no port: what a missing endpoint is written as.
    pub const NONE: Self = Self::new([0; 4], 0);

    /// An endpoint from an address and a host-order port.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port,
            zero: 0,
        }
    }

    /// An endpoint from octets in network order and a host-order port.
    #[must_use]
    pub const fn from_octets(o: [u8; 16], port: u16) -> Self {
        Self::new(
            [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
            port,
        )
    }

    /// The address's octets in network order.
    #[must_use]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.address;
        let (a, b, c, d) = (
            a.to_ne_bytes(),
            b.to_ne_bytes(),
            c.to_ne_bytes(),
            d.to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// Whether the address is IPv4, written mapped.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.address[0] == 0 && self.address[1] == 0 && self.address[2] == MAPPED
    }

    /// The IPv4 address as it lies in memory in network order, if [`Self::is_v4`].
    #[inline(always)]
    #[must_use]
    pub const fn v4(&self) -> u32 {
        self.address[3]
    }

    /// Whether the address is in 127.0.0.0/8, or ::1, or the wildcard of either family.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback_or_any(&self) -> bool {
        if self.address[0] != 0 || self.address[1] != 0 {
            return false;
        }
        let last = u32::from_be(self.address[3]);
        if self.address[2] == MAPPED {
            last == 0 || last >> 24 == 127
        } else {
            self.address[2] == 0 && last <= 1
        }
    }

    /// Whether the address is the wildcard of either family, which a call takes for loopback.
    #[inline(always)]
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.address[0] == 0
            && self.address[1] == 0
            && (self.address[2] == 0 || self.address[2] == MAPPED)
            && self.address[3] == 0
    }

    /// Whether the address is exactly 127.0.0.1 or ::1, the two on which the gateway listens.
    ///
    /// The rest of 127.0.0.0/8 is not: no listener of ours is there.
    #[inline(always)]
    #[must_use]
    pub const fn is_gateway_address(&self) -> bool {
        if self.address[0] != 0 || self.address[1] != 0 {
            return false;
        }
        let (third, last) = (self.address[2], self.address[3]);
        (third == MAPPED && last == LOOPBACK_V4[3]) || (third == 0 && last == LOOPBACK_V6[3])
    }

    /// The loopback address of the same family.
    #[inline(always)]
    #[must_use]
    pub const fn loopback_of_same_family(&self) -> Address {
        if self.is_v4() {
            LOOPBACK_V4
        } else {
            LOOPBACK_V6
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_loopback() {
        let v4 = Endpoint::new(LOOPBACK_V4, 1);
        assert!(v4.is_v4() && v4.is_gateway_address());
        assert_eq!(v4.v4().to_ne_bytes(), [127, 0, 0, 1]);
        assert_eq!(v4.octets()[10..], [0xff, 0xff, 127, 0, 0, 1]);
        assert_eq!(Endpoint::from_octets(v4.octets(), 1), v4);
        let other = mapped(u32::from_ne_bytes([127, 0, 0, 2]));
        assert!(!Endpoint::new(other, 1).is_gateway_address());
        let v6 = Endpoint::new(LOOPBACK_V6, 1);
        assert!(!v6.is_v4() && v6.is_gateway_address());
        // ::127.0.0.1 is IPv4-compatible, not mapped.
        let compatible = Endpoint::new([0, 0, 0, LOOPBACK_V4[3]], 1);
        assert!(!compatible.is_v4() && !compatible.is_gateway_address());
        assert_eq!(v6.loopback_of_same_family(), LOOPBACK_V6);
        assert_eq!(v4.loopback_of_same_family(), LOOPBACK_V4);
    }
}
