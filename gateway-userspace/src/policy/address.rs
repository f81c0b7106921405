//! What kind of network an address lies in.
//!
//! Errs to the side of refusal: IPv6 is public only where IANA has handed it out, and an
//! address that carries an IPv4 address inside is no better than what it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where an address leads. Ordered: the later the kind, the more it takes to be let there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AddressClass {
    /// The internet.
    Public,
    /// This host, this site, or a network of documentation and experiments: `private = true`.
    Private,
    /// A cloud's metadata or credential service: `private = true`, and a rule that names it.
    Metadata,
    /// Nobody a connection could be made to on purpose: unspecified, multicast, broadcast.
    Never,
}

/// Metadata and credential services by address.
const METADATA_V4: [Ipv4Addr; 9] = [
    // AWS, Google, Azure, OpenStack, DigitalOcean, Oracle and others.
    Ipv4Addr::new(169, 254, 169, 254),
    // AWS: credentials of ECS tasks, and of EKS pods.
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // Tencent.
    Ipv4Addr::new(169, 254, 0, 23),
    Ipv4Addr::new(169, 254, 10, 10),
    // Scaleway.
    Ipv4Addr::new(169, 254, 42, 42),
    // Alibaba.
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle, classic.
    Ipv4Addr::new(192, 0, 0, 192),
    // Azure's WireServer: a public number, answered by the host below.
    Ipv4Addr::new(168, 63, 129, 16),
];

/// The same over IPv6.
const METADATA_V6: [Ipv6Addr; 5] = [
    // AWS, and credentials of EKS pods.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // OpenStack.
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// What kind of network this address lies in.
#[must_use]
pub fn classify(address: IpAddr) -> AddressClass {
    match address.to_canonical() {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => embedded(v6)
            .into_iter()
            .flatten()
            .map(classify_v4)
            .fold(classify_v6(v6), Ord::max),
    }
}

/// IANA's IPv4 Special-Purpose Address Registry, and the metadata services.
fn classify_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address) {
        return AddressClass::Metadata;
    }
    match address.octets() {
        // 0.0.0.0 is taken for this host; the rest of 0/8 and 224/4 are no destinations.
        [0, ..] | [224..=239, ..] | [255, 255, 255, 255] => AddressClass::Never,
        // Private use, shared by carriers, loopback, link-local.
        [10 | 127, ..]
        | [100, 64..=127, ..]
        | [169, 254, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..] => AddressClass::Private,
        // Protocol assignments, documentation, 6to4 relays, benchmarks, reserved.
        [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [240..=255, ..] => AddressClass::Private,
        [_, _, _, _] => AddressClass::Public,
    }
}

/// IANA's IPv6 Special-Purpose Address Registry, read as an allow list.
fn classify_v6(address: Ipv6Addr) -> AddressClass {
    if METADATA_V6.contains(&address) {
        return AddressClass::Metadata;
    }
    if address.is_unspecified() || address.is_multicast() {
        return AddressClass::Never;
    }
    match address.segments() {
        // NAT64 with the well-known prefix is as public as the address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => AddressClass::Public,
        // IETF assignments with Teredo, documentation twice.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => {
            AddressClass::Private
        }
        // Global unicast, as far as it was ever handed out.
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        // Loopback, unique local, link-local, site-local, IPv4-compatible and what is unassigned.
        [_, _, _, _, _, _, _, _] => AddressClass::Private,
    }
}

/// The IPv4 addresses that a transition mechanism would take a packet to.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // `::` and `::1` are not IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None, None],
        // IPv4-compatible, IPv4-translated, NAT64 by well-known and by local prefix.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => [v4(high, low), None],
        // 6to4.
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo: server, and client with its bits turned over.
        [0x2001, 0, high, low, _, _, client_high, client_low] => {
            [v4(high, low), v4(!client_high, !client_low)]
        }
        [_, _, _, _, _, _, _, _] => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressClass::*, *};

    fn class(text: &str) -> AddressClass {
        classify(text.parse().expect("an address"))
    }

    #[test]
    fn v4_by_range_with_its_neighbours() {
        for (text, expected) in [
            ("0.0.0.0", Never),
            ("0.255.255.255", Never),
            ("1.0.0.0", Public),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Private),
            ("100.127.255.255", Private),
            ("100.128.0.0", Public),
            ("100.100.100.200", Metadata),
            ("127.0.0.1", Private),
            ("127.255.255.255", Private),
            ("128.0.0.0", Public),
            ("168.63.129.15", Public),
            ("168.63.129.16", Metadata),
            ("169.253.255.255", Public),
            ("169.254.0.0", Private),
            ("169.254.169.253", Private),
            ("169.254.169.254", Metadata),
            ("169.254.170.2", Metadata),
            ("169.255.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.0.0.8", Private),
            ("192.0.0.192", Metadata),
            ("192.0.1.0", Public),
            ("192.0.2.1", Private),
            ("192.88.99.1", Private),
            ("192.167.255.255", Public),
            ("192.168.0.0", Private),
            ("192.169.0.0", Public),
            ("198.17.255.255", Public),
            ("198.18.0.0", Private),
            ("198.19.255.255", Private),
            ("198.20.0.0", Public),
            ("198.51.100.7", Private),
            ("203.0.113.7", Private),
            ("223.255.255.255", Public),
            ("224.0.0.1", Never),
            ("239.255.255.255", Never),
            ("240.0.0.1", Private),
            ("255.255.255.254", Private),
            ("255.255.255.255", Never),
            ("8.8.8.8", Public),
        ] {
            assert_eq!(class(text), expected, "{text}");
            assert_eq!(class(&format!("::ffff:{text}")), expected, "mapped {text}");
        }
    }

    #[test]
    fn v6_by_range_with_its_neighbours() {
        for (text, expected) in [
            ("::", Never),
            ("::1", Private),
            ("ff02::1", Never),
            ("fe80::1", Private),
            ("fe80::a9fe:a9fe", Metadata),
            ("fec0::1", Private),
            ("fc00::1", Private),
            ("fdff::1", Private),
            ("fd00:ec2::254", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd20:ce::254", Metadata),
            ("100::1", Private),
            ("1fff::1", Private),
            ("2000::1", Public),
            ("2001:1ff::1", Private),
            ("2001:200::1", Public),
            ("2001:db7::1", Public),
            ("2001:db8::1", Private),
            ("2001:db9::1", Public),
            ("2606:4700::1111", Public),
            ("3fff:fff::1", Private),
            ("3fff:1000::1", Public),
            ("4000::1", Private),
            ("5f00::1", Private),
        ] {
            assert_eq!(class(text), expected, "{text}");
        }
    }

    #[test]
    fn an_address_inside_an_address_counts() {
        for (text, expected) in [
            // IPv4-compatible.
            ("::127.0.0.1", Private),
            ("::8.8.8.8", Private),
            ("::169.254.169.254", Metadata),
            // IPv4-translated.
            ("::ffff:0:169.254.169.254", Metadata),
            // NAT64.
            ("64:ff9b::8.8.8.8", Public),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", Metadata),
            ("64:ff9b::0.0.0.0", Never),
            ("64:ff9b:1::8.8.8.8", Private),
            ("64:ff9b:1::169.254.169.254", Metadata),
            // 6to4.
            ("2002:808:808::1", Public),
            ("2002:a00:1::1", Private),
            ("2002:7f00:1::", Private),
            ("2002:a9fe:a9fe::1", Metadata),
            // Teredo: server 169.254.169.254; client 169.254.169.254.
            ("2001:0:a9fe:a9fe:0:0:f7f7:f7f7", Metadata),
            ("2001:0:808:808:0:0:5601:5601", Metadata),
            ("2001:0:808:808:0:0:f7f7:f7f7", Private),
        ] {
            assert_eq!(class(text), expected, "{text}");
        }
    }
}
