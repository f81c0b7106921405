//! The kernel-side rule as a table: each thing allowed beside its nearest neighbour that is not.

use gateway_common::{
    ABI_VERSION,
    agent::{
        AgentConfig, DEVICE_BLOCK, DEVICE_CHARACTER, DIRECT_DENY, DIRECT_REDIRECT, DNS_GATEWAY,
        DNS_OFF, Device, FEATURE_OWN_LOOPBACK, INBOUND_ALLOW, INBOUND_DENY, INBOUND_LOOPBACK,
        MODE_ENFORCE,
    },
    decide::{self, DGRAM, LOOPBACK_INTERFACE, STREAM, Surroundings},
    endpoint::{Endpoint, LOOPBACK_V4, LOOPBACK_V6, mapped},
    packet::{Header, TCP, UDP},
    reason::Reason,
    unix::{UNIX_ANY, UNIX_NAMED},
    verdict::Verdict::{self, Pass, Redirect, Refuse},
};

const PORT: u16 = 4150;

const fn config() -> AgentConfig {
    AgentConfig {
        cgroup: 1,
        abi: ABI_VERSION,
        agent: 1,
        mode: MODE_ENFORCE,
        direct: DIRECT_REDIRECT,
        dns: DNS_GATEWAY,
        inbound: INBOUND_DENY,
        gateway_port: PORT,
        has_loopback: 0,
        features: 0,
        draining_port: 0,
        zero: [0; 6],
    }
}

fn v4(octets: [u8; 4], port: u16) -> Endpoint {
    Endpoint::new(mapped(u32::from_ne_bytes(octets)), port)
}

#[test]
fn sockets() {
    let table = [
        (STREAM, 6, Pass(Reason::SocketAllowed)),
        (DGRAM, 17, Pass(Reason::SocketAllowed)),
        (STREAM, 262, Refuse(Reason::SocketType)),
        (STREAM, 132, Refuse(Reason::SocketType)),
        (DGRAM, 136, Refuse(Reason::SocketType)),
        (DGRAM, 1, Refuse(Reason::SocketType)),
        (DGRAM, 58, Refuse(Reason::SocketType)),
        (3, 1, Refuse(Reason::SocketType)),
        (3, 255, Refuse(Reason::SocketType)),
        (STREAM, 17, Refuse(Reason::SocketType)),
        (DGRAM, 6, Refuse(Reason::SocketType)),
        (STREAM, 0, Refuse(Reason::SocketType)),
    ];
    for (kind, protocol, expected) in table {
        let verdict = decide::socket(&config(), kind, protocol);
        assert_eq!(verdict, expected, "type {kind} protocol {protocol}");
    }
}

#[test]
fn options() {
    let (ip, ipv6, socket) = (0, 41, 1);
    let joins = Refuse(Reason::GroupMembership);
    let fine = Pass(Reason::SocketAllowed);
    let table = [
        (ip, 35, joins),
        (ip, 39, joins),
        (ip, 41, joins),
        (ip, 42, joins),
        (ip, 46, joins),
        (ip, 48, joins),
        (ipv6, 20, joins),
        (ipv6, 27, joins),
        (ipv6, 42, joins),
        (ipv6, 46, joins),
        (ipv6, 48, joins),
        // Leaving a group, blocking a source, and the same numbers at other levels.
        (ip, 36, fine),
        (ip, 38, fine),
        (ipv6, 21, fine),
        (ip, 20, fine),
        (ipv6, 16, fine),
        (socket, 35, fine),
        (socket, 42, fine),
    ];
    for (level, name, expected) in table {
        let verdict = decide::option(&config(), level, name);
        assert_eq!(verdict, expected, "level {level} option {name}");
    }
}

#[test]
fn options_that_steer() {
    let steers = Refuse(Reason::SocketOption);
    let levels: [(i32, &[i32]); 4] = [
        (1, &[25, 36, 62]),
        (0, &[3, 4, 15, 16, 17, 19, 32, 50]),
        (6, &[19]),
        (
            41,
            &[
                3, 4, 5, 6, 9, 17, 34, 35, 36, 50, 54, 55, 57, 59, 75, 76, 78,
            ],
        ),
    ];
    for (level, refused) in levels {
        for name in 0..256 {
            let verdict = decide::option(&config(), level, name);
            let is_refused = verdict == steers;
            assert_eq!(
                is_refused,
                refused.contains(&name),
                "level {level} option {name}"
            );
        }
    }
}

#[test]
fn binds() {
    let with = |inbound| AgentConfig {
        inbound,
        ..config()
    };
    let fine = Pass(Reason::BindAllowed);
    let shut = Refuse(Reason::BindAddress);
    let v6 = |last: u32| Endpoint::new([0, 0, 0, last.to_be()], 80);
    let table = [
        (v4([0, 0, 0, 0], 80), fine),
        (v4([127, 0, 0, 1], 80), fine),
        (v4([127, 255, 255, 255], 0), fine),
        (v4([126, 255, 255, 255], 80), shut),
        (v4([128, 0, 0, 1], 80), shut),
        (v4([0, 0, 0, 1], 80), shut),
        (v6(0), fine),
        (v6(1), fine),
        (v6(2), shut),
        (Endpoint::new([1, 0, 0, 0], 80), shut),
        (Endpoint::new([0, 0, 1, 1_u32.to_be()], 80), shut),
    ];
    for (address, expected) in table {
        assert_eq!(
            decide::bind(&with(INBOUND_DENY), &address),
            expected,
            "{address:?}"
        );
        assert_eq!(
            decide::bind(&with(INBOUND_LOOPBACK), &address),
            expected,
            "{address:?}"
        );
        assert_eq!(
            decide::bind(&with(INBOUND_ALLOW), &address),
            fine,
            "{address:?}"
        );
    }
}

#[test]
fn devices() {
    let (block, character) = (DEVICE_BLOCK, DEVICE_CHARACTER);
    let table = [
        (character, 1, 3, true),
        (character, 1, 4, false),
        (character, 1, 5, true),
        (character, 1, 7, true),
        (character, 1, 8, true),
        (character, 1, 9, true),
        (character, 1, 1, false),
        (character, 1, 11, false),
        (character, 5, 0, true),
        (character, 5, 1, false),
        (character, 5, 2, true),
        (character, 135, 0, false),
        (character, 136, 0, true),
        (character, 143, 1_000_000, true),
        (character, 144, 0, false),
        (character, 10, 200, false),
        (block, 1, 3, false),
        (block, 136, 0, false),
        (0, 1, 3, false),
    ];
    for (kind, major, minor, allowed) in table {
        let device = Device { kind, major, minor };
        let expected = if allowed {
            Pass(Reason::DeviceAllowed)
        } else {
            Refuse(Reason::Device)
        };
        assert_eq!(
            decide::device(&config(), &device, false),
            expected,
            "{device:?}"
        );
        let named = decide::device(&config(), &device, true);
        assert_eq!(named, Pass(Reason::DeviceAllowed), "{device:?}");
    }
}

#[test]
fn unix_sockets() {
    let fine = Pass(Reason::UnixAllowed);
    assert_eq!(decide::unix(&config(), UNIX_ANY, false), fine);
    assert_eq!(decide::unix(&config(), UNIX_NAMED, true), fine);
    let shut = Refuse(Reason::UnixSocket);
    assert_eq!(decide::unix(&config(), UNIX_NAMED, false), shut);
    assert_eq!(decide::unix(&config(), 0, false), shut);
}

#[test]
fn only_loopback_may_be_the_agents_own() {
    let own = AgentConfig {
        features: FEATURE_OWN_LOOPBACK,
        ..config()
    };
    let here = Endpoint::new(LOOPBACK_V4, 3000);
    for (name, config, protocol, to, expected) in [
        ("own", own, TCP, here, true),
        ("own, v6", own, TCP, Endpoint::new(LOOPBACK_V6, 3000), true),
        ("own, wildcard", own, TCP, v4([0, 0, 0, 0], 3000), true),
        (
            "own, v6 wildcard",
            own,
            TCP,
            Endpoint::new([0; 4], 3000),
            true,
        ),
        ("UDP", own, UDP, here, false),
        ("not asked for", config(), TCP, here, false),
        ("elsewhere", own, TCP, v4([127, 0, 0, 2], 3000), false),
        (
            "the gateway",
            own,
            TCP,
            Endpoint::new(LOOPBACK_V4, PORT),
            false,
        ),
    ] {
        assert_eq!(
            decide::may_be_own(&config, protocol, &to),
            expected,
            "{name}"
        );
    }
    let header = |source, destination, protocol| Header {
        source,
        destination,
        protocol,
    };
    let there = Endpoint::new(LOOPBACK_V4, 4000);
    let far = v4([192, 0, 2, 1], 3000);
    let plain = config();
    for (config, header, interface, expected) in [
        (own, header(there, here, TCP), LOOPBACK_INTERFACE, true),
        (own, header(there, here, UDP), LOOPBACK_INTERFACE, false),
        (own, header(there, here, TCP), LOOPBACK_INTERFACE + 1, false),
        (own, header(far, here, TCP), LOOPBACK_INTERFACE, false),
        (own, header(here, far, TCP), LOOPBACK_INTERFACE, false),
        (plain, header(there, here, TCP), LOOPBACK_INTERFACE, false),
    ] {
        let verdict = decide::may_be_own_packet(&config, &header, interface);
        assert_eq!(verdict, expected, "{header:?} {interface}");
    }
}

#[test]
fn calls() {
    let deny = AgentConfig {
        direct: DIRECT_DENY,
        ..config()
    };
    let no_dns = AgentConfig {
        dns: DNS_OFF,
        ..config()
    };
    let outside = v4([192, 0, 2, 1], 443);
    let resolver = v4([192, 0, 2, 1], 53);
    let local = Endpoint::new(LOOPBACK_V4, 9229);
    let gateway = Endpoint::new(LOOPBACK_V4, PORT);
    let table: &[(&str, AgentConfig, u8, Endpoint, bool, Verdict)] = &[
        (
            "redirect",
            config(),
            TCP,
            outside,
            false,
            Redirect(Reason::Redirected),
        ),
        (
            "deny",
            deny,
            TCP,
            outside,
            false,
            Refuse(Reason::DirectConnect),
        ),
        (
            "datagram",
            config(),
            UDP,
            outside,
            false,
            Refuse(Reason::Datagram),
        ),
        (
            "dns",
            config(),
            UDP,
            resolver,
            false,
            Redirect(Reason::DnsRedirected),
        ),
        (
            "dns by tcp",
            config(),
            TCP,
            resolver,
            false,
            Redirect(Reason::DnsRedirected),
        ),
        (
            "dns in deny mode",
            deny,
            UDP,
            resolver,
            false,
            Redirect(Reason::DnsRedirected),
        ),
        (
            "dns off",
            no_dns,
            UDP,
            resolver,
            false,
            Refuse(Reason::Datagram),
        ),
        (
            "dns off by tcp",
            no_dns,
            TCP,
            resolver,
            false,
            Refuse(Reason::DirectConnect),
        ),
        ("gateway", deny, TCP, gateway, false, Pass(Reason::Gateway)),
        (
            "gateway by v6",
            deny,
            TCP,
            Endpoint::new(LOOPBACK_V6, PORT),
            false,
            Pass(Reason::Gateway),
        ),
        (
            "gateway's dns",
            deny,
            UDP,
            gateway,
            false,
            Pass(Reason::Gateway),
        ),
        (
            "another loopback address",
            deny,
            TCP,
            v4([127, 0, 0, 2], PORT),
            false,
            Refuse(Reason::DirectConnect),
        ),
        (
            "any address",
            deny,
            TCP,
            v4([0, 0, 0, 0], PORT),
            false,
            Refuse(Reason::DirectConnect),
        ),
        (
            "declared",
            deny,
            TCP,
            local,
            true,
            Pass(Reason::DeclaredLoopback),
        ),
        (
            "not declared",
            deny,
            TCP,
            local,
            false,
            Refuse(Reason::DirectConnect),
        ),
        (
            "declared elsewhere",
            deny,
            TCP,
            v4([192, 0, 2, 1], 9229),
            true,
            Refuse(Reason::DirectConnect),
        ),
        (
            "declared by udp",
            deny,
            UDP,
            local,
            true,
            Refuse(Reason::Datagram),
        ),
        (
            "other protocol",
            config(),
            132,
            outside,
            false,
            Refuse(Reason::SocketType),
        ),
        (
            "other protocol to the gateway",
            config(),
            132,
            gateway,
            false,
            Refuse(Reason::SocketType),
        ),
    ];
    for (name, config, protocol, destination, declared, expected) in table {
        let verdict = decide::connect(config, *protocol, destination, *declared);
        assert_eq!(verdict, *expected, "{name}");
    }
}

#[test]
fn packets() {
    let gateway = Endpoint::new(LOOPBACK_V4, PORT);
    let here = Endpoint::new(LOOPBACK_V4, 40_000);
    let outside = v4([192, 0, 2, 1], 443);
    let inbound = |inbound| AgentConfig {
        inbound,
        ..config()
    };
    let draining = AgentConfig {
        draining_port: PORT - 1,
        ..config()
    };
    let (lo, eth) = (LOOPBACK_INTERFACE, 2);
    // Name, config, protocol, other end, interface, passive, declared, leaving, arriving.
    let refused = (Refuse(Reason::Destination), Refuse(Reason::InboundRefused));
    let off_loopback = (Refuse(Reason::Interface), Refuse(Reason::InboundRefused));
    let both = |reason| (Pass(reason), Pass(reason));
    type Row = (
        &'static str,
        AgentConfig,
        u8,
        Endpoint,
        u32,
        bool,
        bool,
        (Verdict, Verdict),
    );
    let table: &[Row] = &[
        (
            "gateway",
            config(),
            TCP,
            gateway,
            lo,
            false,
            false,
            both(Reason::Gateway),
        ),
        (
            "gateway's dns",
            config(),
            UDP,
            gateway,
            lo,
            false,
            false,
            both(Reason::Gateway),
        ),
        (
            "the gateway before this one",
            draining,
            TCP,
            Endpoint::new(LOOPBACK_V4, PORT - 1),
            lo,
            false,
            false,
            both(Reason::Draining),
        ),
        (
            "its dns",
            draining,
            UDP,
            Endpoint::new(LOOPBACK_V4, PORT - 1),
            lo,
            false,
            false,
            refused,
        ),
        (
            "another port beside it",
            draining,
            TCP,
            Endpoint::new(LOOPBACK_V4, PORT - 2),
            lo,
            false,
            false,
            refused,
        ),
        (
            "gateway's address elsewhere",
            config(),
            TCP,
            gateway,
            eth,
            false,
            false,
            off_loopback,
        ),
        (
            "outside",
            config(),
            TCP,
            outside,
            eth,
            false,
            false,
            off_loopback,
        ),
        (
            "outside by loopback",
            config(),
            TCP,
            outside,
            lo,
            false,
            false,
            refused,
        ),
        (
            "other local port",
            config(),
            TCP,
            here,
            lo,
            false,
            false,
            refused,
        ),
        (
            "declared",
            config(),
            TCP,
            here,
            lo,
            false,
            true,
            both(Reason::DeclaredLoopback),
        ),
        (
            "declared by udp",
            config(),
            UDP,
            here,
            lo,
            false,
            true,
            refused,
        ),
        (
            "passive, inbound denied",
            config(),
            TCP,
            here,
            lo,
            true,
            false,
            refused,
        ),
        (
            "passive, loopback",
            inbound(INBOUND_LOOPBACK),
            TCP,
            here,
            lo,
            true,
            false,
            both(Reason::Inbound),
        ),
        (
            "passive, loopback only",
            inbound(INBOUND_LOOPBACK),
            TCP,
            outside,
            eth,
            true,
            false,
            off_loopback,
        ),
        (
            "active, loopback",
            inbound(INBOUND_LOOPBACK),
            TCP,
            here,
            lo,
            false,
            false,
            refused,
        ),
        (
            "passive, allowed",
            inbound(INBOUND_ALLOW),
            TCP,
            outside,
            eth,
            true,
            false,
            both(Reason::Inbound),
        ),
        (
            "active, allowed",
            inbound(INBOUND_ALLOW),
            TCP,
            outside,
            eth,
            false,
            false,
            off_loopback,
        ),
        (
            "datagram, allowed",
            inbound(INBOUND_ALLOW),
            UDP,
            outside,
            eth,
            true,
            false,
            off_loopback,
        ),
    ];
    for (name, config, protocol, peer, interface, passive, declared, (out, back)) in table {
        let around = Surroundings {
            interface: *interface,
            passive: *passive,
            declared: *declared,
        };
        let header = |source, destination| Header {
            source,
            destination,
            protocol: *protocol,
        };
        let leaving = decide::egress(config, &header(here, *peer), around);
        assert_eq!(leaving, *out, "{name}, leaving");
        let arriving = decide::ingress(config, &header(*peer, here), around);
        assert_eq!(arriving, *back, "{name}, arriving");
    }
}

/// What nobody configured, or another build did, lets nothing through anywhere.
#[test]
fn no_configuration_is_a_refusal() {
    let other_abi = AgentConfig {
        abi: ABI_VERSION + 1,
        ..config()
    };
    for config in [AgentConfig::SHUT, other_abi] {
        let gateway = Endpoint::new(LOOPBACK_V4, config.gateway_port);
        let header = Header {
            source: gateway,
            destination: gateway,
            protocol: TCP,
        };
        let around = Surroundings {
            interface: LOOPBACK_INTERFACE,
            passive: true,
            declared: true,
        };
        let shut = Refuse(Reason::NotConfigured);
        assert_eq!(decide::socket(&config, STREAM, 6), shut);
        assert_eq!(decide::connect(&config, TCP, &gateway, true), shut);
        assert_eq!(decide::option(&config, 0, 1), shut);
        assert_eq!(decide::bind(&config, &gateway), shut);
        let null = Device {
            kind: DEVICE_CHARACTER,
            major: 1,
            minor: 3,
        };
        assert_eq!(decide::device(&config, &null, true), shut);
        assert_eq!(decide::unix(&config, UNIX_ANY, true), shut);
        let own = AgentConfig {
            features: FEATURE_OWN_LOOPBACK,
            ..config
        };
        assert!(!decide::may_be_own(
            &own,
            TCP,
            &Endpoint::new(LOOPBACK_V4, 1)
        ));
        assert!(!decide::may_be_own_packet(
            &own,
            &header,
            LOOPBACK_INTERFACE
        ));
        assert_eq!(decide::egress(&config, &header, around), shut);
        assert_eq!(decide::ingress(&config, &header, around), shut);
        assert!(!config.observes());
    }
}
