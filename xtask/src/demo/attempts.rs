//! What the agent tries, how each attempt must end, and whether it did.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::upstream::Arrived;

/// Who must stop an attempt, if anybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// Nobody: the upstream answers.
    Nobody,
    /// The gateway.
    Gateway,
    /// The kernel half.
    Kernel,
    /// The kernel itself, before the kernel half is asked: the agent has no capabilities.
    Privilege,
}

/// One attempt of `demo/agent.py`, and what must be true of it.
struct Attempt {
    /// As the agent calls it.
    name: &'static str,
    by: By,
    /// The fields of an audit record that must be there.
    record: &'static [(&'static str, &'static str)],
}

const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "https-get",
        by: By::Nobody,
        record: &[("kind", "connect"), ("outcome", "allow"), ("rule", "api")],
    },
    Attempt {
        name: "http-get",
        by: By::Nobody,
        record: &[
            ("kind", "http"),
            ("outcome", "allow"),
            ("path", "/guide/start"),
        ],
    },
    Attempt {
        name: "https-get-direct",
        by: By::Nobody,
        record: &[
            ("outcome", "allow"),
            ("original_destination", "192.0.2.2:443"),
        ],
    },
    Attempt {
        name: "http-method",
        by: By::Gateway,
        record: &[("outcome", "deny"), ("reason", "method_not_allowed")],
    },
    Attempt {
        name: "http-path",
        by: By::Gateway,
        record: &[("outcome", "deny"), ("reason", "path_not_allowed")],
    },
    Attempt {
        name: "http-host",
        by: By::Gateway,
        record: &[
            ("kind", "http"),
            ("outcome", "deny"),
            ("host", "paste.demo.internal"),
        ],
    },
    Attempt {
        name: "https-host",
        by: By::Gateway,
        record: &[
            ("kind", "connect"),
            ("outcome", "deny"),
            ("host", "paste.demo.internal"),
        ],
    },
    Attempt {
        name: "name-lookup",
        by: By::Gateway,
        record: &[
            ("kind", "dns"),
            ("outcome", "deny"),
            ("host", "paste.demo.internal"),
        ],
    },
    Attempt {
        name: "tcp-direct",
        by: By::Gateway,
        record: &[
            ("kind", "tcp"),
            ("outcome", "deny"),
            ("original_destination", "192.0.2.2:5432"),
        ],
    },
    Attempt {
        name: "dns-direct",
        by: By::Gateway,
        record: &[
            ("kind", "dns"),
            ("outcome", "deny"),
            ("host", "c2vjcmv0.paste.demo.internal"),
        ],
    },
    Attempt {
        name: "udp-direct",
        by: By::Kernel,
        record: &[
            ("source", "kernel"),
            ("outcome", "deny"),
            ("original_destination", "192.0.2.2:9999"),
        ],
    },
    Attempt {
        name: "mptcp-socket",
        by: By::Kernel,
        record: &[
            ("source", "kernel"),
            ("outcome", "deny"),
            ("method", "sock_create"),
        ],
    },
    Attempt {
        name: "ping-socket",
        by: By::Privilege,
        record: &[],
    },
    Attempt {
        name: "raw-socket",
        by: By::Privilege,
        record: &[],
    },
];

/// What the upstream must have been asked, and nothing else.
const REQUESTS: &[&str] = &[
    "GET https://api.demo.internal/v1/status",
    "GET http://docs.demo.internal/guide/start",
    "GET https://api.demo.internal/v1/status",
];

/// What the agent said about one attempt.
#[derive(Debug)]
pub(super) struct Seen {
    name: String,
    ended: String,
}

impl Seen {
    /// Reads a line of the agent's; none where it is something else, such as a traceback.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (name, ended) = (words.next()?, words.next()?);
        ATTEMPTS
            .iter()
            .any(|attempt| attempt.name == name)
            .then(|| Self {
                name: name.to_owned(),
                ended: ended.to_owned(),
            })
    }
}

impl By {
    /// How the agent sees it end.
    const fn ended(self) -> &'static str {
        match self {
            Self::Nobody => "answered",
            Self::Gateway => "refused",
            Self::Kernel | Self::Privilege => "blocked",
        }
    }
}

/// Prints what came out, and answers whether all of it is as it must be.
pub(super) fn judge(seen: &[Seen], audit: &str, arrived: &Arrived) -> Result<bool> {
    let records: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a record: {line}")))
        .collect::<Result<_>>()?;
    let faults = faults(seen, &records, arrived);
    let count = |by| ATTEMPTS.iter().filter(|attempt| attempt.by == by).count();
    println!(
        "Expected of {} attempts, and of what arrived:",
        ATTEMPTS.len()
    );
    println!("  {:>2}  allowed, and answered by nginx", count(By::Nobody));
    println!("  {:>2}  denied by the gateway", count(By::Gateway));
    println!(
        "  {:>2}  denied in the kernel, by Sluice's programs",
        count(By::Kernel)
    );
    println!(
        "  {:>2}  denied in the kernel, for want of privilege",
        count(By::Privilege)
    );
    println!(
        "  {:>2}  requests in nginx's log; nothing else reached it, on any socket",
        REQUESTS.len()
    );
    if faults.is_empty() {
        println!("All of it is so; the audit file has a record of each decision.");
    }
    for fault in &faults {
        println!("NOT SO: {fault}");
    }
    Ok(faults.is_empty())
}

/// Everything that is not as it must be.
fn faults(seen: &[Seen], records: &[Value], arrived: &Arrived) -> Vec<String> {
    let mut faults = Vec::new();
    for Attempt { name, by, record } in ATTEMPTS {
        match seen.iter().find(|seen| seen.name == *name) {
            None => faults.push(format!("{name} was not tried")),
            Some(Seen { ended, .. }) if ended != by.ended() => {
                faults.push(format!("{name} was {ended}; it must be {}", by.ended()));
            }
            Some(_) => {}
        }
        if !record.is_empty() && !records.iter().any(|found| has(found, record)) {
            faults.push(format!("{name} has no audit record with {record:?}"));
        }
    }
    if arrived.requests != REQUESTS {
        faults.push(format!("nginx was asked {:?}", arrived.requests));
    }
    faults.extend(
        arrived
            .strays
            .iter()
            .map(|stray| format!("{stray} arrived")),
    );
    faults
}

/// Whether a record has all these fields.
fn has(record: &Value, fields: &[(&str, &str)]) -> bool {
    fields
        .iter()
        .all(|(name, value)| record.get(name).and_then(Value::as_str) == Some(value))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::{ATTEMPTS, Arrived, By, REQUESTS, Seen, faults};

    /// What the demo looks like when everything holds.
    fn good() -> (Vec<Seen>, Vec<Value>, Arrived) {
        let seen = ATTEMPTS.iter().map(|attempt| Seen {
            name: attempt.name.to_owned(),
            ended: attempt.by.ended().to_owned(),
        });
        let records = ATTEMPTS.iter().map(|attempt| {
            let fields = attempt.record.iter();
            let fields = fields.map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
            Value::Object(fields.collect::<Map<_, _>>())
        });
        let arrived = Arrived {
            requests: REQUESTS
                .iter()
                .map(|request| (*request).to_owned())
                .collect(),
            strays: Vec::new(),
        };
        (seen.collect(), records.collect(), arrived)
    }

    #[test]
    fn a_demo_in_which_everything_holds_has_no_fault() {
        let (seen, records, arrived) = good();
        assert_eq!(faults(&seen, &records, &arrived), [""; 0]);
    }

    #[test]
    fn each_attempt_that_ends_otherwise_is_a_fault() {
        for (number, attempt) in ATTEMPTS.iter().enumerate() {
            let (mut seen, records, arrived) = good();
            seen[number].ended = match attempt.by {
                By::Nobody => "refused",
                By::Gateway | By::Kernel | By::Privilege => "answered",
            }
            .to_owned();
            assert_eq!(
                faults(&seen, &records, &arrived).len(),
                1,
                "{}",
                attempt.name
            );
            seen.remove(number);
            assert_eq!(
                faults(&seen, &records, &arrived).len(),
                1,
                "{}",
                attempt.name
            );
        }
    }

    #[test]
    fn a_missing_record_is_a_fault() {
        for (number, attempt) in ATTEMPTS.iter().enumerate() {
            let (seen, mut records, arrived) = good();
            records.remove(number);
            let expected = usize::from(!attempt.record.is_empty());
            assert_eq!(
                faults(&seen, &records, &arrived).len(),
                expected,
                "{}",
                attempt.name
            );
        }
    }

    #[test]
    fn what_reached_the_upstream_and_must_not_is_a_fault() {
        let (seen, records, mut arrived) = good();
        arrived
            .requests
            .push("GET http://docs.demo.internal/admin/users".to_owned());
        arrived.strays.push("a datagram to port 53".to_owned());
        assert_eq!(faults(&seen, &records, &arrived).len(), 2);
    }

    #[test]
    fn lines_that_are_no_attempt_are_passed_over() {
        assert!(Seen::parse("Traceback (most recent call last):").is_none());
        assert!(Seen::parse("").is_none());
        let seen = Seen::parse("udp-direct        blocked   EPERM: no").expect("an attempt");
        assert_eq!(
            (seen.name.as_str(), seen.ended.as_str()),
            ("udp-direct", "blocked")
        );
    }
}
