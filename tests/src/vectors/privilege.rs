//! Whether tests that need root can run.

/// Whether they can; says so if not. Under CI they must.
///
/// # Panics
/// Under CI, without root.
#[must_use]
pub fn granted() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("CI").is_none_or(|value| value.is_empty()),
            "these tests take root, and under CI none is skipped"
        );
        eprintln!("skipped: network namespaces and BPF programs take root");
    }
    root
}
