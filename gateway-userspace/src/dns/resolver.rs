//! Resolves names for the gateway itself: fixed names of the policy first, then the system's
//! resolvers. Decides nothing: what comes out of it is pinned by policy before use.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup_ip::LookupIp,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
    system_conf::read_system_conf,
};

use crate::{
    names::{Host, HostName},
    policy::Policy,
    worker::{DialPath, NameServers},
};

/// Resolves names.
#[derive(Debug)]
pub struct Resolver {
    asking: Option<Asking>,
    timeout: Duration,
}

/// By which way.
#[derive(Debug)]
enum Asking {
    /// Sockets of this process.
    Itself(Box<TokioResolver>),
    /// Sockets that the supervisor hands over.
    Handed(Box<hickory_resolver::Resolver<NameServers>>),
}

impl Asking {
    async fn lookup_ip(&self, name: Name) -> Result<LookupIp, NetError> {
        match self {
            Self::Itself(resolver) => resolver.lookup_ip(name).await,
            Self::Handed(resolver) => resolver.lookup_ip(name).await,
        }
    }
}

/// The system's configuration, read while this process may still read it.
#[derive(Debug)]
pub(crate) struct SystemNames {
    config: ResolverConfig,
    options: ResolverOpts,
    hosts: Hosts,
}

impl SystemNames {
    /// Reads it.
    pub(crate) fn read() -> io::Result<Self> {
        let (config, options) = read_system_conf().map_err(io::Error::other)?;
        let hosts = match options.use_hosts_file {
            ResolveHosts::Never => Hosts::default(),
            ResolveHosts::Always | ResolveHosts::Auto => Hosts::from_system().unwrap_or_default(),
        };
        Ok(Self {
            config,
            options,
            hosts,
        })
    }

    /// The addresses of the name servers.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        let servers = self.config.name_servers.iter();
        let mut addresses: Vec<_> = servers
            .flat_map(|server| {
                let ports = server.connections.iter().map(|connection| connection.port);
                ports.map(|port| SocketAddr::new(server.ip, port))
            })
            .collect();
        addresses.dedup();
        addresses
    }
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name.
    #[error("the name does not exist")]
    NotFound,
    /// No answer.
    #[error("the name did not resolve in time")]
    TimedOut,
    /// The resolver failed.
    #[error("resolving the name: {0}")]
    Failed(Box<NetError>),
}

impl ResolveError {
    /// The stable label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NotFound => "name_not_found",
            Self::TimedOut => "resolve_timeout",
            Self::Failed(_) => "resolve_failed",
        }
    }

    /// HTTP status for the agent.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::NotFound | Self::Failed(_) => 502,
            Self::TimedOut => 504,
        }
    }
}

impl Resolver {
    /// Asks the resolvers that `/etc/resolv.conf` names, each question within `timeout`. Needs a
    /// runtime once it is used.
    ///
    /// # Errors
    /// When the system's configuration cannot be read.
    pub fn system(timeout: Duration) -> io::Result<Self> {
        let resolver = TokioResolver::builder_tokio()
            .and_then(|builder| builder.build())
            .map_err(io::Error::other)?;
        Ok(Self {
            asking: Some(Asking::Itself(Box::new(resolver))),
            timeout,
        })
    }

    /// Asks the system's resolvers over what the supervisor hands out.
    ///
    /// # Errors
    /// When the resolver cannot be made.
    pub(crate) fn handed(
        names: SystemNames,
        path: DialPath,
        timeout: Duration,
    ) -> io::Result<Self> {
        let provider = NameServers::new(path);
        let builder = hickory_resolver::Resolver::builder_with_config(names.config, provider);
        let mut options = names.options;
        // It would be read now, which is too late.
        options.use_hosts_file = ResolveHosts::Never;
        let builder = builder.with_options(options);
        let mut resolver = builder.build().map_err(io::Error::other)?;
        resolver.set_hosts(Arc::new(names.hosts));
        Ok(Self {
            asking: Some(Asking::Handed(Box::new(resolver))),
            timeout,
        })
    }

    /// Asks this resolver, over UDP and where needed TCP, instead of the system's.
    ///
    /// # Errors
    /// When the resolver cannot be made.
    pub fn server(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        Ok(Self {
            asking: Some(Asking::Itself(Box::new(
                builder.build().map_err(io::Error::other)?,
            ))),
            timeout,
        })
    }

    /// Knows the fixed names of the policy and no others.
    #[must_use]
    pub const fn fixed_names_only() -> Self {
        Self {
            asking: None,
            timeout: Duration::ZERO,
        }
    }

    /// The addresses of a host. An address is its own.
    ///
    /// # Errors
    /// [`ResolveError`]. A name that exists without addresses is no error.
    pub async fn lookup(&self, policy: &Policy, host: &Host) -> Result<Vec<IpAddr>, ResolveError> {
        match host {
            Host::Address(address) => Ok(vec![*address]),
            Host::Name(name) => self.lookup_name(policy, name).await,
        }
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// [`ResolveError`]. A name that exists without addresses is no error.
    pub async fn lookup_name(
        &self,
        policy: &Policy,
        name: &HostName,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        if let Some(fixed) = policy.upstream().resolve.get(name) {
            return Ok(fixed.clone());
        }
        let Some(asking) = &self.asking else {
            return Err(ResolveError::NotFound);
        };
        // Rooted: no search domain may make another name of it.
        let mut rooted = Name::from_ascii(name.as_str()).map_err(|_| ResolveError::NotFound)?;
        rooted.set_fqdn(true);
        match tokio::time::timeout(self.timeout, asking.lookup_ip(rooted)).await {
            Err(_) => Err(ResolveError::TimedOut),
            Ok(Ok(found)) => Ok(found.iter().collect()),
            Ok(Err(error)) if error.is_nx_domain() => Err(ResolveError::NotFound),
            Ok(Err(error)) if error.is_no_records_found() => Ok(Vec::new()),
            Ok(Err(error)) => Err(ResolveError::Failed(Box::new(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fixed_names_are_those_of_the_policy_in_force() {
        let policy = |text: &str| Policy::parse("test", text).unwrap();
        let resolver = Resolver::fixed_names_only();
        let name = Host::parse("db.example.com").unwrap();
        let rule = "[[egress]]\nid = \"a\"\nhosts = [\"db.example.com\"]\n";
        let head = "schema = 1\nagent = \"a\"\n";
        let fixed = policy(&format!(
            "{head}{rule}[upstream]\nresolve = {{ \"db.example.com\" = \"192.0.2.7\" }}\n"
        ));
        let found = resolver.lookup(&fixed, &name).await.unwrap();
        assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        let without = policy(&format!("{head}{rule}"));
        let missing = resolver.lookup(&without, &name).await;
        assert!(matches!(missing, Err(ResolveError::NotFound)));
        let address = Host::parse("198.51.100.1").unwrap();
        assert_eq!(resolver.lookup(&without, &address).await.unwrap().len(), 1);
    }
}
