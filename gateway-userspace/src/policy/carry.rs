//! A policy as it travels to a process that has no files: its text, and the files that it names.

use std::{collections::BTreeMap, io::Read as _, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Mode, Policy, PolicyErrors, load};

/// Octets of the largest file that a policy names.
pub(super) const ATTACHED_MAX: usize = 1 << 20;

/// Files that a policy names, by their names in it.
pub(super) type Attached = BTreeMap<String, String>;

/// Where the files that a policy names come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Files<'a> {
    /// Paths are relative to this folder.
    Folder(&'a std::path::Path),
    /// They came along.
    Attached(&'a Attached),
    /// The policy was not read from a file.
    Nowhere,
}

/// Why a file is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum NoFile {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(std::io::Error),
    /// It is too large.
    #[error("larger than {} MiB", ATTACHED_MAX >> 20)]
    TooLarge,
    /// The policy is not in a folder.
    #[error("the policy was not read from a file, so a path leads nowhere")]
    Nowhere,
}

impl Files<'_> {
    pub(super) fn read(self, name: &str) -> Result<String, NoFile> {
        let path: PathBuf = match self {
            Self::Folder(folder) => folder.join(name),
            Self::Attached(files) => return files.get(name).cloned().ok_or(NoFile::Nowhere),
            Self::Nowhere => return Err(NoFile::Nowhere),
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(NoFile::Unreadable)?;
        file.take(ATTACHED_MAX as u64 + 1)
            .read_to_string(&mut text)
            .map_err(NoFile::Unreadable)?;
        if text.len() > ATTACHED_MAX {
            return Err(NoFile::TooLarge);
        }
        Ok(text)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    source: String,
    files: Attached,
    node: Option<Box<Carried>>,
    observes: bool,
}

/// Why what was carried is no policy.
#[derive(Debug, thiserror::Error)]
pub enum BadCargo {
    /// It is not what [`Policy::carried`] made.
    #[error("the policy did not arrive whole: {0}")]
    Form(serde_json::Error),
    /// The policy is broken.
    #[error("{0}")]
    Policy(PolicyErrors),
}

impl Carried {
    fn of(policy: &Policy) -> Self {
        let node = policy.node.as_ref();
        Self {
            source: policy.inner.source.clone(),
            files: policy.inner.attached.clone(),
            node: node.map(|node| Box::new(Self::of(&node.policy))),
            observes: policy.own_mode() == Mode::Observe,
        }
    }

    fn compile(&self) -> Result<Policy, BadCargo> {
        let files = Files::Attached(&self.files);
        let mut policy =
            load::bytes("policy", self.source.as_bytes(), files).map_err(BadCargo::Policy)?;
        if self.observes {
            policy = policy.with_observe();
        }
        Ok(match &self.node {
            Some(node) => policy.under(node.compile()?),
            None => policy,
        })
    }
}

impl Policy {
    /// The policy in one text, with the node's, for [`Self::from_carried`] in another process.
    /// Another name for the agent does not travel.
    #[must_use]
    pub fn carried(&self) -> String {
        serde_json::to_string(&Carried::of(self)).expect("texts are JSON")
    }

    /// Compiles a policy that was carried here.
    ///
    /// # Errors
    /// [`BadCargo`] if it is none.
    pub fn from_carried(text: &str) -> Result<Self, BadCargo> {
        let carried: Carried = serde_json::from_str(text).map_err(BadCargo::Form)?;
        carried.compile()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n";

    fn written(trust: &str, pem: &[u8]) -> Result<Policy, PolicyErrors> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), pem).unwrap();
        let path = folder.path().join("a.toml");
        let text = format!("schema = 1\nagent = \"a\"\n[upstream]\ntrust = [{trust}]\n");
        std::fs::write(&path, text).unwrap();
        Policy::load(&path)
    }

    #[test]
    fn certificates_travel_with_the_policy() {
        let policy = written("\"ca.pem\"", format!("{PEM}{PEM}").as_bytes()).unwrap();
        let trust = policy.upstream().trust.clone();
        assert_eq!(trust.len(), 2);
        assert_eq!(trust[0].as_ref(), [0x30, 3, 2, 1, 0]);
        // The folder is gone by now.
        let arrived = Policy::from_carried(&policy.carried()).unwrap();
        assert_eq!(arrived.upstream().trust, trust);
        assert_eq!(arrived.digest(), policy.digest());
        assert!(Policy::from_carried("{}").is_err());
        assert!(Policy::from_carried(policy.source()).is_err());
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        let told = |trust: &str, pem: &[u8]| {
            written(trust, pem).map_or_else(|errors| errors.to_string(), |_| String::new())
        };
        let found = told("\"ca.pem\"", b"");
        assert!(found.contains("no certificate in `ca.pem`"), "{found}");
        let broken = told("\"ca.pem\"", PEM.replace("MAMCAQA=", "!").as_bytes());
        assert!(broken.contains("`ca.pem`"), "{broken}");
        let missing = told("\"other.pem\"", PEM.as_bytes());
        assert!(missing.contains("`other.pem`"), "{missing}");
        assert!(told("\"ca.pem\", \"ca.pem\"", PEM.as_bytes()).contains("twice"));
        let most = [PEM.as_bytes(), &vec![b'\n'; ATTACHED_MAX - PEM.len()]].concat();
        assert_eq!(told("\"ca.pem\"", &most), "");
        let over = [most.as_slice(), b"\n"].concat();
        assert!(told("\"ca.pem\"", &over).contains("larger than 1 MiB"));
        let text = "schema = 1\nagent = \"a\"\n[upstream]\ntrust = [\"ca.pem\"]\n";
        let errors = Policy::parse("a", text).unwrap_err().to_string();
        assert!(errors.contains("not read from a file"), "{errors}");
    }
}
