"""The gate for changes that must not change a number: losses and gradient norms of the first 200 steps.

    python3 dev/gate.py record BINARY FOLDER     # a binary built before the change; FOLDER is made
    python3 dev/gate.py compare BINARY FOLDER    # one built after it; exit code 1 if a bit differs

Each case trains a recipe of its own until 200 steps stand in metrics.jsonl, then stops it. Equal means the same
64-bit numbers. Data and the tiny Llama folder are made by the binary that records and kept for the one that
compares. Names of cases after FOLDER choose among them.
"""

import json
import math
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 200

PROSQA = {
    "coconut": True, "c_thought": 1, "max_latent_stage": 6, "pad_latent_to_max": True, "cot_epochs": 0,
    "epochs_per_stage": 1, "num_epochs": 8, "resume": 6, "n_layer": 2, "n_embd": 64, "n_head": 4,
    "batch_size_training": 8, "lr": 1e-3, "grad_clip": 1.0, "eval_at": "end", "seed": 3,
}
SMALL = {
    "coconut": True, "c_thought": 2, "max_latent_stage": 2, "cot_epochs": 0, "epochs_per_stage": 1, "num_epochs": 4,
    "resume": 2, "lr": 1e-3, "batch_size_training": 4, "eval_at": "end", "grad_clip": 1.0, "uniform_prob": 0.3,
    "task": "arithmetic", "operations": [1, 4], "train_examples": 4000, "val_examples": 8, "seed": 5,
}
LLAMA = {"model_id": "llama"}  # a tiny folder, made below

CASES = {
    "quickstart": None,
    "prosqa stage 6": PROSQA,
    "prosqa stage 6, recompute passes": PROSQA | {"recompute": "passes"},
    "prosqa stage 6, recompute blocks": PROSQA | {"recompute": "blocks"},
    "prosqa stage 6, last 2 passes tracked": PROSQA | {"n_detached_recursions": 2},
    "llama, LoRA": SMALL | LLAMA | {"lora_rank": 4, "lora_target_modules": "all-linear", "lora_dropout": 0.1},
    "llama, LoRA, bf16 below, recompute blocks": SMALL | LLAMA
    | {"lora_rank": 4, "lora_target_modules": "all-linear", "frozen_dtype": "bf16", "recompute": "blocks"},
    "mixed latents, dropout, accumulation, Seq-VCR": SMALL
    | {"n_layer": 2, "n_embd": 32, "n_head": 2, "dropout": 0.1, "gradient_accumulation_steps": 2, "loss_seq_vcr": True,
       "replacement_method": "norm(hs[-1])+suppressed[0.5:]+proj(ie)", "latent_positions": "learned"},
    "pause, bf16 products": SMALL
    | {"coconut": False, "pause": True, "n_layer": 2, "n_embd": 32, "n_head": 2, "bf16": True},
}


def llama(folder, tokenizer):
    """A tiny Llama-shaped folder with random weights, and the tokenizer of a checkpoint."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    vocab = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    d, d_ff, heads, kv_heads, layers = 24, 40, 4, 2, 2
    head = d // heads
    shapes = {"model.embed_tokens.weight": [vocab, d], "model.norm.weight": [d], "lm_head.weight": [vocab, d]}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": [d], at + "post_attention_layernorm.weight": [d],
            at + "self_attn.q_proj.weight": [heads * head, d], at + "self_attn.o_proj.weight": [d, heads * head],
            at + "self_attn.k_proj.weight": [kv_heads * head, d], at + "self_attn.v_proj.weight": [kv_heads * head, d],
            at + "mlp.gate_proj.weight": [d_ff, d], at + "mlp.up_proj.weight": [d_ff, d],
            at + "mlp.down_proj.weight": [d, d_ff],
        }
    draw, header, data = random.Random(7), {}, b""
    for name, shape in shapes.items():
        values = [1.0 if len(shape) == 1 else draw.gauss(0, 0.2) for _ in range(math.prod(shape))]
        start, data = len(data), data + struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    header = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": d,
        "intermediate_size": d_ff, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head,
        "num_hidden_layers": layers, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": False, "vocab_size": vocab, "initializer_range": 0.2, "attention_bias": False,
        "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def prepare(binary, store):
    """What the cases need, made once: ProsQA in words, and the Llama folder."""
    for split, n, seed in [("train", 2000, 1), ("val", 8, 2)]:
        out = store / f"prosqa_{split}.json"
        subprocess.run(
            [binary, "data", "generate", "prosqa", "-n", str(n), "-o", out, "--seed", str(seed)], check=True,
            stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        recipe = SMALL | {"num_epochs": 1, "resume": 0, "train_examples": 40, "n_layer": 1, "n_embd": 8, "n_head": 1,
                          "name": "run", "save_path": folder}
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml(recipe))
        subprocess.run([binary, "train", path], check=True, capture_output=True, cwd=folder)
        llama(store / "llama", next((Path(folder) / "run/checkpoints").glob("[0-9]*")))


def yaml(recipe):
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in recipe.items())


def run(binary, name, recipe, store, folder):
    """[(loss, gradient norm)] of the first steps."""
    binary = Path(binary).resolve()
    if recipe is None:
        path = ROOT / "configs/quickstart.yaml"
        command = [binary, "train", path, "-s", f"save_path={folder}", "-s", "baselines=[]"]
        run_folder = folder / "quickstart"
    else:
        recipe = dict(recipe, name="run", save_path=str(folder))
        if "model_id" in recipe:
            recipe["model_id"] = str(store / "llama")
        if "task" not in recipe:
            recipe |= {"train_path": str(store / "prosqa_train.json"), "val_path": str(store / "prosqa_val.json")}
        path = folder / "recipe.yaml"
        path.write_text(yaml(recipe))
        command = [binary, "train", path]
        run_folder = folder / "run"
    log = folder / "stderr.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, cwd=folder)
    metrics = run_folder / "metrics.jsonl"
    found = []
    while len(found) < STEPS:
        ended = process.poll() is not None
        time.sleep(0.2)
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        found = [(r["loss"], r["grad_norm"]) for r in records if "grad_norm" in r]
        if ended and len(found) < STEPS:
            sys.exit(f"{name}: ended after {len(found)} steps\n{log.read_text()[-2000:]}")
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait()
    return found[:STEPS]


def main():
    what, binary, store = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve()
    wanted = sys.argv[4:] or list(CASES)
    file = store / "gate.json"
    if what == "record":
        store.mkdir(parents=True)
        prepare(binary, store)
    before = json.loads(file.read_text()) if file.exists() else {}
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(wanted):
            place = Path(folder) / str(number)
            place.mkdir()
            found = [list(pair) for pair in run(binary, name, CASES[name], store, place)]
            if what == "record":
                before[name] = found
                file.write_text(json.dumps(before))
                print(f"{name}: loss {found[0][0]:.6f} to {found[-1][0]:.6f}", flush=True)
                continue
            differ = [step for step, (new, old) in enumerate(zip(found, before[name])) if new != old]
            failed |= bool(differ)
            said = f"differs from step {differ[0] + 1} on ({len(differ)} of {STEPS})" if differ else "equal to the last bit"
            print(f"{name}: {said}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
