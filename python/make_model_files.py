"""Write the reference values under tests/fixtures/torch/files/ with PyTorch, transformers and peft.

    venv/bin/python python/make_model_files.py [OUT]

OUT is what make_fixtures.py wrote, by default tests/fixtures/torch; its models are the ones below. Values are
computed in float64 and stored as float32, as there.

rope.json     what transformers makes of every spelling of rotary positions in a `config.json`: radians a position
gelu.*        GPT-2 under each name of GELU: logits; latent loss and every gradient of the two functions there are
tied/         tied models as `safetensors.torch.save_model` writes them, which keeps one of two names; their logits
adapters/     adapters that PEFT writes in less common ways, and the logits of the model with them
"""

import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from make_fixtures import BOT, LATENT, OUT, SHARED, VERSIONS, in_double, latent_loss, make_row
from safetensors.torch import load_file, save_file, save_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

FILES = OUT / "files"
IDS = [[3, 14, 15, 9, 26, 5, 35, 8]]


def store(name, tensors):
    save_file({k: v.detach().to(torch.float32).contiguous().clone() for k, v in tensors.items()}, FILES / name)


def dump(name, value):
    (FILES / name).write_text(json.dumps(value, indent=1) + "\n")


def load(folder, **config):
    """A model of make_fixtures.py in float32. Its GPT-2s want eager attention, see there."""
    attention = "eager" if folder in ("gpt2", "latent") else "sdpa"
    return AutoModelForCausalLM.from_pretrained(OUT / folder, attn_implementation=attention, **config)


def logits_of(model):
    with torch.no_grad():
        return in_double(model)(input_ids=torch.tensor(IDS)).logits[0]


# ---------------------------------------------------------------- rotary positions


def make_rope():
    llama3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    plain = dict(rope_theta=500.0, rope_type="default")
    spellings = [
        {},
        dict(rope_theta=500.0),
        dict(rope_scaling={}),
        dict(rope_scaling={}, rope_theta=500.0),
        dict(rope_scaling={}, rope_parameters=plain),
        dict(rope_scaling={}, rope_parameters=dict(rope_type="llama3", rope_theta=500.0, **llama3)),
        dict(rope_scaling=[], rope_parameters=plain),
        dict(rope_scaling=False, rope_parameters=plain),
        dict(rope_scaling=None, rope_parameters=plain),
        dict(rope_scaling=dict(type="default"), rope_parameters=plain),
        dict(rope_scaling=dict(type="default"), rope_parameters=plain, rope_theta=700.0),
        dict(rope_parameters={}),
        dict(rope_parameters={}, rope_theta=500.0),
        dict(rope_parameters=plain),
        dict(rope_parameters=plain, rope_theta=700.0),
        dict(rope_parameters=dict(rope_type="default"), rope_theta=700.0),
        dict(rope_scaling=dict(rope_type="llama3", **llama3), rope_theta=500.0),
        dict(rope_scaling=dict(rope_type="llama3", **llama3), rope_parameters=plain),
        dict(rope_scaling=dict(type="llama3", **llama3), rope_theta=500.0),
        dict(rope_scaling=dict(type="llama3", rope_type="llama3", **llama3), rope_theta=500.0),
        dict(rope_scaling=dict(type="default", rope_type="llama3", **llama3), rope_theta=500.0),
        dict(rope_scaling=dict(type="llama3", rope_type="default", **llama3), rope_theta=500.0),
        dict(rope_scaling=dict(rope_type="llama3", **llama3), rope_theta=500.0, original_max_position_embeddings=24),
        dict(partial_rotary_factor=1.0),
    ]
    shape = dict(SHARED, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_hidden_layers=1)
    cases = []
    for family in ("llama", "qwen2", "qwen3"):
        for spelling in spellings:
            with tempfile.TemporaryDirectory() as place:
                config = shape | dict(model_type=family) | spelling
                (Path(place) / "config.json").write_text(json.dumps(config))
                model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place))
            cases.append({"config": config, "frequencies": model.model.rotary_emb.inv_freq.tolist()})
    dump("rope.json", {"versions": VERSIONS, "cases": cases})


# ---------------------------------------------------------------- GELU


def make_gelu():
    names = ["gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"]
    gen = torch.Generator().manual_seed(30)
    rows = [make_row(gen, q, n, a) for q, n, a in ((9, 0, 3), (4, 1, 7), (5, 4, 4))]
    about, tensors = {"versions": VERSIONS, "latent": LATENT, "ids": IDS[0], "names": names}, {}
    for name in names:
        model = load("latent", activation_function=name).to(torch.float64).eval()
        tensors[f"{name}.logits"] = logits_of(model)
        if name in ("gelu", "gelu_fast"):
            loss, count, _ = latent_loss(model, rows)
            loss.backward()
            about[name] = {"loss": loss.item(), "labelled_tokens": count, "rows": rows}
            tensors |= {f"{name}.grad.{key}": p.grad for key, p in model.named_parameters()}
    apart = (tensors["gelu.logits"] - tensors["gelu_new.logits"]).abs().max()
    assert apart > 3e-4, f"the two functions cannot be told apart: {apart}"
    dump("gelu.json", about)
    store("gelu.safetensors", tensors)


# ---------------------------------------------------------------- one of two names


def tied_llama():
    torch.manual_seed(31)
    config = LlamaConfig(
        **SHARED | dict(num_hidden_layers=1), num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True
    )
    return LlamaForCausalLM(config)


def make_tied():
    logits = {}
    for name, make in (("gpt2", lambda: load("latent")), ("qwen2", lambda: load("families/qwen2")), ("llama", tied_llama)):
        model, folder = make().eval(), FILES / "tied" / name
        folder.mkdir(parents=True)
        model.config.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"))
        assert "lm_head.weight" in load_file(folder / "model.safetensors")
        logits[name] = logits_of(GPT2LMHeadModel.from_pretrained(folder) if name == "gpt2" else AutoModelForCausalLM.from_pretrained(folder))
    store("tied.safetensors", logits)


# ---------------------------------------------------------------- adapters


def make_adapters():
    maps, tables = ["q_proj", "v_proj"], ["embed_tokens", "lm_head"]
    added = [41, 42, 43]
    qwen2, qwen3 = "families/qwen2", "families/qwen3"  # tied and not
    variants = {
        # The vocabulary was resized before the adapters were made: PEFT writes both tables.
        "resized": (qwen2, 44, {}),
        "resized_untied": (qwen3, 44, {}),
        "shrunk": (qwen3, 40, {}),
        "resized_and_saved": (qwen2, 44, dict(modules_to_save=tables)),
        "resized_tokens": (qwen2, 44, dict(trainable_token_indices=added)),
        # Whole tables beside the adapters. Of a tied model each becomes a table of its own.
        "saved_both": (qwen2, None, dict(modules_to_save=tables)),
        "saved_embedding": (qwen2, None, dict(modules_to_save=["embed_tokens"])),
        "saved_head": (qwen2, None, dict(modules_to_save=["lm_head"])),
        "saved_tied": (qwen2, None, dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
        "saved_both_untied": (qwen3, None, dict(modules_to_save=tables)),
        "saved_wte": ("latent", None, dict(modules_to_save=["wte"], target_modules=["c_attn"], fan_in_fan_out=True)),
        "tokens_by_table": (qwen2, None, dict(trainable_token_indices={table: [3, BOT] for table in tables})),
        # Scales and ranks of their own. The first pattern that fits counts.
        "patterns": (qwen3, None, dict(rank_pattern={"layers.1.self_attn.q_proj": 4, "q_proj": 2}, alpha_pattern={"v_proj": 7})),
        "rank_stabilised": (qwen3, None, dict(use_rslora=True, rank_pattern={"v_proj": 2})),
        "orthogonal": (qwen3, None, dict(init_lora_weights="orthogonal", r=4)),
    }
    logits = {}
    for name, (below, rows, more) in variants.items():
        torch.manual_seed(32)

        def base():
            model = load(below)
            if rows:
                model.resize_token_embeddings(rows, mean_resizing=False)
            return model

        config = peft.LoraConfig(**dict(task_type="CAUSAL_LM", r=3, lora_alpha=5, target_modules=maps) | more)
        model = peft.get_peft_model(base(), config)
        table = ("embed_tokens", "lm_head") if rows else ()
        with torch.no_grad():
            for key, p in model.named_parameters():
                if p.requires_grad or any(part in key for part in table):
                    p.copy_(0.2 * torch.randn_like(p))
        folder = FILES / "adapters" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        about = json.loads((folder / "adapter_config.json").read_text())
        about["base_model_name_or_path"] = f"tests/fixtures/torch/{below}"
        about["target_modules"] = sorted(about["target_modules"])  # a set, in no order
        # The order of `rank_pattern` counts, so keys are not sorted.
        (folder / "adapter_config.json").write_text(json.dumps(about, indent=1) + "\n")
        logits[name] = logits_of(peft.PeftModel.from_pretrained(base(), folder))
        kept = (logits_of(model) - logits[name]).abs().max()
        assert kept < 1e-6, f"{name}: PEFT itself does not read what it wrote: {kept}"
    store("adapters.safetensors", logits)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir(parents=True)
    make_rope()
    make_gelu()
    make_tied()
    make_adapters()
    for path in FILES.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(f.stat().st_size for f in FILES.rglob("*") if f.is_file())
    print(f"{FILES}: {size / 1024:.0f} KiB", file=sys.stderr)
    assert size < 700 * 1024
