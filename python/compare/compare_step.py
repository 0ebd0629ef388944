"""Time a plain training step against PyTorch's, taking turns step by step in one run.

    python -m venv venv && venv/bin/pip install torch==2.11.0 numpy
    cargo build --release --workspace --example step
    venv/bin/python python/compare/compare_step.py [--threads 2] [--steps 11] [--shapes 0,1,2,3]

Both sides train the same GPT on random tokens in float32: embeddings, pre-norm blocks with biases,
fused causal attention, GELU in its tanh form, an untied head, cross entropy over every position,
clipping of the global norm to 1 and AdamW. PyTorch uses what is fastest there:
`scaled_dot_product_attention` and the fused AdamW. Reported: medians, and the median over pairs of
PyTorch's time divided by ours.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from memory import peak_gb

SHAPES = [  # vocabulary, tokens, width, heads, layers, batch
    (512, 128, 128, 4, 4, 32),
    (512, 192, 256, 8, 4, 32),
    (512, 192, 768, 8, 2, 32),
    (50260, 128, 768, 12, 12, 4),
]
STEP = Path(__file__).parents[2] / "target/release/examples/step"


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        split = (batch, tokens, self.heads, width // self.heads)
        q, k, v = (y.view(split).transpose(1, 2) for y in self.c_attn(self.ln_1(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, vocab, tokens, width, heads, layers):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, width), nn.Embedding(tokens, width)
        self.h = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        return self.head(self.ln_f(self.h(x)))


def torch_step(shape):
    vocab, tokens, width, heads, layers, batch = shape
    torch.manual_seed(0)
    model = Gpt(vocab, tokens, width, heads, layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    x, y = torch.randint(vocab, (2, batch, tokens))

    def step():
        start = time.perf_counter()
        loss = F.cross_entropy(model(x).view(-1, vocab), y.view(-1))
        loss.item()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return 1e3 * (time.perf_counter() - start)

    return step


def compare(index, threads, steps):
    ours = subprocess.Popen(
        [STEP, str(index), "paced"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env={"RAYON_NUM_THREADS": str(threads)},
    )
    torch.set_num_threads(threads)
    step, pairs = torch_step(SHAPES[index]), []
    for number in range(steps + 2):
        theirs = step()
        ours.stdin.write("\n")
        mine = float(ours.stdout.readline())
        if number >= 2:
            pairs.append((theirs, mine))
    memory = peak_gb(), peak_gb(ours.pid)
    ours.stdin.close()
    ours.wait()
    ratios = sorted(a / b for a, b in pairs)
    name = "/".join(map(str, SHAPES[index]))
    print(
        f"{name:38} {statistics.median(a for a, _ in pairs):6.0f} ms {statistics.median(b for _, b in pairs):6.0f} ms"
        f"   {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        f"   {memory[0]:5.2f} GB {memory[1]:5.2f} GB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=11, help="pairs measured, after two that are not")
    parser.add_argument("--shapes", default="0,1,2,3")
    arguments = parser.parse_args()
    shapes = list(map(int, arguments.shapes.split(",")))
    if len(shapes) == 1:
        return compare(shapes[0], arguments.threads, arguments.steps)
    head = "vocabulary/tokens/width/heads/layers/batch"
    print(f"{head:42} PyTorch  coconut   ratio (least to most)   peak memory of each", flush=True)
    for shape in shapes:  # a process a shape, so that peaks are each shape's own
        # argparse takes the last of two
        subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--shapes={shape}"], check=True)


if __name__ == "__main__":
    main()
