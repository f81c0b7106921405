//! From a policy to the constants that an agent's programs are loaded with.

use gateway_common::{
    ABI_VERSION, LOOPBACK_PORTS_MAX,
    agent::{
        AgentConfig, DIRECT_DENY, DIRECT_REDIRECT, DNS_GATEWAY, DNS_OFF, INBOUND_ALLOW,
        INBOUND_DENY, INBOUND_LOOPBACK, MODE_ENFORCE, MODE_OBSERVE,
    },
};

use crate::policy::{Direct, DnsMode, Inbound, Mode, Policy};

/// What the programs of one agent are loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    pub(super) config: AgentConfig,
    pub(super) loopback: [u16; LOOPBACK_PORTS_MAX],
}

impl AgentSpec {
    /// Constants that deny everything, for probing.
    pub(super) const fn shut() -> Self {
        Self {
            config: AgentConfig::SHUT,
            loopback: [0; LOOPBACK_PORTS_MAX],
        }
    }

    /// The constants for an agent under `policy` whose gateway listens on `port`.
    #[must_use]
    pub fn new(policy: &Policy, cgroup: u64, port: u16) -> Self {
        let network = policy.network();
        let mut loopback = [0; LOOPBACK_PORTS_MAX];
        let declared = network.loopback.iter().take(LOOPBACK_PORTS_MAX);
        let mut count = 0;
        for (slot, port) in loopback.iter_mut().zip(declared) {
            *slot = *port;
            count += 1;
        }
        Self {
            config: AgentConfig {
                cgroup,
                abi: ABI_VERSION,
                agent: 1,
                mode: match policy.mode() {
                    Mode::Enforce => MODE_ENFORCE,
                    Mode::Observe => MODE_OBSERVE,
                },
                direct: match network.direct {
                    Direct::Redirect => DIRECT_REDIRECT,
                    Direct::Deny => DIRECT_DENY,
                },
                dns: match policy.dns().mode {
                    DnsMode::Off => DNS_OFF,
                    DnsMode::PolicyNames | DnsMode::Any => DNS_GATEWAY,
                },
                inbound: match network.inbound {
                    Inbound::Deny => INBOUND_DENY,
                    Inbound::Loopback => INBOUND_LOOPBACK,
                    Inbound::Allow => INBOUND_ALLOW,
                },
                gateway_port: port,
                loopback_count: count,
                zero: 0,
            },
            loopback,
        }
    }
}
