#!/usr/bin/env bash
# Builds the wheel that carries the program, and tries it in clean environments:
#
#   dev/wheel.sh [PYTHON]
#
# The wheel lies in target/wheels afterwards. Only what changed is compiled: the build folder is the workspace's.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$python" -m venv "$place/build"
"$place/build/bin/pip" install --quiet "maturin>=1.9,<2" auditwheel
rm -rf target/wheels
"$place/build/bin/maturin" build --release --out target/wheels
wheel=$(ls target/wheels/*.whl)
ls -l "$wheel"
# maturin gives the tag of the oldest system that has the libraries and symbols which the program needs.
case $wheel in *-manylinux*) ;; *) echo "not a manylinux wheel: $wheel"; exit 1 ;; esac
"$place/build/bin/auditwheel" show "$wheel"

echo "== a clean environment"
"$python" -m venv "$place/clean"
"$place/clean/bin/pip" install --quiet "$wheel"
cd "$place"
"$place/clean/bin/coconut" --version
"$place/clean/bin/coconut-latent" --version
"$place/clean/bin/python" -m coconut_latent --version
"$place/clean/bin/python" - <<'E2'
import sys, time
before, start = set(sys.modules), time.perf_counter()
import coconut_latent
took = 1000 * (time.perf_counter() - start)
heavy = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names) - {"coconut_latent"}
assert not heavy, heavy
print(f"import coconut_latent: {took:.0f} ms, nothing beside Python")
E2
cd - > /dev/null

echo "== its tests"
"$place/clean/bin/pip" install --quiet "$wheel[data]" pytest mypy pandas-stubs safetensors
cp python/tests/*.py "$place"
cd "$place"
clean/bin/python -m pytest --quiet test_package.py
clean/bin/python -m mypy --strict -p coconut_latent
clean/bin/python -m mypy --strict test_package.py
