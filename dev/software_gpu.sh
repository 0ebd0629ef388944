#!/usr/bin/env bash
# Runs tests on a GPU made of software: llvmpipe, Mesa's Vulkan device for processors, through `wgpu`.
#
#   dev/software_gpu.sh         a selection, in some minutes
#   dev/software_gpu.sh all     everything that computes
#
# Installs Debian's mesa-vulkan-drivers where it is missing and that is allowed; says so and ends well where it is not.
set -euo pipefail
cd "$(dirname "$0")/.."

driver() { ls /usr/share/vulkan/icd.d/lvp_icd*.json 2> /dev/null | head -1; }
if [ -z "$(driver)" ] && command -v apt-get > /dev/null; then
  root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
  { timeout 120 $root apt-get update -q && timeout 300 $root apt-get install -qy mesa-vulkan-drivers; } < /dev/null > /dev/null 2>&1 || true
fi
if [ -z "$(driver)" ]; then
  echo "NOT TESTED on a GPU: llvmpipe is not here and cannot be installed (Debian: apt-get install mesa-vulkan-drivers)."
  exit 0
fi

export VK_DRIVER_FILES=$(driver) VK_ICD_FILENAMES=$(driver) COCONUT_TEST_DEVICE=wgpu
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$(mktemp -d)}
selection=(latent_forward devices:: thinking generation::gpt2 lora::loss optim::)
if [ "${1:-}" = all ]; then
  selection=(latent_forward devices:: thinking generation lora objectives reinject recompute families edit optim:: lens
    decoder shared_prefix model_files)
fi
test() { cargo test --workspace --release --features coconut-cli/wgpu "$@"; }
test --test ops --test launches
test --test it -- "${selection[@]}"
