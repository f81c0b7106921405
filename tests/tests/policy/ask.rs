//! Requests as the rows of a table have them.

use gateway_userspace::{
    names::{Host, HostName},
    policy::{Decision, Denial, Facts, OwnedFacts, Policy, PolicyErrors, Query, Request},
};

/// A policy of these rules.
pub(crate) fn rules(text: &str) -> Result<Policy, PolicyErrors> {
    Policy::parse("rules.toml", &format!("schema = 1\nagent = \"a\"\n{text}"))
}

pub(crate) fn host(text: &str) -> Host {
    Host::parse(text).expect("a host")
}

pub(crate) fn name(text: &str) -> HostName {
    HostName::parse(text).expect("a name")
}

/// What is asked, from which an owned request can be borrowed.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Connect(&'static str, u16),
    Http(&'static str, u16, &'static str, &'static str),
    #[allow(dead_code, reason = "not every table asks so")]
    Web(&'static str, &'static str, OwnedFacts),
    Tls(&'static str, u16),
    Tcp(&'static str, &'static [&'static str]),
    Dns(&'static str, u16),
}

/// Verdict, reason if any, and rule if any: `allow plain`, `deny no_rule -`.
pub(crate) fn verdict(policy: &Policy, ask: &Ask) -> String {
    with_request(ask, |request| {
        let decision = policy.decide(request);
        let explained = policy.explain(request).decision;
        assert_eq!(decision, explained, "decide and explain on {request:?}");
        let refused = |word: &str, denial: &Denial| {
            assert!(!denial.hint.is_empty());
            let rule = denial.rule.as_ref().map_or("-", |rule| rule.as_str());
            format!("{word} {} {rule}", denial.reason.label())
        };
        match decision {
            Decision::Allow(grant) => {
                let rule = grant.rule().map_or("-", |rule| rule.as_str());
                match grant.observed() {
                    Some(denial) => format!("observe {}", denial.reason.label()),
                    None => format!("allow {rule}"),
                }
            }
            Decision::Approve(denial) => refused("approve", &denial),
            Decision::Deny(denial) => refused("deny", &denial),
        }
    })
}

pub(crate) fn with_request<T>(ask: &Ask, use_it: impl FnOnce(&Request<'_>) -> T) -> T {
    match ask {
        Ask::Connect(named, port) => use_it(&Request::Connect {
            host: &host(named),
            port: *port,
        }),
        Ask::Http(named, port, method, path) => use_it(&Request::Http {
            host: &host(named),
            port: *port,
            method,
            path,
            facts: &Facts::default(),
        }),
        Ask::Web(url, method, facts) => {
            let mut query = Query::http(url, method).expect("a URL");
            if let Query::Http { facts: found, .. } = &mut query {
                let (scheme, query) = (found.scheme, found.query.clone());
                *found = OwnedFacts {
                    scheme,
                    query,
                    ..facts.clone()
                };
            }
            query.with(use_it)
        }
        Ask::Tls(named, port) => use_it(&Request::Tls {
            host: &host(named),
            port: *port,
        }),
        Ask::Tcp(destination, names) => {
            let names: Vec<HostName> = names.iter().map(|text| name(text)).collect();
            use_it(&Request::Tcp {
                destination: destination.parse().expect("an address with a port"),
                names: &names,
            })
        }
        Ask::Dns(asked, record_type) => use_it(&Request::Dns {
            name: &name(asked),
            record_type: *record_type,
        }),
    }
}
