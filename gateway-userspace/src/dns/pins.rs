//! Which names an agent was given which addresses for, so that a connection by address can be
//! decided on the name that it means.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use crate::names::{AgentId, HostName};

/// What agents were told, bounded in number and time.
#[derive(Debug)]
pub(crate) struct Pins {
    per_agent: usize,
    lifetime: Duration,
    agents: HashMap<AgentId, HashMap<(IpAddr, HostName), Instant>>,
}

impl Pins {
    /// Nothing told yet.
    pub(crate) fn new(per_agent: usize, lifetime: Duration) -> Self {
        Self {
            per_agent,
            lifetime,
            agents: HashMap::new(),
        }
    }

    /// Remembers an answer.
    pub(crate) fn remember(
        &mut self,
        agent: &AgentId,
        name: &HostName,
        addresses: &[IpAddr],
        now: Instant,
    ) {
        let told = self.agents.entry(agent.clone()).or_default();
        for address in addresses {
            let pin = (address.to_canonical(), name.clone());
            if !told.contains_key(&pin) && told.len() >= self.per_agent {
                told.retain(|_, expires| *expires > now);
                if told.len() >= self.per_agent {
                    forget_oldest(told);
                }
            }
            told.insert(pin, now + self.lifetime);
        }
    }

    /// The names for which this agent was given this address.
    pub(crate) fn names(&self, agent: &AgentId, address: IpAddr, now: Instant) -> Vec<HostName> {
        let address = address.to_canonical();
        self.agents
            .get(agent)
            .into_iter()
            .flatten()
            .filter(|((told, _), expires)| *told == address && **expires > now)
            .map(|((_, name), _)| name.clone())
            .collect()
    }
}

fn forget_oldest(told: &mut HashMap<(IpAddr, HostName), Instant>) {
    let oldest = told.iter().min_by_key(|(_, expires)| **expires);
    if let Some(oldest) = oldest.map(|(pin, _)| pin.clone()) {
        told.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn pins_are_per_agent_and_expire() {
        let (one, other) = (
            AgentId::parse("one").unwrap(),
            AgentId::parse("other").unwrap(),
        );
        let (start, lifetime) = (Instant::now(), Duration::from_secs(60));
        let mut pins = Pins::new(8, lifetime);
        pins.remember(
            &one,
            &name("a.example"),
            &[ip("192.0.2.1"), ip("192.0.2.2")],
            start,
        );
        pins.remember(&one, &name("b.example"), &[ip("::ffff:192.0.2.1")], start);
        let mut found = pins.names(&one, ip("192.0.2.1"), start);
        found.sort();
        assert_eq!(found, [name("a.example"), name("b.example")]);
        assert!(pins.names(&other, ip("192.0.2.1"), start).is_empty());
        assert!(pins.names(&one, ip("192.0.2.3"), start).is_empty());
        let last = start + lifetime - Duration::from_nanos(1);
        assert_eq!(pins.names(&one, ip("192.0.2.2"), last).len(), 1);
        assert!(
            pins.names(&one, ip("192.0.2.2"), start + lifetime)
                .is_empty()
        );
    }

    #[test]
    fn at_the_limit_the_oldest_goes() {
        let one = AgentId::parse("one").unwrap();
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut pins = Pins::new(2, second * 60);
        let known = |pins: &Pins, address| pins.names(&one, ip(address), start + second * 2).len();
        pins.remember(&one, &name("a.example"), &[ip("192.0.2.1")], start);
        pins.remember(&one, &name("a.example"), &[ip("192.0.2.2")], start + second);
        assert_eq!(
            (known(&pins, "192.0.2.1"), known(&pins, "192.0.2.2")),
            (1, 1)
        );
        // Telling it again needs no room.
        pins.remember(
            &one,
            &name("a.example"),
            &[ip("192.0.2.1")],
            start + second * 2,
        );
        assert_eq!(
            (known(&pins, "192.0.2.1"), known(&pins, "192.0.2.2")),
            (1, 1)
        );
        pins.remember(
            &one,
            &name("a.example"),
            &[ip("192.0.2.3")],
            start + second * 2,
        );
        assert_eq!(
            (known(&pins, "192.0.2.1"), known(&pins, "192.0.2.2")),
            (1, 0)
        );
        assert_eq!(known(&pins, "192.0.2.3"), 1);
    }
}
