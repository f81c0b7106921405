//! Refusals of the kernel half.
/// x
pub struct Denials;
