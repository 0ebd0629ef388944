"""Measure peak memory of a training step over the number of latents, and draw it.

    python -m venv venv && venv/bin/pip install matplotlib
    cargo build --release
    venv/bin/python python/compare/plot_memory.py docs/memory.svg

Rows of 160 tokens, latents included; 6 layers, width 256, batch 32. One process a figure.
"""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

BINARY = Path(__file__).parents[2] / "target/release/coconut"
LATENTS = [1, 2, 4, 8, 16, 32]
SHAPE = "--tokens 160 --layers 6 --dim 256 --batch 32 --vocab 1000 --steps-only --repeats 1 --json".split()


def peaks(recompute):
    stages = ",".join(map(str, LATENTS))
    command = [BINARY, "bench", *SHAPE, "--stages", stages, "--recompute", recompute]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [1000 * json.loads(line)["peak_gb"] for line in lines]


plt.rcParams["svg.hashsalt"] = "memory"
figure, axes = plt.subplots(figsize=(7, 4))
for recompute in ("none", "passes", "blocks"):
    found = peaks(recompute)
    print(f"{recompute:6}", *(f"{mb:6.0f}" for mb in found), flush=True)
    axes.plot(LATENTS, found, marker="o", label=f"recompute: {recompute}")
axes.set_xscale("log", base=2)
axes.set_xticks(LATENTS, map(str, LATENTS))
axes.set_ylim(bottom=0)
axes.set_xlabel("latents")
axes.set_ylabel("peak resident memory, MB")
axes.grid(alpha=0.3)
axes.legend()
figure.savefig(sys.argv[1], metadata={"Date": None}, bbox_inches="tight")
