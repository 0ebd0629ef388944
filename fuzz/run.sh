#!/usr/bin/env bash
# Fuzzes every loader with libFuzzer on stable Rust, from the tests' fixtures:
#
#     fuzz/run.sh [SECONDS] [TARGET …]     so long a target (720), one after the other; all by default
#
# Coverage guides it in this crate and in those that read files for it (rustc.sh); sanitizers need
# nightly: `cargo +nightly fuzz run TARGET`. Corpora, logs and crashes are kept in fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-720}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(tokenizer weights config data recipe torch pickle)

cp ../Cargo.lock .
RUSTC_WRAPPER="$PWD/rustc.sh" cargo build --release --bins

fixtures=../tests/fixtures
seeds() {
    case $1 in
        tokenizer) find $fixtures -name tokenizer.json -size -100k ;;
        weights) find $fixtures -name '*.safetensors' -size -200k ;;
        config) find $fixtures -name config.json ;;
        data) find $fixtures/data -type f -size -100k ;;
        recipe) find ../configs -name '*.yaml' ;;
        torch) find $fixtures/import -name '*.pt' -o -name '*.bin' ;;
        # The pickles in those archives, where there is Python to take them out.
        pickle) python3 - corpus/pickled $(seeds torch) <<'EOF' || true ;;
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for number, path in enumerate(filter(zipfile.is_zipfile, sys.argv[2:])):
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        file = folder / str(number)
        file.write_bytes(archive.read(pickled))
        print(file)
EOF
    esac
}
for target in "${targets[@]}"; do
    corpus=corpus/$target
    mkdir -p "$corpus"
    seeds "$target" | while read -r seed; do cp "$seed" "$corpus/$(cksum <"$seed" | cut -d' ' -f1)"; done
    "${CARGO_TARGET_DIR:-target}/release/$target" "$corpus" -max_total_time="$seconds" -rss_limit_mb=3000 \
        -timeout=20 -artifact_prefix="corpus/crash-$target-" 2>&1 | tee "corpus/$target.log" | tail -n 3
done
