//! From a policy to the constants that an agent's programs are loaded with.

use gateway_common::{
    ABI_VERSION,
    agent::{
        AgentConfig, DIRECT_DENY, DIRECT_REDIRECT, DNS_GATEWAY, DNS_OFF, Device, FEATURE_DEVICES,
        FEATURE_OWN_LOOPBACK, INBOUND_ALLOW, INBOUND_DENY, INBOUND_LOOPBACK, LOOPBACK_WORDS,
        LoopbackPorts, MODE_ENFORCE, MODE_OBSERVE, loopback_bit,
    },
    unix::UnixConfig,
};

use super::{
    devices::{self, DeviceError},
    unix,
};
use crate::policy::{Direct, DnsMode, Inbound, Mode, Policy};

/// What the programs of one agent are loaded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    pub(super) config: AgentConfig,
    pub(super) loopback: LoopbackPorts,
    pub(super) unix: UnixConfig,
    /// What policy says of unix sockets that a kernel may be unable to tell from others.
    pub(super) tells: Tells,
    /// Devices that policy names.
    pub(super) devices: Vec<Device>,
}

/// What the kernel has to tell apart for a policy to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tells {
    /// The unix sockets that policy names.
    pub(super) unix_names: Vec<String>,
    /// The agent's own unix sockets.
    pub(super) unix_own: bool,
}

impl AgentSpec {
    /// Constants under which every branch of every program can be reached, for probing: what the
    /// verifier finds dead it does not look at.
    pub(super) fn widest() -> Self {
        let mut loopback = [0; LOOPBACK_WORDS];
        loopback[0] = 2;
        Self {
            config: AgentConfig {
                cgroup: 1,
                abi: ABI_VERSION,
                agent: 1,
                mode: MODE_ENFORCE,
                direct: DIRECT_REDIRECT,
                dns: DNS_GATEWAY,
                inbound: INBOUND_ALLOW,
                gateway_port: 9,
                has_loopback: 1,
                features: FEATURE_DEVICES | FEATURE_OWN_LOOPBACK,
                draining_port: 8,
                zero: [0; 6],
            },
            loopback,
            unix: unix::widest(unix::support()),
            tells: Tells::default(),
            devices: Vec::new(),
        }
    }

    /// The constants for an agent under `policy` whose gateway listens on `port`.
    ///
    /// # Errors
    /// If policy names a device that there is not.
    pub fn new(policy: &Policy, cgroup: u64, port: u16) -> Result<Self, DeviceError> {
        let network = policy.network();
        let devices = devices::resolve(&policy.process().devices)?;
        let mut features = 0;
        if !devices.is_empty() {
            features |= FEATURE_DEVICES;
        }
        if network.own_loopback {
            features |= FEATURE_OWN_LOOPBACK;
        }
        let mut loopback = [0; LOOPBACK_WORDS];
        let mut any = 0;
        for &port in &network.loopback {
            let (word, bit) = loopback_bit(port);
            loopback[word] |= bit;
            any = 1;
        }
        Ok(Self {
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
                has_loopback: any,
                features,
                draining_port: 0,
                zero: [0; 6],
            },
            loopback,
            unix: unix::config(&network.unix, unix::support()),
            tells: Tells {
                unix_names: network.unix.names.clone(),
                unix_own: network.unix.own,
            },
            devices,
        })
    }

    /// The same, where another gateway listened before on `port`: its connections may go on.
    #[must_use]
    pub const fn draining(mut self, port: u16) -> Self {
        self.config.draining_port = port;
        self
    }
}
