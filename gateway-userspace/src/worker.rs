//! The process that parses what agents and upstreams send, and what it asks its supervisor for.
//!
//! The supervisor keeps what is worth having: the audit log, the kernel half, and leave to open
//! connections. The worker gets connections by descriptor and hands over records by message.
//! Either side takes the other's messages by size and form only.

mod confine;
pub(crate) mod dialer;
mod handed;
pub(crate) mod identity;
pub mod inside;
pub(crate) mod keeper;
mod names;
pub(crate) mod packet;
pub(crate) mod policies;
mod pulse;
mod start;
mod tries;

pub(crate) use dialer::Purpose;
pub use handed::DialPath;
pub(crate) use names::NameServers;
