//! What the programs log by `aya-log`, passed on to `tracing` through the `log` crate.

use aya_log::EbpfLogger;

use super::{abi::pollable, boundary::Boundary};

/// Starts a task that passes on the programs' log lines. Without it nothing is lost but them.
pub fn forward_logs(boundary: &mut Boundary) {
    let logger = match EbpfLogger::init(boundary.ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::debug!(%error, "the programs do not log");
            return;
        }
    };
    let mut ready = match pollable(logger) {
        Ok(ready) => ready,
        Err(error) => {
            tracing::warn!(%error, "the programs' log cannot be polled");
            return;
        }
    };
    tokio::spawn(async move {
        while let Ok(mut guard) = ready.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}
