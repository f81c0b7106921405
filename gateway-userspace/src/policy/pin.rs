//! From a grant to a permit: which of the addresses that a host led to may be dialled.

use std::net::{IpAddr, SocketAddr};

use super::{
    Denial, DenyReason, Grant, Mode, NodeLeave, Permit, PrivateLeave, Rate, UpstreamProxy,
    address::{AddressClass, classify},
};
use crate::names::{Host, RuleId};

impl Grant {
    /// The rule that allows the request; none where no rule had to.
    #[must_use]
    pub const fn rule(&self) -> Option<&RuleId> {
        self.rule.as_ref()
    }

    /// How often the rule allows it, and whether what is more is refused.
    #[must_use]
    pub const fn limit(&self) -> Option<(Rate, Mode)> {
        self.limit
    }

    /// The refusal that observe mode does not carry out.
    #[must_use]
    pub const fn observed(&self) -> Option<&Denial> {
        self.observed.as_ref()
    }

    /// The same grant, held to its addresses also in observe mode.
    pub(super) fn enforced(self) -> Self {
        Self {
            observes: false,
            node: self.node.map(|node| NodeLeave {
                observes: false,
                ..node
            }),
            ..self
        }
    }

    /// Turns the grant into leave to dial, for those of the addresses that are fit: public ones;
    /// with `private = true` others too, metadata services only if the rule names them.
    ///
    /// `host` is what was resolved; where it is an address, that one alone counts. Addresses
    /// that are not fit are left out as long as others are.
    ///
    /// # Errors
    /// A [`Denial`] when none is fit or there is none. Observe mode lets unfit ones pass.
    pub fn pin(self, host: &Host, port: u16, addresses: &[IpAddr]) -> Result<Permit, Denial> {
        let itself = host.address();
        let addresses = itself.as_ref().map_or(addresses, std::slice::from_ref);
        let mut fit = Vec::with_capacity(addresses.len());
        let mut unfit = Vec::new();
        let mut needs_private = false;
        // Whether whoever has something against an unfit address only observes.
        let mut passes = true;
        for address in addresses.iter().map(IpAddr::to_canonical) {
            let class = classify(address);
            let own = may_reach(self.private.as_ref(), address, class);
            let node = self.node.as_ref();
            let by_node = node.is_none_or(|it| may_reach(it.private.as_ref(), address, class));
            if own && by_node {
                needs_private |= class != AddressClass::Public;
                fit.push(SocketAddr::new(address, port));
            } else {
                passes &= (own || self.observes) && (by_node || node.is_some_and(|it| it.observes));
                unfit.push((class, SocketAddr::new(address, port)));
            }
        }
        if !fit.is_empty() {
            let private = self.private.filter(|_| needs_private);
            return Ok(Permit {
                rule: private.map(|private| private.rule).or(self.rule),
                addresses: fit,
                beyond: None,
                observed: self.observed,
            });
        }
        // The worst of them names the reason.
        let Some((class, worst)) = unfit.iter().max_by_key(|(class, _)| *class) else {
            return Err(no_address(host, self.rule));
        };
        let denial = refusal(host, worst.ip(), *class, self.rule.clone());
        if !passes {
            return Err(denial);
        }
        Ok(Permit {
            rule: None,
            addresses: unfit.into_iter().map(|(_, address)| address).collect(),
            beyond: None,
            observed: self.observed.or(Some(denial)),
        })
    }

    /// Turns the grant into leave to ask the proxy for the host. Addresses of the host that are
    /// known here are held to the same as in [`Self::pin`]; what the proxy makes of a name is its
    /// own affair.
    ///
    /// # Errors
    /// As [`Self::pin`], and when the proxy has no address.
    pub fn through(
        self,
        host: &Host,
        port: u16,
        known: &[IpAddr],
        proxy: &UpstreamProxy,
        addresses: &[IpAddr],
    ) -> Result<Permit, Denial> {
        let (rule, observed, place) = match known.first().copied().or(host.address()) {
            None => (self.rule, self.observed, host.clone()),
            Some(_) => {
                let permit = self.pin(host, port, known)?;
                let first = permit.addresses.first().map(SocketAddr::ip);
                let place = first.map_or_else(|| host.clone(), Host::Address);
                (permit.rule, permit.observed, place)
            }
        };
        if addresses.is_empty() {
            return Err(no_address(&proxy.host, rule));
        }
        let to_proxy = |ip: &IpAddr| SocketAddr::new(ip.to_canonical(), proxy.port);
        Ok(Permit {
            rule,
            addresses: addresses.iter().map(to_proxy).collect(),
            beyond: Some((place, port)),
            observed,
        })
    }
}

fn may_reach(private: Option<&PrivateLeave>, address: IpAddr, class: AddressClass) -> bool {
    match (class, private) {
        (AddressClass::Public, _) => true,
        (AddressClass::Private, private) => private.is_some(),
        (AddressClass::Metadata, Some(private)) => private.named.contains(&address),
        (AddressClass::Metadata, None) | (AddressClass::Never, _) => false,
    }
}

fn no_address(host: &Host, rule: Option<RuleId>) -> Denial {
    Denial {
        rule,
        reason: DenyReason::NoAddress,
        hint: format!("{host} has no address; check the name"),
    }
}

fn refusal(host: &Host, address: IpAddr, class: AddressClass, rule: Option<RuleId>) -> Denial {
    let leads = if host.address().is_some() {
        format!("{address} is")
    } else {
        format!("{host} leads to {address},")
    };
    let (reason, hint) = match class {
        AddressClass::Metadata => (
            DenyReason::MetadataAddress,
            format!(
                "{leads} a cloud metadata service; only a rule that names {address} itself and has `private = true` could allow it"
            ),
        ),
        AddressClass::Public | AddressClass::Private => (
            DenyReason::PrivateAddress,
            format!(
                "{leads} not a public address; only a rule with `private = true` could allow it"
            ),
        ),
        AddressClass::Never => (
            DenyReason::PrivateAddress,
            format!("{leads} no address that a connection can go to; no rule could allow it"),
        ),
    };
    Denial { rule, reason, hint }
}
