//! Sluice's user-space half: the modules are the architecture, and data flows one way:
//! accept → identify → sniff → decide → dial → relay → record.
#![deny(unsafe_code)]

pub mod app;
pub mod attach;
pub mod audit;
pub mod cli;
pub mod config;
pub mod content;
mod definitions;
pub mod dns;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod identity;
mod inspect;
pub mod kernel;
pub mod launch;
pub mod ledger;
pub mod mcp;
pub mod names;
pub mod netns;
pub mod open_files;
pub mod policy;
pub mod proxy;
pub mod reload;
pub mod sanitize;
pub mod serve;
pub mod sessions;
pub mod starting;
mod throttle;
pub mod tls;
pub mod websocket;
pub mod worker;
