//! The embedded BPF object: loaded once per agent, with that agent's constants.

use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use gateway_common::process::KernelLayout;

use super::{BoundaryError, abi::Wire, bpffs::Pins, spec::AgentSpec};

/// What `build.rs` built.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf"));

/// Level that `aya-log` passes: debug (4) when anybody would see it, else off (0), which lets the
/// verifier drop the log calls.
fn log_level() -> u8 {
    if tracing::enabled!(target: "sluice_ebpf", tracing::Level::DEBUG) {
        4
    } else {
        0
    }
}

/// What the verifier says of a program that it refuses: its verdict, and the way to it, which is
/// tens of thousands of lines, only for somebody who debugs.
fn verifier_log() -> VerifierLogLevel {
    if tracing::enabled!(tracing::Level::DEBUG) {
        VerifierLogLevel::VERBOSE | VerifierLogLevel::STATS
    } else {
        VerifierLogLevel::STATS
    }
}

/// Maps that a boundary takes over from the one before, so that who is on the line, and which
/// sockets are the gateway's, stays known while the programs are exchanged.
pub(super) const SHARED_MAPS: [&str; 4] = ["FLOWS", "TUPLES", "ACCEPTED", "LISTENERS"];

/// Loads the object into the kernel: maps are created, or opened where they are pinned, programs
/// not yet verified.
pub(super) fn load(
    spec: &AgentSpec,
    layout: KernelLayout,
    pins: Option<&Pins>,
) -> Result<Ebpf, BoundaryError> {
    let level = log_level();
    let mut loader = EbpfLoader::new();
    if let Some(pins) = pins {
        for map in SHARED_MAPS {
            loader.map_pin_path(map, pins.map(map));
        }
    }
    loader
        .verifier_log_level(verifier_log())
        .override_global("AGENT", &Wire(spec.config), true)
        .override_global("LOOPBACK", &Wire(spec.loopback), true)
        .override_global("UNIX", &Wire(spec.unix), true)
        .override_global("KERNEL", &Wire(layout), true)
        .override_global(aya_log::LEVEL, &level, false)
        .load(OBJECT)
        .map_err(|source| BoundaryError::Load {
            source: Box::new(source),
        })
}
