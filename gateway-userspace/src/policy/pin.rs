//! From a grant to a permit: which of the addresses that a host led to may be dialled.

use std::net::{IpAddr, SocketAddr};

use super::{
    Denial, DenyReason, Grant, Permit,
    address::{AddressClass, classify},
};
use crate::names::{Host, RuleId};

impl Grant {
    /// The rule that allows the request; none where no rule had to.
    #[must_use]
    pub const fn rule(&self) -> Option<&RuleId> {
        self.rule.as_ref()
    }

    /// The refusal that observe mode does not carry out.
    #[must_use]
    pub const fn observed(&self) -> Option<&Denial> {
        self.observed.as_ref()
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
        for address in addresses.iter().map(IpAddr::to_canonical) {
            let class = classify(address);
            if self.may_reach(address, class) {
                needs_private |= class != AddressClass::Public;
                fit.push(SocketAddr::new(address, port));
            } else {
                unfit.push((class, SocketAddr::new(address, port)));
            }
        }
        if !fit.is_empty() {
            let private = self.private.filter(|_| needs_private);
            return Ok(Permit {
                rule: private.map(|private| private.rule).or(self.rule),
                addresses: fit,
                observed: self.observed,
            });
        }
        // The worst of them names the reason.
        let Some((class, worst)) = unfit.iter().max_by_key(|(class, _)| *class) else {
            return Err(no_address(host, self.rule));
        };
        let denial = refusal(host, worst.ip(), *class, self.rule.clone());
        if !self.observes {
            return Err(denial);
        }
        Ok(Permit {
            rule: None,
            addresses: unfit.into_iter().map(|(_, address)| address).collect(),
            observed: self.observed.or(Some(denial)),
        })
    }

    fn may_reach(&self, address: IpAddr, class: AddressClass) -> bool {
        match (class, &self.private) {
            (AddressClass::Public, _) => true,
            (AddressClass::Private, private) => private.is_some(),
            (AddressClass::Metadata, Some(private)) => private.named.contains(&address),
            (AddressClass::Metadata, None) | (AddressClass::Never, _) => false,
        }
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
