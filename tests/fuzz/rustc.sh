#!/bin/sh
# The compiler, as `cargo xtask fuzz` has cargo call it for the crates of this workspace: with what
# of the coverage the fuzzer needs. The flags are those of cargo-fuzz, without a sanitizer, since the
# parsers are safe Rust. Build scripts are not linked with the fuzzer.
case " $* " in
*" --crate-name build_script_"*) exec "$@" ;;
esac
exec "$@" --cfg=fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
