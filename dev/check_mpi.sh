#!/usr/bin/env bash
# Builds the program with MPI and without, and holds several processes against one (dev/check_mpi.py).
#
#   dev/check_mpi.sh            some minutes on two cores, after what changed is compiled
#   dev/check_mpi.sh --time     how much faster two processes are than one
#   MPICC=mpicc.mpich MPIRUN=mpirun.mpich dev/check_mpi.sh      with another MPI than the first on the PATH
#
# Installs Debian's Open MPI, libclang and strace where they are missing and that is allowed; says so and ends well where
# it is not.
set -euo pipefail
cd "$(dirname "$0")/.."
export MPICC=${MPICC:-mpicc} MPIRUN=${MPIRUN:-mpirun}

here() { command -v "$MPICC" && command -v "$MPIRUN" && command -v strace && ls /usr/lib/llvm-*/lib/libclang*.so*; }
if ! here > /dev/null 2>&1 && command -v apt-get > /dev/null; then
  root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
  { timeout 120 $root apt-get update -q && timeout 600 $root apt-get install -qy openmpi-bin libopenmpi-dev libclang-dev strace; } \
    < /dev/null > /dev/null 2>&1 || true
fi
if ! here > /dev/null 2>&1; then
  echo "NOT TESTED in several processes: $MPICC, $MPIRUN, libclang and strace are not all here and cannot be installed" \
    "(Debian: apt-get install openmpi-bin libopenmpi-dev libclang-dev strace)."
  exit 0
fi

# Cargo does not see that the MPI is another than it was.
built=target/release/mpicc
if [ "$(cat $built 2> /dev/null || echo mpicc)" != "$MPICC" ]; then cargo clean --release -p mpi-sys; fi
mkdir -p target/release && echo "$MPICC" > $built

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cargo build --release --workspace --features coconut-cli/mpi
cp target/release/coconut "$place/coconut"
# Last, so that what stays in target/ is what a plain build makes.
cargo build --release --workspace
cp target/release/coconut "$place/coconut-without-mpi"
"$MPIRUN" --version | head -1
python3 dev/check_mpi.py "$place/coconut" "$@"
