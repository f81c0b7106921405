//! What tests of Sluice share.

pub mod sniffer;
pub mod vector;
pub mod vectors;
