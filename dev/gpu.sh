#!/usr/bin/env bash
# Measures a GPU: a training step and generation, by stage, of three models' shapes from random weights.
#
#   dev/gpu.sh [DEVICE] [FEATURE]     dev/gpu.sh cuda cuda
#   TINY=1 dev/gpu.sh wgpu            sizes for a GPU made of software
#
# Builds the program with FEATURE (wgpu), refuses a device that is not right, and prints a line of JSON a measurement
# for DEVICE (gpu) and for the CPU. SECONDS_LEFT (600) is what it may take; what does not fit is left out by name.
set -euo pipefail
cd "$(dirname "$0")/.."
device=${1:-gpu} feature=${2:-wgpu} limit=${SECONDS_LEFT:-600}

cargo build --release --features "coconut-cli/$feature"
coconut=target/release/coconut
$coconut devices
SECONDS=0

shapes=$(mktemp -d)
trap 'rm -r "$shapes"' EXIT
shape() { cat > "$shapes/$1.json"; }
shape gpt2 << 'JSON'
{"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
JSON
shape smollm2 << 'JSON'
{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
 "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
 "rope_theta": 100000, "hidden_act": "silu", "tie_word_embeddings": true}
JSON
cp configs/qwen3_0.6b.json "$shapes/qwen3_0.6b.json"
names="gpt2 smollm2 qwen3_0.6b" stages=0,3,6 sizes=(--batch 32 --question 100 --steps 6 --step-tokens 12 --answer 12)
repeats=5
if [ -n "${TINY:-}" ]; then
  shape tiny << 'JSON'
{"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
 "rope_theta": 10000, "hidden_act": "silu", "tie_word_embeddings": true}
JSON
  names=tiny stages=0,2 sizes=(--batch 2 --question 12 --steps 2 --step-tokens 3 --answer 3) repeats=1
fi

for name in $names; do
  for at in "$device" cpu; do
    if [ $SECONDS -ge "$limit" ]; then
      echo "left out, $SECONDS s are over: $name on $at" >&2
      continue
    fi
    timeout $((limit - SECONDS + 1)) $coconut bench --device "$at" --model "$shapes/$name.json" "${sizes[@]}" \
      --stages "$stages" --repeats "$repeats" --in-sequence --json | sed "s|^{|{\"shape\":\"$name\",\"device\":\"$at\",|" ||
      echo "not measured: $name on $at" >&2
  done
done
