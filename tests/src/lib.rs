//! What tests of Sluice share: a world of network namespaces, an agent under `sluice run` inside
//! it, and the origin that the agent wants to reach.

pub mod agent;
pub mod cgroup;
pub mod deadline;
pub mod netns;
pub mod origin;
pub mod skip;
pub mod world;
