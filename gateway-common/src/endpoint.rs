//! An address and port in the one spelling that both halves use.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IPv4 or IPv6 address with a port.
///
/// IPv4 is always written IPv4-mapped (`::ffff:a.b.c.d`), so that an AF_INET6 socket talking
/// to a mapped address and an AF_INET socket talking to the plain one are the same endpoint.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// Address octets in network order.
    pub address: [u8; 16],
    /// Port in host order.
    pub port: u16,
    /// Always zero; keeps the layout free of padding.
    pub zero: u16,
}

/// The address part of an [`Endpoint`] on 127.0.0.1.
pub const LOOPBACK_V4: [u8; 16] = mapped([127, 0, 0, 1]);

/// The address part of an [`Endpoint`] on ::1.
pub const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The IPv4-mapped spelling of an IPv4 address.
#[inline(always)]
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

impl Endpoint {
    /// No address, no port: what a missing endpoint is written as.
    pub const NONE: Self = Self::new([0; 16], 0);

    /// An endpoint from address octets and a host-order port.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: [u8; 16], port: u16) -> Self {
        Self {
            address,
            port,
            zero: 0,
        }
    }

    /// Two halves of the address: comparing words is cheaper for the kernel's verifier.
    #[inline(always)]
    const fn words(&self) -> (u64, u64) {
        let a = &self.address;
        (
            u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
            u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
        )
    }

    /// Whether the address is IPv4, written mapped.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        let (high, low) = self.words();
        high == 0 && low >> 32 == 0xffff
    }

    /// The IPv4 octets, if [`Self::is_v4`].
    #[inline(always)]
    #[must_use]
    pub const fn v4(&self) -> [u8; 4] {
        let a = &self.address;
        [a[12], a[13], a[14], a[15]]
    }

    /// Whether the address is exactly 127.0.0.1 or ::1, the two on which the gateway listens.
    ///
    /// The rest of 127.0.0.0/8 is not: no listener of ours is there.
    #[inline(always)]
    #[must_use]
    pub const fn is_gateway_address(&self) -> bool {
        let (high, low) = self.words();
        high == 0 && (low == 1 || low == 0x0000_ffff_7f00_0001)
    }

    /// The loopback address of the same family.
    #[inline(always)]
    #[must_use]
    pub const fn loopback_of_same_family(&self) -> [u8; 16] {
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
        let v4 = Endpoint::new(mapped([127, 0, 0, 1]), 1);
        assert!(v4.is_v4() && v4.is_gateway_address());
        assert_eq!(v4.v4(), [127, 0, 0, 1]);
        assert!(!Endpoint::new(mapped([127, 0, 0, 2]), 1).is_gateway_address());
        let v6 = Endpoint::new(LOOPBACK_V6, 1);
        assert!(!v6.is_v4() && v6.is_gateway_address());
        // ::127.0.0.1 is IPv4-compatible, not mapped.
        let mut compatible = LOOPBACK_V4;
        compatible[10] = 0;
        compatible[11] = 0;
        let compatible = Endpoint::new(compatible, 1);
        assert!(!compatible.is_v4() && !compatible.is_gateway_address());
        assert_eq!(v6.loopback_of_same_family(), LOOPBACK_V6);
        assert_eq!(v4.loopback_of_same_family(), LOOPBACK_V4);
    }
}
