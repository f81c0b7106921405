//! Policy tables: for each request the verdict, the reason and the rule, each allow beside its
//! nearest deny.

use std::net::IpAddr;

use gateway_userspace::{
    names::HostName,
    policy::{Decision, Outcome, Policy},
};
use proptest::prelude::*;

mod policy {
    pub(crate) mod ask;
}

use policy::ask::{Ask, host, rules, verdict, with_request};

const TABLE: &str = include_str!("policy/table.toml");
const A: u16 = 1;
const TXT: u16 = 16;

fn table() -> Policy {
    parse(TABLE)
}

fn parse(text: &str) -> Policy {
    Policy::parse("table.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn each_request_has_its_verdict_reason_and_rule() {
    use Ask::{Connect, Dns, Http, Tcp, Tls};
    let policy = table();
    for (ask, expected) in [
        // Hosts and ports.
        (Http("example.com", 80, "POST", "/x"), "allow plain"),
        (Http("EXAMPLE.com.", 80, "POST", "/x"), "allow plain"),
        (
            Http("example.com", 81, "POST", "/x"),
            "deny port_not_allowed plain",
        ),
        (Http("www.example.com", 80, "GET", "/"), "deny no_rule -"),
        (Http("example.org", 80, "GET", "/"), "deny no_rule -"),
        (Tls("example.com", 443), "allow plain"),
        (Tls("example.com", 8443), "allow plain-private"),
        (Tls("example.com", 8444), "deny port_not_allowed plain"),
        (Connect("example.com", 443), "allow plain"),
        (Connect("example.com", 22), "deny port_not_allowed plain"),
        (Connect("example.org", 443), "deny no_rule -"),
        // Methods and paths; the query is not part of the path.
        (
            Http("api.example.net", 80, "GET", "/repos/acme/x/y"),
            "allow reads",
        ),
        (
            Http("api.example.net", 8080, "HEAD", "/users/me"),
            "allow reads",
        ),
        (
            Http("api.example.net", 80, "POST", "/repos/acme/x"),
            "deny method_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "get", "/repos/acme/x"),
            "deny method_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/repos/other/x"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/users/me/keys"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/users/"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 443, "GET", "/users/me"),
            "deny port_not_allowed reads",
        ),
        // Paths that servers read in different ways.
        (
            Http("api.example.net", 80, "GET", "/repos/acme/../x"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/repos/acme/%2e%2e/x"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/repos/acme/..%2fx"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/repos/acme/..;/x"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "/repos/acme//x"),
            "deny path_not_allowed reads",
        ),
        (
            Http("api.example.net", 80, "GET", "*"),
            "deny path_not_allowed reads",
        ),
        // A rule without paths takes them.
        (Http("example.com", 80, "GET", "/a/../b"), "allow plain"),
        (Http("example.com", 80, "OPTIONS", "*"), "allow plain"),
        // What TLS hides is refused, also where the port was written out.
        (Tls("api.example.net", 8080), "deny needs_inspection reads"),
        (Connect("api.example.net", 8080), "allow reads"),
        (
            Connect("api.example.net", 443),
            "deny port_not_allowed reads",
        ),
        // Addresses, in every spelling that is one.
        (Http("192.0.79.32", 80, "GET", "/users/me"), "allow reads"),
        (
            Http("[::ffff:192.0.79.32]", 80, "GET", "/users/me"),
            "allow reads",
        ),
        (
            Http("192.0.79.33", 80, "GET", "/users/me"),
            "deny no_rule -",
        ),
        // Wildcards.
        (Tls("a.one.example", 443), "allow one-label"),
        (Tls("one.example", 443), "deny no_rule -"),
        (Tls("a.b.one.example", 443), "deny no_rule -"),
        (Tls("a.any.example", 443), "allow any-depth"),
        (Tls("a.b.c.any.example", 443), "allow any-depth"),
        (Tls("any.example", 443), "deny no_rule -"),
        (Tls("xany.example", 443), "deny no_rule -"),
        (Tls("a.any.example", 80), "deny port_not_allowed any-depth"),
        (Tls("xn--bcher-kva.example", 443), "allow idn"),
        (Tls("bcher.example", 443), "deny no_rule -"),
        // Raw TCP by address, by name, by wildcard.
        (Tcp("10.1.2.3:5432", &[]), "allow pg"),
        (Tcp("[::ffff:10.1.2.3]:5432", &[]), "allow pg"),
        (Tcp("[fd00::5]:5432", &[]), "allow pg"),
        (Tcp("10.1.2.3:5433", &[]), "deny port_not_allowed pg"),
        (Tcp("10.1.2.4:5432", &[]), "deny no_rule -"),
        (Tcp("10.1.2.4:5432", &["db.acme.internal"]), "allow pg"),
        (
            Tcp("10.1.2.4:5432", &["x.acme.internal", "db.acme.internal"]),
            "allow pg",
        ),
        (Tcp("10.1.2.4:5432", &["x.acme.internal"]), "deny no_rule -"),
        (
            Tcp("1.1.1.1:6379", &["a.shards.acme.internal"]),
            "allow shards",
        ),
        (
            Tcp("1.1.1.1:6379", &["shards.acme.internal"]),
            "deny no_rule -",
        ),
        // A rule over HTTP and TLS takes no other bytes.
        (Tcp("1.1.1.1:443", &["example.com"]), "deny no_rule plain"),
        // A rule over raw TCP takes any bytes.
        (Tls("redis.example.com", 6379), "allow shards"),
        (Http("redis.example.com", 6379, "GET", "/"), "allow shards"),
        (Connect("redis.example.com", 6379), "allow shards"),
        (
            Connect("redis.example.com", 6380),
            "deny port_not_allowed shards",
        ),
        // Names that some rule could allow.
        (Dns("example.com", A), "allow plain"),
        (Dns("db.acme.internal", A), "allow pg"),
        (Dns("a.shards.acme.internal", 28), "allow shards"),
        (Dns("example.com", 65), "allow plain"),
        (Dns("example.com", TXT), "deny dns_type -"),
        (Dns("example.org", A), "deny no_rule -"),
        (Dns("shards.acme.internal", A), "deny no_rule -"),
    ] {
        assert_eq!(verdict(&policy, &ask), expected, "{ask:?}");
    }
}

#[test]
fn dns_modes() {
    use Ask::Dns;
    let off = rules("[dns]\nmode = \"off\"\n[[egress]]\nid = \"x\"\nhosts = [\"example.com\"]")
        .expect("a policy");
    assert_eq!(verdict(&off, &Dns("example.com", A)), "deny dns_off -");
    let any = rules("[dns]\nmode = \"any\"\ndeny_types = [\"MX\", \"TYPE99\"]").expect("a policy");
    assert_eq!(verdict(&any, &Dns("example.org", A)), "allow -");
    assert_eq!(verdict(&any, &Dns("example.org", TXT)), "allow -");
    assert_eq!(verdict(&any, &Dns("example.org", 15)), "deny dns_type -");
    assert_eq!(verdict(&any, &Dns("example.org", 99)), "deny dns_type -");
}

#[test]
fn observe_mode_lets_pass_what_it_would_refuse() {
    let policy = table().with_observe();
    assert_eq!(policy.digest(), table().digest());
    let ask = Ask::Http("example.com", 80, "GET", "/");
    assert_eq!(verdict(&policy, &ask), "allow plain");
    let ask = Ask::Http("example.org", 80, "GET", "/");
    assert_eq!(verdict(&policy, &ask), "observe no_rule");
    let ask = Ask::Dns("example.com", TXT);
    assert_eq!(verdict(&policy, &ask), "observe dns_type");
}

/// Addresses dialled and rule, or reason and rule.
fn pinned(policy: &Policy, ask: &Ask, to: &str, port: u16, addresses: &[&str]) -> String {
    let Decision::Allow(grant) = with_request(ask, |request| policy.decide(request)) else {
        panic!("{ask:?} is refused before its addresses count");
    };
    let addresses: Vec<IpAddr> = addresses
        .iter()
        .map(|text| text.parse().expect("an address"))
        .collect();
    match grant.pin(&host(to), port, &addresses) {
        Ok(permit) => {
            assert!(!permit.addresses().is_empty());
            let addresses: Vec<String> =
                permit.addresses().iter().map(ToString::to_string).collect();
            let rule = permit.rule().map_or("-", |rule| rule.as_str());
            let observed = permit.observed().map_or_else(String::new, |denial| {
                format!(" observed {}", denial.reason.label())
            });
            format!("{} by {rule}{observed}", addresses.join(" "))
        }
        Err(denial) => {
            let rule = denial.rule.as_ref().map_or("-", |rule| rule.as_str());
            format!("deny {} {rule}", denial.reason.label())
        }
    }
}

#[test]
fn addresses_are_held_to_the_rule() {
    let policy = table();
    let plain = || Ask::Http("example.com", 80, "GET", "/");
    let tls = || Ask::Tls("example.com", 443);
    let pg = || Ask::Connect("db.acme.internal", 5432);
    let metadata = || Ask::Http("metadata.example", 80, "GET", "/");
    for (ask, to, port, addresses, expected) in [
        (
            plain(),
            "example.com",
            80,
            &["1.1.1.1", "2606:4700::1"][..],
            "1.1.1.1:80 [2606:4700::1]:80 by plain",
        ),
        // What is not fit is left out, in whatever spelling.
        (
            plain(),
            "example.com",
            80,
            &["10.0.0.1", "1.1.1.1"],
            "1.1.1.1:80 by plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["::ffff:1.1.1.1"],
            "1.1.1.1:80 by plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["10.0.0.1"],
            "deny private_address plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["127.0.0.1", "::1"],
            "deny private_address plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["::ffff:127.0.0.1"],
            "deny private_address plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["64:ff9b::7f00:1"],
            "deny private_address plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["0.0.0.0"],
            "deny private_address plain",
        ),
        (
            plain(),
            "example.com",
            80,
            &["10.0.0.1", "169.254.169.254"],
            "deny metadata_address plain",
        ),
        (plain(), "example.com", 80, &[], "deny no_address plain"),
        // A later rule that allows the same request may allow more addresses.
        (
            tls(),
            "example.com",
            443,
            &["1.1.1.1"],
            "1.1.1.1:443 by plain",
        ),
        (
            tls(),
            "example.com",
            443,
            &["10.0.0.1"],
            "10.0.0.1:443 by plain-private",
        ),
        (
            tls(),
            "example.com",
            443,
            &["1.1.1.1", "10.0.0.1"],
            "1.1.1.1:443 10.0.0.1:443 by plain-private",
        ),
        // `private = true` opens this site, but no metadata service and nothing senseless.
        (
            pg(),
            "db.acme.internal",
            5432,
            &["10.9.9.9"],
            "10.9.9.9:5432 by pg",
        ),
        (
            pg(),
            "db.acme.internal",
            5432,
            &["169.254.169.254"],
            "deny metadata_address pg",
        ),
        (
            pg(),
            "db.acme.internal",
            5432,
            &["fd00:ec2::254"],
            "deny metadata_address pg",
        ),
        (
            pg(),
            "db.acme.internal",
            5432,
            &["100.100.100.200"],
            "deny metadata_address pg",
        ),
        (
            pg(),
            "db.acme.internal",
            5432,
            &["0.0.0.0"],
            "deny private_address pg",
        ),
        (
            pg(),
            "db.acme.internal",
            5432,
            &["224.0.0.1"],
            "deny private_address pg",
        ),
        // The rule names the address of the service itself.
        (
            metadata(),
            "metadata.example",
            80,
            &["169.254.169.254"],
            "169.254.169.254:80 by metadata",
        ),
        (
            metadata(),
            "metadata.example",
            80,
            &["169.254.170.2"],
            "deny metadata_address metadata",
        ),
        // An address stands for itself, whatever it is said to have been resolved to.
        (
            Ask::Http("169.254.169.254", 80, "GET", "/"),
            "169.254.169.254",
            80,
            &["1.1.1.1"],
            "169.254.169.254:80 by metadata",
        ),
        (
            Ask::Tcp("10.1.2.3:5432", &[]),
            "10.1.2.3",
            5432,
            &[],
            "10.1.2.3:5432 by pg",
        ),
    ] {
        let found = pinned(&policy, &ask, to, port, addresses);
        assert_eq!(found, expected, "{ask:?} at {addresses:?}");
    }
}

#[test]
fn observe_mode_lets_unfit_addresses_pass() {
    let policy = table().with_observe();
    let ask = Ask::Http("example.com", 80, "GET", "/");
    for (addresses, expected) in [
        (
            &["10.0.0.1"][..],
            "10.0.0.1:80 by - observed private_address",
        ),
        (&["10.0.0.1", "1.1.1.1"], "1.1.1.1:80 by plain"),
        // There is nothing that could be dialled.
        (&[], "deny no_address plain"),
    ] {
        let found = pinned(&policy, &ask, "example.com", 80, addresses);
        assert_eq!(found, expected, "{addresses:?}");
    }
    let refused = Ask::Http("example.org", 80, "GET", "/");
    let found = pinned(&policy, &refused, "example.org", 80, &["10.0.0.1"]);
    assert_eq!(found, "10.0.0.1:80 by - observed no_rule");
}

#[test]
fn the_proxy_can_ask_about_ports() {
    let policy = table();
    let names = |port| -> Vec<&str> { policy.tcp_names(port).map(HostName::as_str).collect() };
    assert_eq!(names(5432), ["db.acme.internal"]);
    assert_eq!(names(6379), ["redis.example.com"]);
    assert_eq!(names(443), Vec::<&str>::new());
    assert!(policy.tcp_pattern_possible(6379) && !policy.tcp_pattern_possible(5432));
    assert!(policy.sniffs(443) && policy.sniffs(8080));
    assert!(!policy.sniffs(5432) && !policy.sniffs(9229));
}

#[test]
fn shipped_policies_do_what_they_say() {
    use Ask::{Dns, Http, Tls};
    let coding = parse(include_str!("../../policies/coding-agent.toml"));
    assert_eq!(
        verdict(&coding, &Tls("static.crates.io", 443)),
        "allow crates"
    );
    assert_eq!(verdict(&coding, &Tls("github.com", 443)), "allow github");
    assert_eq!(
        verdict(&coding, &Tls("gist.github.com", 443)),
        "deny no_rule -"
    );
    let research = parse(include_str!("../../policies/research-agent.toml"));
    let ask = Http("example.com", 80, "GET", "/");
    assert_eq!(verdict(&research, &ask), "allow read-plain");
    let ask = Http("example.com", 80, "POST", "/");
    assert_eq!(
        verdict(&research, &ask),
        "deny method_not_allowed read-plain"
    );
    // TLS is opened, and only reading is allowed inside.
    assert!(research.inspects(&host("docs.rs"), 443));
    let ask = Http("docs.rs", 443, "GET", "/");
    assert_eq!(verdict(&research, &ask), "allow documentation");
    let ask = Http("docs.rs", 443, "POST", "/");
    assert_eq!(
        verdict(&research, &ask),
        "deny method_not_allowed documentation"
    );
    assert_eq!(
        verdict(&research, &Tls("example.com", 443)),
        "deny port_not_allowed read-plain"
    );
    let locked = Policy::locked_down();
    assert_eq!(verdict(&locked, &Tls("example.com", 443)), "deny no_rule -");
    assert_eq!(verdict(&locked, &Dns("example.com", A)), "deny no_rule -");
}

/// Small worlds, in which rules and requests meet often.
const HOSTS: [&str; 9] = [
    "a.example",
    "b.a.example",
    "c.b.a.example",
    "*.a.example",
    "**.a.example",
    "**.b.a.example",
    "1.1.1.1",
    "2606:4700::1",
    "8.8.8.8",
];
const PORTS: [u16; 3] = [80, 8080, 443];

prop_compose! {
    fn any_rule()(
        hosts in proptest::sample::subsequence(&HOSTS[..], 1..4),
        tcp in any::<bool>(),
        port in proptest::sample::select(&PORTS[..]),
        method in any::<bool>(),
        path in any::<bool>(),
        private in any::<bool>(),
    ) -> String {
        let limited = port != 443;
        let mut rule = format!("private = {private}\n");
        if tcp {
            let hosts: Vec<String> = hosts
                .iter()
                .map(|host| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
                .collect();
            rule += &format!("tcp = {hosts:?}\n");
        } else {
            rule += &format!("hosts = {hosts:?}\nports = [{port}]\n");
            if method && limited { rule += "methods = [\"GET\"]\n"; }
            if path && limited { rule += "paths = [\"/a/**\"]\n"; }
        }
        rule
    }
}

prop_compose! {
    fn any_ask()(
        named in proptest::sample::select(vec![
            "a.example", "b.a.example", "c.b.a.example", "d.c.b.a.example", "x.example",
            "1.1.1.1", "[2606:4700::1]", "8.8.8.8", "9.9.9.9",
        ]),
        port in proptest::sample::select(&PORTS[..]),
        kind in 0..5,
        method in proptest::sample::select(vec!["GET", "POST"]),
        path in proptest::sample::select(vec!["/a/b", "/b", "/a/../b"]),
    ) -> Ask {
        let address = host(named).address();
        match (kind, address) {
            (0, _) => Ask::Connect(named, port),
            (1, _) => Ask::Http(named, port, method, path),
            (2, _) => Ask::Tls(named, port),
            (3, Some(IpAddr::V4(_))) => Ask::Tcp("1.1.1.1:80", &["b.a.example", "a.example"]),
            (3, Some(IpAddr::V6(_))) => Ask::Tcp("[2606:4700::1]:8080", &[]),
            (3, None) => Ask::Tcp("9.9.9.9:443", &["c.b.a.example"]),
            (_, None) => Ask::Dns(named, A),
            (_, Some(_)) => Ask::Dns("b.a.example", A),
        }
    }
}

proptest! {
    /// `decide` finds rules by its index, `explain` walks over all of them.
    #[test]
    fn the_index_hides_no_rule(
        bodies in proptest::collection::vec(any_rule(), 0..8),
        asks in proptest::collection::vec(any_ask(), 8),
    ) {
        let text: String = bodies
            .iter()
            .enumerate()
            .map(|(n, body)| format!("[[egress]]\nid = \"r{n}\"\n{body}"))
            .collect();
        let policy = rules(&text).expect("a policy");
        for ask in &asks {
            let (decision, tried) = with_request(ask, |request| {
                (policy.decide(request), policy.explain(request).tried)
            });
            let best = tried.iter().map(|tried| tried.outcome).max();
            let first = tried.iter().find(|tried| Some(tried.outcome) == best);
            match decision {
                Decision::Allow(grant) => {
                    prop_assert_eq!(best, Some(Outcome::Allows));
                    prop_assert_eq!(grant.rule(), first.map(|tried| &tried.rule));
                }
                Decision::Approve(denial) | Decision::Deny(denial) => {
                    prop_assert_ne!(best, Some(Outcome::Allows));
                    let nearest = first.filter(|tried| tried.outcome > Outcome::OtherHost);
                    prop_assert_eq!(denial.rule.as_ref(), nearest.map(|tried| &tried.rule));
                }
            }
        }
    }
}
