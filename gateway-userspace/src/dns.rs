//! Names: how the gateway resolves them, how it answers agents, and what it told them.

pub(crate) mod pins;
pub mod resolver;
pub(crate) mod server;

pub use resolver::Resolver;
