//! What a DNS name looks like: names made of data are long, or look random.

use super::{DenyReason, Dns};
use crate::names::HostName;

/// Characters of the shortest label whose entropy says something.
const TELLING: usize = 16;

impl Dns {
    /// Octets of the longest label that DNS has.
    pub const LABEL_MAX: u8 = 63;
    /// Octets of the longest name.
    pub const NAME_MAX: u8 = 253;

    /// What is wrong with the shape of a name.
    pub(super) fn flaw(&self, name: &HostName) -> Option<DenyReason> {
        let name = name.as_str();
        let labels = || name.split('.');
        if name.len() > usize::from(self.max_name) {
            return Some(DenyReason::DnsName);
        }
        if labels().any(|label| label.len() > usize::from(self.max_label)) {
            return Some(DenyReason::DnsLabel);
        }
        let most = f64::from(self.entropy?) / 1000.0;
        labels()
            .any(|label| label.len() >= TELLING && entropy(label) > most)
            .then_some(DenyReason::DnsEntropy)
    }
}

/// Shannon's entropy, in bits for each octet.
fn entropy(text: &str) -> f64 {
    let mut counts = [0_u8; 256];
    for byte in text.bytes() {
        // A label has at most 63 octets.
        let count = &mut counts[usize::from(byte)];
        *count = count.saturating_add(1);
    }
    let all = f64::from(u8::try_from(text.len()).unwrap_or(u8::MAX));
    let parts = counts.into_iter().filter(|count| *count > 0);
    parts
        .map(|count| f64::from(count) / all)
        .map(|part| -part * part.log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Decision, Policy, Request};

    const RULES: &str =
        "[[egress]]\nid = \"x\"\nhosts = [\"**.a.example\", \"kq3v9x7zt2m8w4p6r1.a.example\"]\n";

    /// Why a question is refused; nothing if it is answered.
    fn refused(dns: &str, name: &str, record_type: u16) -> &'static str {
        let text = format!("schema = 1\nagent = \"a\"\n[dns]\n{dns}\n{RULES}");
        let policy = Policy::parse("a", &text).unwrap();
        let name = HostName::parse(name).unwrap();
        match policy.decide(&Request::Dns {
            name: &name,
            record_type,
        }) {
            Decision::Allow(_) => "",
            Decision::Approve(denial) | Decision::Deny(denial) => denial.reason.label(),
        }
    }

    #[test]
    fn names_at_each_limit_and_beyond() {
        let long = |count: usize| format!("{}.a.example", "x".repeat(count));
        assert_eq!(refused("", &long(63), 1), "");
        assert_eq!(refused("max_label = 20", &long(20), 1), "");
        assert_eq!(refused("max_label = 20", &long(21), 1), "dns_label");
        assert_eq!(refused("max_name = 30", &long(20), 1), "");
        assert_eq!(refused("max_name = 30", &long(21), 1), "dns_name");
    }

    #[test]
    fn names_that_look_random() {
        let entropy = "entropy = 3.6";
        assert_eq!(refused(entropy, "customer-support.a.example", 1), "");
        assert_eq!(
            refused(entropy, "zk4v9q7xt2m8w3p6.a.example", 1),
            "dns_entropy"
        );
        // Too short to tell.
        assert_eq!(refused(entropy, "zk4v9q7xt2m8w3p.a.example", 1), "");
        // A rule has this one word for word.
        assert_eq!(refused(entropy, "kq3v9x7zt2m8w4p6r1.a.example", 1), "");
        // Sixteen octets that all differ have four bits each.
        assert_eq!(
            refused("entropy = 4.0", "abcdefghijklmnop.a.example", 1),
            ""
        );
        assert_eq!(
            refused("entropy = 3.999", "abcdefghijklmnop.a.example", 1),
            "dns_entropy"
        );
    }

    #[test]
    fn only_the_types_that_are_listed() {
        let types = "allow_types = [\"A\", \"TXT\"]";
        assert_eq!(refused(types, "x.a.example", 1), "");
        assert_eq!(refused(types, "x.a.example", 28), "dns_type");
        // Refused types stay refused.
        assert_eq!(refused(types, "x.a.example", 16), "dns_type");
    }

    #[test]
    fn limits_that_are_none_are_errors() {
        for bad in [
            "max_label = 0",
            "max_label = 64",
            "max_name = 254",
            "max_name = 0",
            "entropy = 0.0",
            "entropy = 8.1",
            "entropy = nan",
            "entropy = \"3\"",
            "allow_types = [\"NONE\"]",
            "allow_types = []",
            "rate = \"30\"",
        ] {
            let text = format!("schema = 1\nagent = \"a\"\n[dns]\n{bad}\n");
            assert!(Policy::parse("a", &text).is_err(), "{bad}");
        }
    }
}
