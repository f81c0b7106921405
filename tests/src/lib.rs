//! What tests of Sluice share: a world of network namespaces, an agent under `sluice run` inside
//! it, the origin that the agent wants to reach, and the ways in which it tries to.

pub mod agent;
pub mod attachment;
pub mod cgroup;
pub mod deadline;
pub mod memory;
pub mod netns;
pub mod omission;
pub mod origin;
pub mod probe;
pub mod puppet;
pub mod receiver;
pub mod skip;
pub mod sniffer;
pub mod still;
pub mod vector;
pub mod vectors;
pub mod world;
