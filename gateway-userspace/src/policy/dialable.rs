//! What may be dialled at all, whoever asks: the bound on a gateway that is not believed.

use std::net::{IpAddr, SocketAddr};

use super::{Action, AddressClass, HostPattern, Mode, Policy, Rule, classify};
use crate::names::Host;

impl Policy {
    /// Whether some rule could lead to a connection to this address. The name that leads there
    /// is not looked at, since it is only the asker's word: an address that no rule with this
    /// port excludes will do.
    #[must_use]
    pub fn could_dial(&self, address: SocketAddr) -> bool {
        let node = self.node.as_ref();
        if node.is_some_and(|node| !node.policy.could_dial(address)) {
            return false;
        }
        let ip = address.ip().to_canonical();
        let class = classify(ip);
        if self.own_mode() == Mode::Observe || self.is_proxy(ip, address.port()) {
            return true;
        }
        let opening = |rule: &&Rule| rule.action != Action::Deny;
        self.rules().iter().filter(opening).any(|rule| {
            let class_fits = match (class, &rule.private) {
                (AddressClass::Public, _) | (AddressClass::Private, Some(_)) => true,
                (AddressClass::Metadata, Some(named)) => named.contains(&ip),
                (AddressClass::Private | AddressClass::Metadata, None)
                | (AddressClass::Never, _) => false,
            };
            class_fits
                && rule.targets.iter().any(|target| {
                    let host_fits = match &target.hosts {
                        HostPattern::Exact(Host::Address(named)) => named.to_canonical() == ip,
                        HostPattern::Exact(Host::Name(name)) => {
                            let fixed = self.upstream().resolve.get(name);
                            fixed.is_none_or(|fixed| fixed.contains(&ip))
                        }
                        HostPattern::Child(_) | HostPattern::Descendant(_) => true,
                    };
                    host_fits && target.ports.contains(&address.port())
                })
        })
    }

    /// Whether this could be the proxy upstream.
    fn is_proxy(&self, ip: IpAddr, port: u16) -> bool {
        self.upstream().proxy.as_ref().is_some_and(|proxy| {
            let host_fits = match &proxy.host {
                Host::Address(named) => named.to_canonical() == ip,
                Host::Name(name) => {
                    let fixed = self.upstream().resolve.get(name);
                    fixed.is_none_or(|fixed| fixed.contains(&ip))
                }
            };
            host_fits && proxy.port == port && classify(ip) != AddressClass::Never
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_some_rule_leaves_open() {
        let policy = Policy::parse(
            "test",
            "schema = 1\nagent = \"a\"\n\
             [[egress]]\nid = \"web\"\nhosts = [\"example.com\"]\nports = [443]\n\
             [[egress]]\nid = \"db\"\nhosts = [\"db.example.com\"]\nports = [5432]\nprivate = true\n\
             [[egress]]\nid = \"ip\"\nhosts = [\"192.0.2.9\"]\nports = [81]\nprivate = true\n\
             [[egress]]\nid = \"no\"\nhosts = [\"example.com\"]\nports = [82]\naction = \"deny\"\n\
             [upstream]\nresolve = { \"db.example.com\" = \"10.0.0.5\" }\n",
        )
        .unwrap();
        for (address, expected) in [
            ("8.8.8.8:443", true),
            ("8.8.8.8:80", false),
            ("8.8.8.8:5432", false),
            ("8.8.8.8:82", false),
            ("10.0.0.5:5432", true),
            ("10.0.0.6:5432", false),
            ("10.0.0.5:443", false),
            ("[::ffff:10.0.0.5]:443", false),
            ("169.254.169.254:443", false),
            ("127.0.0.1:443", false),
            ("192.0.2.9:81", true),
            ("192.0.2.8:81", false),
            ("0.0.0.0:443", false),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(policy.could_dial(address), expected, "{address}");
        }
    }
}
