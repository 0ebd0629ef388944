#!/usr/bin/env bash
# rustc, with libFuzzer's coverage and with overflow checks for the crates that read what a user gives.
rustc=$1
shift
crate= previous=
for argument in "$@"; do
    [ "$previous" = --crate-name ] && crate=$argument
    previous=$argument
done
case $crate in
    coconut | coconut_fuzz | tokenizers | safetensors | weights | config | tokenizer | data | recipe | torch | pickle)
        set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
            -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
            -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions=yes -Coverflow-checks=yes
        ;;
esac
exec "$rustc" "$@"
