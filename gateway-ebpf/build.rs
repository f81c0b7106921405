//! Asks the linker for BPF instructions that can fetch and add atomically.

fn main() {
    // v3 is what kernels from 5.12 on run, and older than any this program loads on.
    println!("cargo:rustc-link-arg-bins=--cpu=v3");
}
