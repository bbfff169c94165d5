#!/bin/sh
# Stands in for the compiler where fuzzers are built: cargo passes it the compiler's command line for each of the
# workspace's own crates. It has them count which edges of the code are taken, and tell what is compared with what.
set -eu
case " $* " in
# What such code calls is in the fuzzers' engine, which a build script is not linked with.
*" build_script_build "*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
