//! The policy in force, and those before it, under which records may still arrive.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;

use crate::{names::PolicyDigest, policy::Policy};

/// Digests that a record may name, the one in force among them.
const DIGESTS_MAX: usize = 64;

/// What decides, in the supervisor. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    current: Arc<ArcSwap<Policy>>,
    /// Newest first, each as it is written too.
    digests: Arc<Mutex<VecDeque<(PolicyDigest, String)>>>,
}

impl Policies {
    pub(crate) fn new(policy: Policy) -> Self {
        let digest = policy.digest();
        let digests = VecDeque::from([(digest, digest.to_string())]);
        Self {
            current: Arc::new(ArcSwap::from_pointee(policy)),
            digests: Arc::new(Mutex::new(digests)),
        }
    }

    /// The one in force.
    pub(crate) fn current(&self) -> Arc<Policy> {
        self.current.load_full()
    }

    /// Where to look for the one in force.
    pub(crate) fn handle(&self) -> Arc<ArcSwap<Policy>> {
        Arc::clone(&self.current)
    }

    /// Puts another in force.
    pub(crate) fn replace(&self, policy: Arc<Policy>) {
        let digest = policy.digest();
        self.current.store(policy);
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        digests.retain(|(known, _)| *known != digest);
        digests.truncate(DIGESTS_MAX - 1);
        digests.push_front((digest, digest.to_string()));
    }

    /// The digest that a worker's record names; the one in force if no policy had that.
    pub(crate) fn named(&self, text: Option<&str>) -> PolicyDigest {
        let digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = digests.iter();
        known
            .find(|(_, written)| text == Some(written))
            .or(digests.front())
            .map_or_else(|| self.current.load().digest(), |(digest, _)| *digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_keep_the_policy_that_decided() {
        let policy = |at: usize| {
            let text = format!("schema = 1\nagent = \"a{at}\"\n");
            Arc::new(Policy::parse("a.toml", &text).unwrap())
        };
        let first = policy(0);
        let policies = Policies::new((*first).clone());
        policies.replace(policy(1));
        let written = first.digest().to_string();
        assert_eq!(policies.named(Some(&written)), first.digest());
        let made_up = written.replace(|c: char| c.is_ascii_hexdigit(), "0");
        assert_eq!(policies.named(Some(&made_up)), policy(1).digest());
        assert_eq!(policies.named(None), policy(1).digest());
        for at in 2..=DIGESTS_MAX {
            policies.replace(policy(at));
        }
        assert_eq!(policies.named(Some(&written)), policy(DIGESTS_MAX).digest());
        let second = policy(1).digest();
        assert_eq!(policies.named(Some(&second.to_string())), second);
    }
}
