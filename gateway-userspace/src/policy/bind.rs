//! `[bind]`: which processes of a node a policy is for.

use std::collections::BTreeMap;

use serde::Serialize;

/// What the daemon puts under the policy; any match will do. `sluice run` looks at none of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Bind {
    /// Names of systemd units; `*` stands for any characters.
    pub systemd: Vec<String>,
    /// Paths of cgroups below the mount point; `*` stands for any characters but `/`.
    pub cgroup: Vec<String>,
    /// Pods.
    pub kubernetes: Option<Kubernetes>,
}

/// Pods that a policy is for: those of the namespace that have all of the labels.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Kubernetes {
    /// Namespace.
    pub namespace: String,
    /// Labels with their values. Default: none, which all pods have.
    pub labels: BTreeMap<String, String>,
}
