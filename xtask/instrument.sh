#!/bin/sh
# Stands in for the compiler where fuzzers are built: cargo passes it the compiler's command line for each of the
# workspace's own crates. It has them count which edges of the code are taken.
set -eu
compares=
case " $* " in
# What such code calls is in the fuzzers' engine, which a build script is not linked with.
*" build_script_build "*) exec "$@" ;;
# Where binary formats are read, it also tells what is compared with what: numbers that an input could have. Text is
# compared byte by byte, which is told often and tells nothing; the engine sees by itself which strings are compared.
*" --crate-name agent_common "*) compares=-Cllvm-args=-sanitizer-coverage-trace-compares ;;
esac
exec "$@" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    $compares
