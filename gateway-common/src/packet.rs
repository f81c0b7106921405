//! The part of a packet that the backstop looks at.
//!
//! Socket fields lie when a packet was source-routed, so the header itself is read.

use crate::{
    endpoint::{Endpoint, mapped},
    reason::Reason,
};

/// Bytes of a plain IPv4 header.
pub const V4_HEADER: usize = 20;
/// Bytes of an IPv6 header.
pub const V6_HEADER: usize = 40;
/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// Addresses, ports and protocol of a packet without options, fragments or extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Where the packet says it comes from.
    pub source: Endpoint,
    /// Where the packet goes.
    pub destination: Endpoint,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
}

/// IP version of the packet that starts with this byte, 4 or 6.
///
/// # Errors
/// [`Reason::HeaderMalformed`] for any other version.
#[inline(always)]
pub const fn version(first: u8) -> Result<u8, Reason> {
    match first >> 4 {
        4 => Ok(4),
        6 => Ok(6),
        0..=3 | 5 | 7..=u8::MAX => Err(Reason::HeaderMalformed),
    }
}

/// Reads an IPv4 header and the ports behind it.
///
/// # Errors
/// Options, fragments and other protocols are refused, each with its own reason.
#[inline(always)]
pub const fn parse_v4(ip: &[u8; V4_HEADER], ports: &[u8; 4]) -> Result<Header, Reason> {
    if ip[0] != 0x45 {
        return Err(if ip[0] >> 4 == 4 && ip[0] & 0x0f > 5 {
            Reason::HeaderOptions
        } else {
            Reason::HeaderMalformed
        });
    }
    // Everything but "don't fragment": more-fragments, the offset, and the reserved bit.
    if ip[6] & 0xbf != 0 || ip[7] != 0 {
        return Err(Reason::Fragment);
    }
    let protocol = ip[9];
    if protocol != TCP && protocol != UDP {
        return Err(Reason::SocketType);
    }
    Ok(Header {
        source: Endpoint::new(mapped([ip[12], ip[13], ip[14], ip[15]]), port(ports, 0)),
        destination: Endpoint::new(mapped([ip[16], ip[17], ip[18], ip[19]]), port(ports, 2)),
        protocol,
    })
}

/// Reads an IPv6 header and the ports behind it.
///
/// # Errors
/// Extension headers and other protocols are refused, each with its own reason.
#[inline(always)]
pub const fn parse_v6(ip: &[u8; V6_HEADER], ports: &[u8; 4]) -> Result<Header, Reason> {
    if ip[0] >> 4 != 6 {
        return Err(Reason::HeaderMalformed);
    }
    let protocol = ip[6];
    if protocol != TCP && protocol != UDP {
        return Err(match protocol {
            // Hop-by-hop, routing, fragment, ESP, AH, destination options, mobility, HIP, shim6.
            0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 => Reason::ExtensionHeader,
            1..=42 | 45..=49 | 52..=59 | 61..=134 | 136..=138 | 141..=u8::MAX => Reason::SocketType,
        });
    }
    let mut source = [0; 16];
    let mut destination = [0; 16];
    let mut i = 0;
    while i < 16 {
        source[i] = ip[8 + i];
        destination[i] = ip[24 + i];
        i += 1;
    }
    Ok(Header {
        source: Endpoint::new(source, port(ports, 0)),
        destination: Endpoint::new(destination, port(ports, 2)),
        protocol,
    })
}

#[inline(always)]
const fn port(ports: &[u8; 4], at: usize) -> u16 {
    u16::from_be_bytes([ports[at], ports[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4() -> [u8; V4_HEADER] {
        let mut ip = [0; V4_HEADER];
        ip[0] = 0x45;
        ip[6] = 0x40;
        ip[9] = TCP;
        ip[12..16].copy_from_slice(&[10, 0, 0, 1]);
        ip[16..20].copy_from_slice(&[127, 0, 0, 1]);
        ip
    }

    #[test]
    fn plain_v4_is_read() {
        let header = parse_v4(&v4(), &[0x1f, 0x90, 0, 53]).expect("plain header");
        assert_eq!(header.source, Endpoint::new(mapped([10, 0, 0, 1]), 8080));
        assert_eq!(
            header.destination,
            Endpoint::new(mapped([127, 0, 0, 1]), 53)
        );
    }

    #[test]
    fn each_v4_oddity_has_its_reason() {
        let cases: [(usize, u8, Reason); 8] = [
            (0, 0x46, Reason::HeaderOptions),
            (0, 0x4f, Reason::HeaderOptions),
            (0, 0x44, Reason::HeaderMalformed),
            (0, 0x65, Reason::HeaderMalformed),
            (6, 0x20, Reason::Fragment),
            (6, 0x80, Reason::Fragment),
            (7, 0x01, Reason::Fragment),
            (9, 136, Reason::SocketType),
        ];
        for (at, value, reason) in cases {
            let mut ip = v4();
            ip[at] = value;
            assert_eq!(
                parse_v4(&ip, &[0; 4]),
                Err(reason),
                "byte {at} = {value:#x}"
            );
        }
    }

    #[test]
    fn v6_takes_no_extension_header() {
        let mut ip = [0; V6_HEADER];
        ip[0] = 0x60;
        ip[6] = UDP;
        ip[39] = 1;
        assert!(parse_v6(&ip, &[0; 4]).is_ok_and(|header| header.destination.is_gateway_address()));
        for next in [0, 43, 44, 60] {
            ip[6] = next;
            assert_eq!(parse_v6(&ip, &[0; 4]), Err(Reason::ExtensionHeader));
        }
        ip[6] = 58;
        assert_eq!(parse_v6(&ip, &[0; 4]), Err(Reason::SocketType));
    }
}
