"""Check that what coconut trains is what transformers loads, for every family.

    cargo build --release
    venv/bin/python python/compare/check_transformers.py [COCONUT [FAMILY …]]

For every family, or those that are named: transformers writes a folder with a tiny random model and a byte-level
tokenizer; `coconut train` trains it for some steps; AutoModelForCausalLM and AutoTokenizer load the
checkpoint, whose logits must equal those of `coconut logits` to 1e-4, and must differ from the start's.
Then the same with adapters, on a folder that does not know the markers yet: PeftModel.from_pretrained on
the base and the checkpoint must give those logits, and so must the folder of `coconut merge`.
Last the other way round: folders that transformers, peft and safetensors write, without a word of this
program's in them, are read by `logits`, `generate`, `eval` and `merge`, and a merged one is trained.
COCONUT is the binary, by default target/release/coconut. Run by hand; takes about five minutes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
COCONUT = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/release/coconut").resolve()
MARKERS = ["<|start-latent|>", "<|end-latent|>", "<|latent|>"]

LLAMA_STYLE = dict(
    hidden_size=32,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.1,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
FAMILIES = {
    "gpt2": dict(n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.1),
    "qwen2": LLAMA_STYLE | dict(tie_word_embeddings=True),
    "qwen3": LLAMA_STYLE | dict(head_dim=12, tie_word_embeddings=True),
    "llama": LLAMA_STYLE | dict(head_dim=12, rope_parameters=LLAMA3),
    "mistral": LLAMA_STYLE | dict(sliding_window=None),
    "smollm3": LLAMA_STYLE | dict(no_rope_layers=[1, 0]),
    "olmo2": LLAMA_STYLE,
    "gemma3_text": LLAMA_STYLE | dict(head_dim=12, query_pre_attn_scalar=16, sliding_window=128),
}


def write_model(folder, family, dtype, markers=MARKERS):
    """A folder as `save_pretrained` leaves it; `markers` have rows of their own from the start."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", *markers]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=specials[0], pad_token=specials[0])
    eos = tokenizer.eos_token_id
    config = transformers.AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos, pad_token_id=eos, **FAMILIES[family]
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:  # norms and biases, which start at one and zero
                p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_recipe(folder, **more):
    examples = [
        {"question": f"{a}+{b}-{c}", "steps": [f"<<{a}+{b}={a + b}>>"], "answer": str(a + b - c)}
        for a in range(4)
        for b in range(4)
        for c in range(4)
    ]
    (folder / "data.json").write_text(json.dumps(examples))
    recipe = {
        "name": "run",
        "save_path": folder / "runs",
        "model_id": folder / "model",
        "train_path": folder / "data.json",
        "val_path": folder / "data.json",
        "coconut": True,
        "c_thought": 1,
        "max_latent_stage": 1,
        "cot_epochs": 1,
        "epochs_per_stage": 1,
        "num_epochs": 3,
        "batch_size_training": 16,
        "lr": 1e-2,
        "eval_at": "end",
        "max_new_tokens": 4,
    } | more
    (folder / "recipe.yaml").write_text("".join(f"{key}: {value}\n" for key, value in recipe.items()))


def run(*arguments):
    done = subprocess.run([COCONUT, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"coconut {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
    return done.stdout


def check(family, dtype):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model", family, dtype)
        write_recipe(folder)
        run("train", folder / "recipe.yaml")
        checkpoint = max((folder / "runs/run/checkpoints").glob("*-*"), key=lambda path: path.stat().st_mtime)

        model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        assert model.dtype == torch.float32, model.dtype
        assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
        assert tokenizer.eos_token == "<|endoftext|>"
        for marker in MARKERS:
            assert len(tokenizer.encode(marker, add_special_tokens=False)) == 1, marker

        ids = tokenizer.encode("3+2-1\n<<3+2=5>>\n### 4", add_special_tokens=False)
        assert tokenizer.decode(ids) == "3+2-1\n<<3+2=5>>\n### 4"
        ours = torch.tensor(json.loads(run("logits", checkpoint, "--ids", ",".join(map(str, ids)), "--json"))["logits"])
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([ids])).logits[0]
            start = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
            moved = (start(input_ids=torch.tensor([ids])).logits[0] - theirs).abs().max().item()
        off = (ours - theirs).abs().max().item()
        print(f"{family:<11} {str(dtype).removeprefix('torch.'):<9} logits off by {off:.1e}; training moved them by {moved:.1f}")
        assert off < 1e-4 and moved > 0.1


def check_adapters(family, targets):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "model", family, torch.float32, markers=[])
        write_recipe(folder, lora_rank=4, lora_alpha=6, lora_target_modules=json.dumps(targets))
        run("train", folder / "recipe.yaml")
        checkpoint = max((folder / "runs/run/checkpoints").glob("*-*"), key=lambda path: path.stat().st_mtime)
        run("merge", checkpoint, "-o", folder / "merged")

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        ids = tokenizer.encode("3+2-1\n<|start-latent|><|end-latent|>### 4", add_special_tokens=False)
        assert tokenizer.decode(ids) == "3+2-1\n<|start-latent|><|end-latent|>### 4"
        ours = torch.tensor(json.loads(run("logits", checkpoint, "--ids", ",".join(map(str, ids)), "--json"))["logits"])

        base = AutoModelForCausalLM.from_pretrained(folder / "model")
        base.resize_token_embeddings(len(tokenizer))
        adapted = peft.PeftModel.from_pretrained(base, checkpoint).eval()
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged").eval()
        with torch.no_grad():
            theirs = [model(input_ids=torch.tensor([ids])).logits[0] for model in (adapted, merged)]
            with adapted.disable_adapter():
                moved = (adapted(input_ids=torch.tensor([ids])).logits[0] - theirs[0]).abs().max().item()
        off = [(ours - logits).abs().max().item() for logits in theirs]
        print(f"{family:<11} adapters: logits off by {off[0]:.1e}, merged by {off[1]:.1e}; training moved them by {moved:.1f}")
        assert max(off) < 1e-4 and moved > 0.1


def logits_of(folder, ids):
    """Logits by this program."""
    return torch.tensor(json.loads(run("logits", folder, "--ids", ",".join(map(str, ids)), "--json"))["logits"])


def check_plain_folders(family):
    """Folders of other programs: a whole model, the same with one name of its tied table, and adapters."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = folder / "model"
        write_model(base, family, torch.float32, markers=[])
        write_recipe(folder)
        tokenizer = AutoTokenizer.from_pretrained(base)
        ids = tokenizer.encode("3+2-1\n<<3+2=5>>\n### 4", add_special_tokens=False)

        def theirs(model):
            with torch.no_grad():
                return model.eval()(input_ids=torch.tensor([ids])).logits[0]

        def load():
            return AutoModelForCausalLM.from_pretrained(base)

        # The markers' three rows, which this program adds, are not theirs.
        vocabulary = load().config.vocab_size
        offs = {"whole": (logits_of(base, ids)[:, :vocabulary] - theirs(load())).abs().max().item()}
        if load().config.tie_word_embeddings:
            one = folder / "one name"
            load().config.save_pretrained(one)
            tokenizer.save_pretrained(one)
            save_model(load(), str(one / "model.safetensors"))
            offs["one name"] = (logits_of(one, ids)[:, :vocabulary] - theirs(load())).abs().max().item()

        names = dict(gpt2=("c_attn", "wte")).get(family, ("q_proj", "embed_tokens"))
        variants = {
            "adapters": {},
            "both tables": dict(modules_to_save=[names[1], "lm_head"]),
            "rank-stabilised": dict(use_rslora=True, rank_pattern={names[0]: 2}),
        }
        for name, more in variants.items():
            config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=[names[0]], **more)
            adapted = peft.get_peft_model(load(), config)
            with torch.no_grad():
                for p in adapted.parameters():
                    if p.requires_grad:
                        p.copy_(0.1 * torch.randn_like(p))
            adapters, merged = folder / name, folder / f"{name} merged"
            adapted.save_pretrained(adapters)  # and no tokenizer
            expected = theirs(adapted)
            run("merge", adapters, "-o", merged)
            ours = [logits_of(at, ids)[:, :vocabulary] for at in (adapters, merged)]
            again = theirs(AutoModelForCausalLM.from_pretrained(merged))[:, :vocabulary]
            offs[name] = max((logits - expected).abs().max().item() for logits in [*ours, again])
            run("generate", adapters, "--prompt", "3+2-1", "--max-new-tokens", "2")
            run("eval", adapters, "--data", folder / "data.json", "--max-size", "4", "--max-new-tokens", "2")
            recipe = folder / "recipe.yaml"
            started = run("train", recipe, "--dry-run", "-s", f"load_model_path={adapters}", "-s", "model_id=null")
            assert "coconut merge" in started, started
        run("train", folder / "recipe.yaml", "-s", "model_id=null", "-s", f"load_model_path={merged}", "-s", "num_epochs=1")
        print(f"{family:<11} plain   : logits off by", ", ".join(f"{off:.1e} ({name})" for name, off in offs.items()))
        assert max(offs.values()) < 1e-4


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    for family in sys.argv[2:] or FAMILIES:
        for dtype in (torch.float32, torch.bfloat16):
            check(family, dtype)
        for targets in ("all-linear", None):
            check_adapters(family, targets)
        check_plain_folders(family)
