//! Resolves names for the gateway itself: fixed names of the policy first, then the system's
//! resolvers. Decides nothing: what comes out of it is pinned by policy before use.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::Name,
};

use crate::{
    names::{Host, HostName},
    policy::Policy,
};

/// Resolves names.
#[derive(Debug)]
pub struct Resolver {
    asking: Option<Box<TokioResolver>>,
    timeout: Duration,
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
            asking: Some(Box::new(resolver)),
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
            asking: Some(Box::new(builder.build().map_err(io::Error::other)?)),
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
