//! The part of a packet that the backstop looks at.
//!
//! Socket fields lie when a packet was source-routed, so the header itself is read.

use crate::{
    endpoint::{Endpoint, mapped},
    reason::Reason,
};

/// Words of a plain IPv4 header.
pub const V4_WORDS: usize = 5;
/// Words of an IPv6 header.
pub const V6_WORDS: usize = 10;
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

/// Reads an IPv4 header and the word of ports behind it, all as they lie in memory.
///
/// # Errors
/// Options, fragments and other protocols are refused, each with its own reason.
#[inline(always)]
pub const fn parse_v4(ip: &[u32; V4_WORDS], ports: u32) -> Result<Header, Reason> {
    let first = u32::from_be(ip[0]) >> 24;
    if first != 0x45 {
        return Err(if first >> 4 == 4 && first & 0x0f > 5 {
            Reason::HeaderOptions
        } else {
            Reason::HeaderMalformed
        });
    }
    // Everything but "don't fragment": more-fragments, the offset, and the reserved bit.
    if u32::from_be(ip[1]) & 0xbfff != 0 {
        return Err(Reason::Fragment);
    }
    let protocol = (u32::from_be(ip[2]) >> 16) as u8;
    if protocol != TCP && protocol != UDP {
        return Err(Reason::SocketType);
    }
    let (from, to) = split(ports);
    Ok(Header {
        source: Endpoint::new(mapped(ip[3]), from),
        destination: Endpoint::new(mapped(ip[4]), to),
        protocol,
    })
}

/// Reads an IPv6 header and the word of ports behind it, all as they lie in memory.
///
/// # Errors
/// Extension headers and other protocols are refused, each with its own reason.
#[inline(always)]
pub const fn parse_v6(ip: &[u32; V6_WORDS], ports: u32) -> Result<Header, Reason> {
    if u32::from_be(ip[0]) >> 28 != 6 {
        return Err(Reason::HeaderMalformed);
    }
    let protocol = (u32::from_be(ip[1]) >> 8) as u8;
    if protocol != TCP && protocol != UDP {
        return Err(match protocol {
            // Hop-by-hop, routing, fragment, ESP, AH, destination options, mobility, HIP, shim6.
            0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 => Reason::ExtensionHeader,
            1..=42 | 45..=49 | 52..=59 | 61..=134 | 136..=138 | 141..=u8::MAX => Reason::SocketType,
        });
    }
    let (from, to) = split(ports);
    Ok(Header {
        source: Endpoint::new([ip[2], ip[3], ip[4], ip[5]], from),
        destination: Endpoint::new([ip[6], ip[7], ip[8], ip[9]], to),
        protocol,
    })
}

/// Source and destination port from the word that holds both.
#[inline(always)]
const fn split(ports: u32) -> (u16, u16) {
    let ports = u32::from_be(ports);
    ((ports >> 16) as u16, ports as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::LOOPBACK_V4;

    fn words<const BYTES: usize, const WORDS: usize>(bytes: [u8; BYTES]) -> [u32; WORDS] {
        let mut words = [0; WORDS];
        for (word, octets) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(octets.try_into().expect("four octets"));
        }
        words
    }

    fn v4() -> [u8; 20] {
        let mut ip = [0; 20];
        ip[0] = 0x45;
        // Type of service, length and identification may be anything.
        ip[1..6].copy_from_slice(&[0xff; 5]);
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = TCP;
        ip[10..12].copy_from_slice(&[0xff; 2]);
        ip[12..16].copy_from_slice(&[10, 0, 0, 1]);
        ip[16..20].copy_from_slice(&[127, 0, 0, 1]);
        ip
    }

    #[test]
    fn plain_v4_is_read() {
        let ports = u32::from_ne_bytes([0x1f, 0x90, 0, 53]);
        let header = parse_v4(&words(v4()), ports).expect("plain header");
        let source = mapped(u32::from_ne_bytes([10, 0, 0, 1]));
        assert_eq!(header.source, Endpoint::new(source, 8080));
        assert_eq!(header.destination, Endpoint::new(LOOPBACK_V4, 53));
        assert_eq!(header.protocol, TCP);
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
                parse_v4(&words(ip), 0),
                Err(reason),
                "byte {at} = {value:#x}"
            );
        }
    }

    #[test]
    fn v6_takes_no_extension_header() {
        let mut ip = [0; 40];
        ip[0] = 0x60;
        ip[6] = UDP;
        ip[7] = 64;
        ip[39] = 1;
        let header = parse_v6(&words(ip), 0).expect("plain header");
        assert!(header.destination.is_gateway_address());
        assert_eq!(header.protocol, UDP);
        for next in [0, 43, 44, 60] {
            ip[6] = next;
            assert_eq!(parse_v6(&words(ip), 0), Err(Reason::ExtensionHeader));
        }
        ip[6] = 58;
        assert_eq!(parse_v6(&words(ip), 0), Err(Reason::SocketType));
    }
}
