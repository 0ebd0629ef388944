"""Time `coconut bench` against the published training loop, taking turns on the same batches.

    python -m venv venv && venv/bin/pip install torch==2.11.0 transformers==4.46.2 numpy
    cargo build --release
    venv/bin/python python/compare/compare_published.py CHECKOUT DATA [--dim 128 --heads 4] [--stages 0,3,6]

CHECKOUT is a copy of github.com/facebookresearch/coconut, whose `coconut.py` is imported as it is;
DATA a file of examples such as its `data/prosqa_valid.json`. Both sides train a GPT-2 of the same shape, or with
`--model FOLDER` that folder's model on its own tokens (`--chat`: within its chat template), from random weights, in float32, without dropout, on the very token ids that `coconut bench` makes; padding
is laid out as the published collator does: on the left so that first latents line up, then on the
right. At stage 0 the published code runs the plain model. Generation writes 32 tokens a question.
Reported: medians, and the median over pairs of the published time divided by ours.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from memory import peak_gb

BINARY = Path(__file__).parents[2] / "target/release/coconut"
# First steps, while memory is taken from the system; `coconut bench` leaves out as many.
UNMEASURED = 2


class Ours:
    """A `coconut bench --step-on-stdin` process: one measurement for each line that it is sent."""

    def __init__(self, arguments, stage):
        names = ("layers", "dim", "heads", "batch", "c-thought")
        flags = [f"--{name}={getattr(arguments, name.replace('-', '_'))}" for name in names]
        if arguments.model:
            flags += [f"--model={arguments.model}", *(["--chat"] if arguments.chat else [])]
        self.process = subprocess.Popen(
            [BINARY, "bench", f"--data={arguments.data}", f"--stages={stage}", "--step-on-stdin", *flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={"RAYON_NUM_THREADS": str(arguments.threads)},
        )

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def collate(rows, labels, latent):
    """As the published collator: first latents line up, the rest is padded on the right."""
    firsts = [row.index(latent) for row in rows if latent in row]
    earliest = max(firsts, default=0)
    left = [earliest - row.index(latent) if latent in row else 0 for row in rows]
    width = max(n + len(row) for n, row in zip(left, rows))
    pad = lambda row, n, fill: [fill] * n + row + [fill] * (width - n - len(row))
    return {
        "input_ids": torch.tensor([pad(row, n, 0) for row, n in zip(rows, left)]),
        "attention_mask": torch.tensor([pad([1] * len(row), n, 0) for row, n in zip(rows, left)]),
        "labels": torch.tensor([pad(row, n, -100) for row, n in zip(labels, left)]),
        "position_ids": torch.tensor([pad(list(range(len(row))), n, 0) for row, n in zip(rows, left)]),
    }


def plain_model(arguments, mine):
    """The shape that `coconut bench` has, in float32 without dropout."""
    if arguments.model:
        config = AutoConfig.from_pretrained(arguments.model, vocab_size=mine["vocab"])
        return AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=mine["vocab"], n_positions=mine["positions"], n_embd=arguments.dim, n_layer=arguments.layers,
        n_head=arguments.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ))


def timed(f):
    start = time.perf_counter()
    f()
    return 1e3 * (time.perf_counter() - start)


def compare(arguments, stage):
    sys.path.insert(0, str(arguments.checkout))
    from coconut import Coconut

    ours = Ours(arguments, stage)
    model, optimizer, pairs = None, None, {"step": [], "single": [], "batch": []}
    for number in range(UNMEASURED + arguments.steps):
        mine = ours.ask("step")
        if model is None:
            torch.manual_seed(0)
            bot, eot, latent = mine["markers"]
            model = Coconut(plain_model(arguments, mine), latent, bot, eot, -1)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
        batch = collate(mine["ids"], mine["labels"], latent)

        def step():
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        theirs = timed(step)
        if number >= UNMEASURED:
            pairs["step"].append((theirs, mine["ms"]))
    peaks = peak_gb(), mine["peak_gb"]

    with torch.no_grad():
        for _ in range(arguments.questions):
            mine = ours.ask("single")
            ids = torch.tensor(mine["ids"])
            pairs["single"].append((timed(lambda: model.generate(ids, None, max_new_tokens=32)), mine["ms"]))
    theirs = statistics.median(a for a, _ in pairs["single"])
    for _ in range(3):  # the published code has no batches: a batch is so many single questions
        mine = ours.ask("batch")
        pairs["batch"].append((theirs, mine["ms"] / len(mine["ids"])))
    ours.close()
    row = {"stage": stage, "published_peak_gb": peaks[0], "peak_gb": peaks[1]}
    for kind, values in pairs.items():
        row[f"published_{kind}_ms"] = statistics.median(a for a, _ in values)
        row[f"{kind}_ms"] = statistics.median(b for _, b in values)
        row[f"{kind}_ratio"] = statistics.median(a / b for a, b in values)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("data", type=Path)
    for name, default in [("layers", 4), ("dim", 128), ("heads", 4), ("batch", 32), ("c-thought", 1), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", type=Path, help="a model's folder, instead of GPT-2's shape")
    parser.add_argument("--chat", action="store_true", help="questions within the chat template of --model")
    parser.add_argument("--stages", default="0,3,6")
    parser.add_argument("--steps", type=int, default=5, help="pairs measured, after two that are not")
    parser.add_argument("--questions", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    stages = list(map(int, arguments.stages.split(",")))
    if len(stages) > 1:  # a process a stage, so that peaks are each stage's own
        for stage in stages:  # argparse takes the last of two
            subprocess.run([sys.executable, __file__, *sys.argv[1:], f"--stages={stage}"], check=True)
        return
    row = compare(arguments, stages[0])
    print(json.dumps({key: round(value, 3) for key, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
