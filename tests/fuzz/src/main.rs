//! The fuzzer: `cargo xtask fuzz` builds it with the flags that it needs, and runs it.
#![cfg_attr(feature = "fuzzer", no_main)]

/// Names the target, one of `gateway_userspace::fuzzing::TARGETS`.
#[cfg(feature = "fuzzer")]
const TARGET: &str = "SLUICE_FUZZ_TARGET";

#[cfg(feature = "fuzzer")]
libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    static TARGET_OF_RUN: std::sync::LazyLock<fn(&[u8])> = std::sync::LazyLock::new(|| {
        let wanted = std::env::var(TARGET).unwrap_or_default();
        let mut targets = gateway_userspace::fuzzing::TARGETS.iter();
        match targets.find(|(name, _)| *name == wanted) {
            Some((_, target)) => *target,
            None => panic!("{TARGET} names no target: {wanted:?}"),
        }
    });
    (*TARGET_OF_RUN)(octets);
});

#[cfg(not(feature = "fuzzer"))]
fn main() -> std::process::ExitCode {
    eprintln!("built without a fuzzer: use `cargo xtask fuzz`");
    std::process::ExitCode::FAILURE
}
