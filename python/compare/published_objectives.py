"""Losses and gradients of published latent-reasoning code, against the project's independent reference.

    python -m venv venv && venv/bin/pip install torch==2.11.0 transformers==4.46.2 peft==0.13.2 accelerate datasets \
        safetensors numpy tqdm
    venv/bin/python python/compare/published_objectives.py [--lotus CHECKOUT] [--codi CHECKOUT] [--simcot CHECKOUT]
                                                           [--pccot CHECKOUT] [--icot CHECKOUT] [--json FILE]
    venv/bin/python python/compare/published_objectives.py --time [--lotus CHECKOUT] [--codi CHECKOUT] [--repeat 5]

Each CHECKOUT is a copy of a published repository, whose modules are imported as they are; what a CPU does not have
is replaced from outside. A tiny random GPT-2 (and Llama) and its tokenizer are made on disk, their code builds its
rows from text, and its training forward gives loss terms and gradients, in float64 and without dropout. The same
rows, read off their tensors, go through the reference of python/fixtures/objectives.py. Before that the rows are
held against what docs say they are. A line "same" is an agreement; a line "differs" names a place where the published
code does something else, with both values.
"""

import argparse
import contextlib
import copy
import importlib
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, NamedTuple

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from memory import peak_gb

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
sys.argv, ARGV = sys.argv[:1], sys.argv[1:]  # shared.py looks at them
from shared import in_double

F = torch.nn.functional
METHODS = "lotus", "codi", "simcot", "pccot", "icot"
IGNORE = -100

# ---------------------------------------------------------------- a tiny model and its tokenizer on disk

# 38 tokens, the last one eos, so that three added ones are 38, 39, 40. The first is never in a step (one
# published script pads steps with zeros).
TOKENS = [*"#Theanswrixtpul:", "Ġ", *"0123456789+-*/=<>", "Ċ", "<<", ">>", "<|endoftext|>"]
assert len(TOKENS) == 37 + 1 and len(set(TOKENS)) == len(TOKENS)


def tiny(folder, kind="gpt2", width=16, layers=2, heads=2, positions=256, vocab=len(TOKENS), spread=0.2):
    """A random model with its tokenizer, in a folder whose name has `kind` in it (published code looks at names)."""
    path = Path(folder) / f"tiny-{kind}"
    path.mkdir(parents=True, exist_ok=True)
    eos = TOKENS.index("<|endoftext|>")
    torch.manual_seed(5)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocab,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=positions,
            initializer_range=spread,
            bos_token_id=eos,
            eos_token_id=eos,
        )
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 2),
            intermediate_size=3 * width // 2,
            max_position_embeddings=positions,
            initializer_range=spread,
            bos_token_id=eos,
            eos_token_id=eos,
        )
        model = LlamaForCausalLM(config)
    if width < 64:  # biases and norms away from 0 and 1
        with torch.no_grad():
            for p in model.parameters():
                p.add_(spread / 2 * torch.randn_like(p))
    model.save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(TOKENS)}))
    (path / "merges.txt").write_text("#version: 0.2\n< <\n> >\n")
    special = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "<|endoftext|>")
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "model_max_length": 4096, **special})
    )
    (path / "special_tokens_map.json").write_text(json.dumps(special))
    return path


def examples(seed, steps, words, answers=None):
    """Questions of so many letters, chains of so many steps."""
    gen = random.Random(seed)
    out = []
    for i, (n, letters) in enumerate(zip(steps, words)):
        number = lambda: str(gen.randint(1, 9))
        question = "".join(gen.choice("Theanswrixtpul") for _ in range(letters))
        chain = [f"<<{number()}{gen.choice('+-*/')}{number()}={number()}{number()}>>" for _ in range(n)]
        out.append({"question": question, "steps": chain, "answer": answers[i] if answers else number() + number()})
    return out


# ---------------------------------------------------------------- running their code


@contextlib.contextmanager
def imports_from(folder):
    """Their modules have names such as `model` and `utils`: afterwards they are forgotten."""
    folder = str(Path(folder).resolve())
    sys.path.insert(0, folder)
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(folder):
                del sys.modules[name]


@contextlib.contextmanager
def replaced(owner, **values):
    old = {k: getattr(owner, k) for k in values}
    for k, v in values.items():
        setattr(owner, k, v)
    try:
        yield
    finally:
        for k, v in old.items():
            setattr(owner, k, v)


FLOAT = torch.Tensor.float


def double_everywhere():
    """Masks of transformers are made in the default type, rotations and some logits in `.float()`."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


@contextlib.contextmanager
def quiet():
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        yield


def one_process():
    """`map` of datasets without 32 processes."""
    from datasets import Dataset

    map_ = Dataset.map
    return replaced(Dataset, map=lambda self, *a, num_proc=None, **k: map_(self, *a, **k, load_from_cache_file=False))


def without_dropout(model):
    """Training mode, since some code asks, with every probability 0."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    for module in model.modules():
        for name in ("attn_pdrop", "resid_pdrop", "embd_pdrop"):
            if hasattr(getattr(module, "config", None), name):
                setattr(module.config, name, 0.0)
    return model


def doubled(model):
    in_double(model)
    for module in model.modules():
        if type(module).__name__.endswith(
            "RMSNorm"
        ):  # a cast from bfloat16 copies; without one, writing in place breaks autograd
            module.register_forward_pre_hook(lambda m, a: (a[0].clone(),))
    return without_dropout(model)


def plain(model):
    """The ordinary model of transformers with these weights, which is what the reference takes."""
    kind = GPT2LMHeadModel if hasattr(model, "transformer") else LlamaForCausalLM
    config = (GPT2Config if kind is GPT2LMHeadModel else LlamaConfig)(
        **{k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures", "torch_dtype")}
    )
    config._attn_implementation = "sdpa"
    copied = kind(config)
    missing = copied.load_state_dict({k: v.detach().clone() for k, v in model.state_dict().items()}, strict=False)
    assert not [k for k in missing.missing_keys if k != "lm_head.weight"], missing
    copied.tie_weights()
    return in_double(copied)


def named_gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- what is found


class Found(NamedTuple):
    """Their numbers for one case, and what the reference needs to compute its own."""

    method: str
    what: str
    losses: dict
    gradients: dict
    model: torch.nn.Module
    case: dict
    parts: dict = {}
    decoder: torch.nn.Module = None
    chain: Callable = lambda gradients: gradients  # from the reference's gradients to theirs


class Report:
    def __init__(self):
        self.lines = []

    def add(self, method, case, verdict, **about):
        self.lines.append({"method": method, "case": case, "verdict": verdict, **about})
        print(json.dumps(self.lines[-1]), flush=True)

    def equal(self, method, case, theirs, ours):
        """Token ids, labels and positions: exactly."""
        self.add(
            method,
            case,
            "same" if theirs == ours else "differs",
            **({} if theirs == ours else {"published": theirs, "docs": ours}),
        )

    def numbers(self, method, case, theirs, ours, tolerance=1e-6):
        """Losses and gradients, by the largest relative difference (over the largest entry of a gradient)."""
        worst, where = 0.0, None
        missing = sorted(set(theirs) ^ set(ours))
        for name in set(theirs) & set(ours):
            a, b = torch.as_tensor(theirs[name]).double(), torch.as_tensor(ours[name]).double()
            scale = max(a.abs().max().item(), b.abs().max().item(), 1e-12)
            off = (a - b).abs().max().item() / scale if a.shape == b.shape else math.inf
            if off >= worst:
                worst, where = off, name
        nothing = lambda name: torch.as_tensor({**theirs, **ours}[name]).abs().max().item() == 0
        missing = [name for name in missing if not nothing(name)]
        verdict = "same" if worst <= tolerance and not missing else "differs"
        about = {"terms": len(set(theirs) & set(ours)), "worst": worst, "at": where}
        if missing:
            about["only_one_side"] = missing
        if verdict == "differs":
            about["values"] = {
                k: [float(theirs[k]), float(ours[k])]
                for k in theirs
                if k in ours and torch.as_tensor(theirs[k]).numel() == 1
            }
        self.add(method, case, verdict, **about)


def reference(model, case, parts=None, decoder=None):
    """Losses of the project's reference on a case, by name, and the gradients of the weighted total."""
    if not hasattr(
        sys.modules["transformers"], "Qwen3ForCausalLM"
    ):  # younger than what published code runs with, and not used here
        sys.modules["transformers"].Qwen3ForCausalLM = None
    import objectives

    model.zero_grad()
    parts = {k: v.detach().double().clone().requires_grad_() for k, v in (parts or {}).items()}
    losses = objectives.losses(model, case, parts, decoder)
    losses["total"].backward()
    gradients = {f"model.{k}": v for k, v in named_gradients(model).items()}
    gradients |= {f"reinject.{k}": p.grad for k, p in parts.items() if p.grad is not None}
    if decoder is not None:
        gradients |= {f"decoder.{k}": v for k, v in named_gradients(decoder).items()}
    return {name: value.item() for name, value in losses.items()}, gradients


def row(ids, labels, example, role="student", step_targets=None, anchor=None, decoder_texts=None):
    return {
        "ids": ids,
        "labels": labels,
        "step_targets": step_targets,
        "role": role,
        "anchor": anchor,
        "example": example,
        "decoder_texts": decoder_texts,
    }


def tail(ids, start):
    """Labels of the tokens from `start` on."""
    return [IGNORE] * start + ids[start:]


# ---------------------------------------------------------------- LOTUS


def lotus_modules(checkout):
    import lotus as module
    import dataset

    return module.Lotus, dataset


def lotus_batch(dataset, tokenizer, folder, data, stage, c, stages, markers):
    """Their own rows and their own padding."""
    path = Path(folder) / "data.json"
    path.write_text(json.dumps(data))
    start, end, latent = markers
    configs = SimpleNamespace(
        uniform_prob=0.0, max_latent_stage=stages, no_cot=False, c_thought=c, pad_latent_to_max=True
    )
    with one_process(), quiet():
        rows = dataset.get_cot_latent_dataset(stage, dataset.get_dataset(path, tokenizer), configs, start, latent, end)
        rows = [rows[i] for i in range(len(rows))]
        batch = dataset.MyCollator(tokenizer, latent_id=latent, label_pad_token_id=IGNORE)(copy.deepcopy(rows))
    return rows, {k: v for k, v in batch.items() if k not in ("idx", "answer_labels")}


def lotus_build(Lotus, path, c, kind="gpt2", **settings):
    """As run.py builds it: three tokens added, their rows copies of that of `<<`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    model = transformers.AutoModelForCausalLM.from_pretrained(str(path))
    tokenizer.pad_token = tokenizer.eos_token
    markers = []
    for token in ("<|start-latent|>", "<|end-latent|>", "<|latent|>"):
        tokenizer.add_tokens(token)
        markers.append(tokenizer.convert_tokens_to_ids(token))
    model.resize_token_embeddings(model.config.vocab_size + 3)
    start, end, latent = markers
    lotus = Lotus(
        model,
        latent,
        start,
        end,
        tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        c_thought=c,
        **{"intermediate_loss_weight": 0.05, "intermediate_loss_after_loop": True, **settings},
    )
    return lotus, tokenizer, markers


def lotus_rows(tokenizer, data, stage, c, markers):
    """What docs say a row of blocks is, with its step targets."""
    start, end, latent = markers
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
    rows = []
    for i, example in enumerate(data):
        question, steps = encode(example["question"] + "\n"), [encode(s + "\n") for s in example["steps"]]
        head = question + [start] + [latent] * (stage * c) + [end]
        ids = head + [*itertools.chain(*steps[stage:])] + encode("### " + example["answer"]) + [tokenizer.eos_token_id]
        targets = [IGNORE] * len(ids)
        for k, step in enumerate(steps[:stage]):
            for j, token in enumerate(step[:c]):
                targets[len(question) + k * c + j] = token
        rows.append(row(ids, tail(ids, len(head)), i, step_targets=targets))
    return rows


def lotus_uncut(tokenizer, data, stage, c, markers):
    """The same rows where steps run on into the next block, and what falls off the region's end is lost."""
    rows = lotus_rows(tokenizer, data, stage, c, markers)
    for made, example in zip(rows, data):
        first = made["ids"].index(markers[0])
        steps = [tokenizer.encode(s + "\n", add_special_tokens=False) for s in example["steps"][:stage]]
        said = [(k * c + i, token) for k, step in enumerate(steps) for i, token in enumerate(step)]
        made["step_targets"] = None
        made["step_list"] = [(first + at, token) for at, token in said if at <= stage * c]
        made["lost"] = sum(at > stage * c for at, _ in said)
    return rows


def lotus(checkout, report, folder):
    with imports_from(checkout / "scripts"):
        Lotus, dataset = lotus_modules(checkout)
    c, stages, fits = 9, 3, dict(spare=(2, 4, 1, 3), full=(3, 3, 4, 5))
    for kind, name, stage, after, injection in [
        ("gpt2", "spare", 3, True, "add"),
        ("gpt2", "spare", 3, False, "add"),
        ("gpt2", "full", 2, True, "add"),
        ("gpt2", "full", 0, True, "add"),
        ("gpt2", "spare", 2, True, "replace"),
        ("llama", "spare", 3, True, "add"),
    ]:
        data = examples(1, fits[name], (5, 9, 3, 7))
        when = "after the last iteration" if after else "block t at iteration t"
        what = f"{kind}, {name}, stage {stage}, {when}, {injection}"
        path = tiny(folder, kind)
        model, tokenizer, markers = lotus_build(
            Lotus, path, c, intermediate_loss_after_loop=after, latent_injection_mode=injection
        )
        doubled(model).train()
        items, batch = lotus_batch(dataset, tokenizer, folder, data, stage, c, stages, markers)
        rows = lotus_rows(tokenizer, data, stage, c, markers)
        report.equal(
            "lotus",
            f"rows: {what}",
            [[r["input_ids"], r["labels"]] for r in items],
            [[r["ids"], r["labels"]] for r in rows],
        )
        out = model(**batch, n_looped_iters=stage)
        out.loss.backward()
        theirs = {"answer": out.main_loss.item(), "total": out.loss.item()} | (
            {"steps": out.intermediate_loss.item()} if stage else {}
        )
        gradients = {f"model.{k}": v for k, v in named_gradients(model.base_causallm).items()}
        case = {
            "thinking": "parallel",
            "iterations": stage,
            "shift": 0,
            "residual": injection == "add",
            "feedback": "hs[-1]",
            "rows": rows,
            "weights": {"answer": 1.0} | ({"steps": 0.05} if stage else {}),
            "steps_at": "last" if after else "own",
            "c": c,
            "latent": markers[2],
        }
        yield Found("lotus", what, theirs, gradients, plain(model.base_causallm), case)
    # Steps longer than a block.
    c, stage, data = 4, 2, examples(1, (2, 3), (5, 9))
    model, tokenizer, markers = lotus_build(Lotus, tiny(folder), c)
    doubled(model).train()
    _, batch = lotus_batch(dataset, tokenizer, folder, data, stage, c, stage, markers)
    out = model(**batch, n_looped_iters=stage)
    out.loss.backward()
    yield Found(
        "lotus",
        "steps longer than a block, running on into the next one (`steps_cut: False`)",
        {"answer": out.main_loss.item(), "steps": out.intermediate_loss.item(), "total": out.loss.item()},
        {f"model.{k}": v for k, v in named_gradients(model.base_causallm).items()},
        plain(model.base_causallm),
        {
            "thinking": "parallel",
            "iterations": stage,
            "shift": 0,
            "residual": True,
            "feedback": "hs[-1]",
            "rows": lotus_uncut(tokenizer, data, stage, c, markers),
            "weights": {"answer": 1.0, "steps": 0.05},
            "steps_at": "last",
            "c": c,
            "latent": markers[2],
        },
    )
    rows = lotus_rows(tokenizer, data, stage, c, markers)
    with torch.no_grad():
        logits = lotus_region_logits(model, batch, stage)
    total, counted, cut = 0.0, 0, 0
    for b, example in enumerate(batch["replaced_cot_steps"]):
        for k, step in enumerate(example):
            step = step[step != tokenizer.pad_token_id]
            counted += len(step)
            for i, token in enumerate(step):
                if k * c + i < logits.shape[1]:
                    total += F.cross_entropy(logits[b, k * c + i], token).item()
                else:
                    cut += 1
    report.numbers(
        "lotus",
        f"steps longer than a block are not cut: token i of step k is at k·c + i for every i, {cut} of {counted} fall "
        "off the region's end and still count in the divisor",
        {"steps": out.intermediate_loss.item()},
        {"steps": total / counted},
    )
    docs = [
        F.cross_entropy(logits[b, p - r["ids"].index(markers[0])], torch.tensor(t)).item()
        for b, r in enumerate(rows)
        for p, t in enumerate(r["step_targets"])
        if t >= 0
    ]
    report.numbers(
        "lotus",
        "steps longer than a block, cut to c as docs say",
        {"steps": out.intermediate_loss.item()},
        {"steps": statistics.mean(docs)},
    )

    model, tokenizer, markers = lotus_build(Lotus, tiny(folder, "llama"), c)
    with replaced(torch.Tensor, float=FLOAT):
        model = without_dropout(model.to(torch.float32)).train()
        try:
            model(**batch, n_looped_iters=stage).loss.backward()
            failed = None
        except RuntimeError as error:
            failed = str(error).split(":")[0]
    report.add("lotus", "llama in float32, backward", "note", error=failed)


def lotus_region_logits(model, batch, stage):
    """Logits over [bot, latents] of the last iteration, as their eval mode keeps them."""
    model.eval()
    region = model(**batch, n_looped_iters=stage).intermediate_logits[-1]
    model.train()
    return region


# ---------------------------------------------------------------- CODI


def codi_run(checkout, path, data, kind, latents, extra=()):
    """Run their train() on our examples up to the trainer, which is replaced: what it was given."""
    got = {}

    class Trainer:
        def __init__(self, model, tokenizer, args, train_dataset, eval_dataset, data_collator):
            got.update(model=model, tokenizer=tokenizer, dataset=train_dataset, collator=data_collator)

        train = save_state = save_model = lambda self, **_: None

    rows = [{"question": e["question"], "cot": " ".join(e["steps"]), "answer": e["answer"]} for e in data]
    with imports_from(checkout):
        train = importlib.import_module("train")
        model_module = importlib.import_module("src.model")
    # LoRA's settings, as their scripts give them; these tests decide whether it is used.
    sys.argv[1:] = [
        "--output_dir",
        str(path.parent / "out"),
        "--model_name_or_path",
        str(path),
        "--data_name",
        "icot",
        "--model_max_length",
        "512",
        "--lora_r",
        "4",
        "--lora_alpha",
        "8",
        "--lora_init",
        "--do_train",
        "--num_latent",
        str(latents),
        "--use_prj",
        "True",
        "--prj_dim",
        "16",
        "--prj_dropout",
        "0.0",
        "--distill_loss_div_std",
        "True",
        "--remove_eos",
        "True",
        "--report_to",
        "none",
        "--print_loss",
        "False",
        *extra,
    ]
    with quiet(), contextlib.ExitStack() as stack:
        stack.enter_context(replaced(train, CustomTrainer=Trainer))
        if hasattr(train, "read_json"):  # one copy reads a file of its authors' machine
            stack.enter_context(replaced(train, read_json=lambda _: copy.deepcopy(rows)))
        stack.enter_context(replaced(train, load_dataset=lambda _: {"train": copy.deepcopy(rows)}))
        train.train()
    del sys.argv[1:]
    got["module"] = model_module
    return SimpleNamespace(**got)


def codi_rows(run, data, latents, include_last=False):
    """What docs say the two rows are. The anchor is the token before the answer's value: the space where it is
    a token of its own and the code takes it so."""
    tokenizer, model = run.tokenizer, run.model
    encode = lambda text: tokenizer.encode(text)
    llama = "llama" in model.model_name.lower()
    prompt = encode("The answer is:")
    rows = []
    for i, example in enumerate(data):
        question = encode(example["question"])
        chain = encode(" ".join(example["steps"] if include_last else example["steps"][:-1]))
        answer = encode(f"The answer is: {example['answer']}") + [tokenizer.eos_token_id]
        head = question + [model.bot_id] + [model.pad_token_id] * latents + [model.eot_id]
        anchor = len(prompt) - 1 + llama
        rows.append(row(head + answer, tail(head + answer, len(head)), i, anchor=len(head) + anchor))
        ids = question + chain + answer
        rows.append(row(ids, tail(ids, len(question)), i, role="teacher", anchor=len(question) + len(chain) + anchor))
    return rows


def codi_their_rows(run, latents):
    """The same, from what their preprocessing gave."""
    rows, model = [], run.model
    llama = "llama" in model.model_name.lower()
    for i in range(len(run.dataset)):
        item = {k: torch.as_tensor(v).tolist() for k, v in run.dataset[i].items()}
        head = item["encoder_input_ids"] + [model.pad_token_id] * latents
        ids = head + item["decoder_input_ids"]
        rows.append(row(ids, tail(ids, len(head) + 1), i, anchor=len(head) + item["model_answer_position"] - 1 + llama))
        labels = item["ref_labels"]
        rows.append(
            row(item["ref_input_ids"], labels, i, role="teacher", anchor=item["ref_answer_position"] - 1 + llama)
        )
    return rows


def codi_parts(prj):
    return {
        "mlp.0.c_fc.weight": prj[1].weight.T,
        "mlp.0.c_fc.bias": prj[1].bias,
        "mlp.0.c_proj.weight": prj[3].weight.T,
        "mlp.0.c_proj.bias": prj[3].bias,
        "ln.0.weight": prj.ln.weight,
        "ln.0.bias": prj.ln.bias,
    }


def codi_part_gradients(prj):
    grads = {
        "mlp.0.c_fc.weight": prj[1].weight.grad.T,
        "mlp.0.c_fc.bias": prj[1].bias.grad,
        "mlp.0.c_proj.weight": prj[3].weight.grad.T,
        "mlp.0.c_proj.bias": prj[3].bias.grad,
        "ln.0.weight": prj.ln.weight.grad,
        "ln.0.bias": prj.ln.bias.grad,
    }
    return {f"reinject.{k}": v for k, v in grads.items()}


def codi_step(run, order=None):
    batch = run.collator([run.dataset[i] for i in order or range(len(run.dataset))])
    doubled(run.model).train()
    with quiet():
        out = run.model(**batch)
    out["loss"].backward()
    losses = {
        "answer": out["ce_loss"],
        "teacher": out["ref_ce_loss"],
        "distil": out["distill_loss"],
        "total": out["loss"].item(),
    }
    return {k: float(v) for k, v in losses.items()}, batch, out


def codi(checkout, report, folder):
    latents = 3
    even, uneven = (6, 6, 6), (3, 8, 5)
    for kind, words, lora, gamma, fix in [
        ("gpt2", even, False, 1.0, False),
        ("llama", even, False, 20.0, False),
        ("gpt2", even, True, 1.0, False),
        ("gpt2", uneven, False, 1.0, False),
        ("llama", uneven, False, 20.0, False),
        ("gpt2", uneven, False, 1.0, True),
        ("llama", uneven, False, 20.0, True),
    ]:
        data = examples(2, (2, 1, 3), words)
        extra = ["--use_lora", str(lora), "--distill_loss_factor", str(gamma), "--fix_attn_mask", str(fix)]
        run = codi_run(checkout, tiny(folder, kind), data, kind, latents, extra)
        padded = "questions of one length" if words is even else "questions padded"
        what = f"{kind}, {padded}{', LoRA' if lora else ''}{', fix_attn_mask' if fix else ''}"
        rows = codi_rows(run, data, latents)
        report.equal("codi", f"rows: {what}", codi_their_rows(run, latents), rows)
        if lora:
            yield from codi_lora(report, run, rows, latents, what)
            continue
        losses, batch, _ = codi_step(run)
        losses["distil"] /= gamma  # they give it with its factor
        gradients = {f"model.{k}": v for k, v in named_gradients(run.model.codi).items()} | codi_part_gradients(
            run.model.prj
        )
        case = codi_case(run, rows, latents, gamma)
        yield Found("codi", what, losses, gradients, plain(run.model.codi), case, codi_parts(run.model.prj))
        if words is uneven:
            who = "latents" if fix else "latents and answer"
            ours, our_gradients = codi_padding_seen(run, batch, latents, fix)
            report.numbers("codi", f"gradients: {what}: the same", gradients, our_gradients)
            report.numbers(
                "codi",
                f"losses: {what}: positions count the padding; {who} see it, the others do not",
                losses,
                ours,
            )
    # A first example of one step leaves an empty chain.
    try:
        codi_run(checkout, tiny(folder), examples(2, (1, 2), even), "gpt2", latents)
        failed = None
    except IndexError as error:
        failed = str(error)
    del sys.argv[1:]
    report.add("codi", "data whose first example has one step", "note", error=failed)
    # Which examples are dropped.
    data = examples(2, (2, 2, 2), even, answers=["7", "-7", "1,000"])
    run = codi_run(checkout, tiny(folder), data, "gpt2", latents)
    kept = [run.tokenizer.decode(run.dataset[i]["encoder_input_ids"][:-1]) for i in range(len(run.dataset))]
    report.equal(
        "codi",
        "examples kept of answers 7, -7 and 1,000",
        [e["answer"] for e in data if e["question"] in kept],
        ["7", "-7", "1,000"],
    )
    # What is trained with LoRA, and the two forwards of the teacher.
    run = codi_run(checkout, tiny(folder), examples(2, (2, 1, 3), even), "gpt2", latents, ["--use_lora", "True"])
    trained = sorted(
        {
            k.split(".")[-3] if "lora" in k else k.rsplit(".", 1)[0]
            for k, p in run.model.named_parameters()
            if p.requires_grad
        }
    )
    report.add(
        "codi", "trained with LoRA", "note", modules=trained, new_tokens_trained=any("wte" in k for k in trained)
    )
    batch = run.collator([run.dataset[i] for i in range(len(run.dataset))])
    run.model.double().train()
    calls, hook = [], run.model.codi.register_forward_hook(
        lambda m, a, k, out: (
            calls.append((k["input_ids"].shape[1], out.logits.requires_grad, out.hidden_states[-1].detach()))
            if k.get("input_ids") is not None
            else None
        ),
        with_kwargs=True,
    )
    with quiet():
        run.model(**batch)
    hook.remove()
    target, trained_pass = calls[1], calls[2]
    report.add(
        "codi",
        "the teacher's target and its CE come from two forwards",
        "note",
        target_has_gradient=target[1],
        ce_has_gradient=trained_pass[1],
        same_states_under_dropout=bool(torch.equal(target[2], trained_pass[2])),
        largest_difference=(target[2] - trained_pass[2]).abs().max().item(),
    )


def codi_case(run, rows, latents, gamma, layers="all"):
    return {
        "thinking": "sequential",
        "iterations": latents,
        "shift": 1,
        "residual": False,
        "feedback": "ln(mlp[1](hs[-1]))",
        "rows": rows,
        "weights": {"answer": 1.0, "teacher": 1.0, "distil": gamma},
        "distil_layers": layers,
        "latent": run.model.pad_token_id,
    }


def codi_lora(report, run, rows, latents, what):
    """Adapters with B away from 0: dW of the merged weights gives dA and dB."""
    gen = torch.Generator().manual_seed(3)
    for name, p in run.model.named_parameters():
        if "lora_B" in name:
            p.data.copy_(0.1 * torch.randn(p.shape, generator=gen))
    losses, _, _ = codi_step(run)
    base = run.model.codi.get_base_model()
    adapters = {n: m for n, m in base.named_modules() if hasattr(m, "lora_A")}
    pairs = {
        n: (m.lora_A["default"].weight, m.lora_B["default"].weight, m.scaling["default"]) for n, m in adapters.items()
    }
    state = {k.replace(".base_layer", ""): v.detach().clone() for k, v in base.state_dict().items() if "lora_" not in k}
    for n, (a, b, scale) in pairs.items():
        state[f"{n}.weight"] += (scale * b @ a).detach().T  # Conv1D is [in, out]
    config = GPT2Config(
        **{k: v for k, v in base.config.to_dict().items() if k not in ("model_type", "architectures", "torch_dtype")}
    )
    config._attn_implementation = "sdpa"
    merged = GPT2LMHeadModel(config)
    merged.load_state_dict(state)
    gradients = {}
    for n, (a, b, _) in pairs.items():
        gradients[f"{n}.A"], gradients[f"{n}.B"] = a.grad, b.grad
    gradients |= codi_part_gradients(run.model.prj)

    def chain(ours):
        out = {k: v for k, v in ours.items() if k.startswith("reinject.")}
        for n, (a, b, scale) in pairs.items():
            dw = ours[f"model.{n}.weight"].T
            out[f"{n}.A"], out[f"{n}.B"] = scale * b.detach().T @ dw, scale * dw @ a.detach().T
        return out

    yield Found(
        "codi",
        what,
        losses,
        gradients,
        in_double(merged),
        codi_case(run, rows, latents, 1.0),
        codi_parts(run.model.prj),
        chain=chain,
    )


def padded_forward(model, embeds, visible, dead=(), positions=None):
    """One pass over whole rows in which position q sees k where visible[b, q, k], positions counted from the padding.
    The `dead` (b, q, width) see the first `width` positions with equal weights: a softmax over numbers that are all
    the smallest there is. So it is on a CPU; elsewhere what such rows hold is up to the kernel."""
    mask = torch.zeros(visible.shape, dtype=embeds.dtype).masked_fill(~visible, -math.inf)
    for b, q, width in dead:
        mask[b, q, :width] = torch.finfo(embeds.dtype).min
    mask = mask[:, None]
    from transformers.models.gpt2 import modeling_gpt2
    from transformers.models.llama.modeling_llama import LlamaModel

    positions = torch.arange(embeds.shape[1])[None].expand(embeds.shape[0], -1) if positions is None else positions
    with replaced(modeling_gpt2, _prepare_4d_causal_attention_mask_for_sdpa=lambda **_: mask):
        with replaced(LlamaModel, _update_causal_mask=lambda *_: mask):
            return model(inputs_embeds=embeds, position_ids=positions, output_hidden_states=True)


def codi_padding_seen(run, batch, latents, fix):
    """Losses and gradients as they should be if the padding is seen by latents, and by the answer without their
    `fix_attn_mask`."""
    model = plain(run.model.codi)
    table = model.get_input_embeddings()
    encoder, decoder = batch["encoder_input_ids"], batch["decoder_input_ids"]
    real = encoder.ne(run.tokenizer.pad_token_id)
    n, width = encoder.shape[1], encoder.shape[1] + latents + decoder.shape[1]
    visible = torch.ones(width, width).tril().bool()[None].repeat(len(encoder), 1, 1)
    visible[:, :n, :n] &= real[:, None]
    if fix:
        visible[:, n + latents :, :n] &= real[:, None]
    dead = [(b, q, n) for b, q in (~real).nonzero().tolist()]
    embeds = torch.cat(
        [table(encoder), torch.zeros(len(encoder), latents, table.weight.shape[1]).double(), table(decoder)], 1
    )
    prj = run.model.prj
    prj.zero_grad()
    for i in range(latents):
        h = padded_forward(model, embeds, visible, dead).hidden_states[-1][:, n + i - 1]
        embeds = embeds.clone()
        embeds[:, n + i] = prj(h)
    out = padded_forward(model, embeds, visible, dead)
    teacher = model(input_ids=batch["ref_input_ids"], output_hidden_states=True)
    ce = lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    llama = "llama" in run.model.model_name.lower()
    at = torch.arange(len(encoder))
    student_at = n + latents + batch["model_answer_position"] - 1 + llama
    teacher_at = batch["ref_answer_position"] - 1 + llama
    distil = mean_distil(
        [h[at, student_at] for h in out.hidden_states], [h[at, teacher_at] for h in teacher.hidden_states]
    )
    losses = {
        "answer": ce(out.logits[:, n + latents :], batch["labels"]),
        "teacher": ce(teacher.logits, batch["ref_labels"]),
        "distil": distil,
    }
    losses["total"] = losses["answer"] + losses["teacher"] + run.model.distill_loss_factor * distil
    losses["total"].backward()
    gradients = {f"model.{k}": v for k, v in named_gradients(model).items()} | codi_part_gradients(prj)
    return {k: v.item() for k, v in losses.items()}, gradients


def mean_distil(student, teacher):
    """Over layers, of states [batch, width]."""
    return sum(F.smooth_l1_loss(s, t.detach()) / t.detach().std() for s, t in zip(student, teacher)) / len(student)


# ---------------------------------------------------------------- SIM-CoT


def simcot_coconut(checkout, report, folder):
    """The model with a decoder, on Coconut. Their run.py does not give it a step's text: its own functions for that
    are used here."""
    with imports_from(checkout / "Coconut"):
        import coconut as module
        import dataset
    source = (checkout / "Coconut/run.py").read_text()
    report.add(
        "simcot",
        "coconut: run.py calls the functions that make the decoder's texts",
        "note",
        dataset="get_cot_with_explainable_latent_dataset(" in source,
        collator="MyExplainableCollator(" in source,
    )
    c, stages = 2, 3
    for kind, stage, steps in [
        ("gpt2", 4, (2, 5, 3, 4)),
        ("gpt2", 3, (2, 5, 3, 1)),
        ("gpt2", 2, (2, 4, 1, 3)),
        ("llama", 4, (2, 5, 3, 4)),
    ]:
        what = f"coconut, {kind}, stage {stage} of {stages}, steps {steps}"
        data, path = examples(3, steps, (5, 9, 3, 7)), tiny(folder, kind)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
        tokenizer.pad_token = tokenizer.eos_token
        base, decoder = (transformers.AutoModelForCausalLM.from_pretrained(path) for _ in range(2))
        with torch.no_grad():  # a decoder that is not the base
            for p in decoder.parameters():
                p.add_(0.05 * torch.randn_like(p))
        markers = []
        for token in ("<|start-latent|>", "<|end-latent|>", "<|latent|>"):
            tokenizer.add_tokens(token)
            markers.append(tokenizer.convert_tokens_to_ids(token))
        start, end, latent = markers
        base.resize_token_embeddings(len(tokenizer))
        configs = SimpleNamespace(
            training_method="full",
            explain_mode="v1_aug",
            max_latent_stage=stages,
            c_thought=c,
            uniform_prob=0.0,
            no_cot=False,
            pad_latent_to_max=True,
        )
        doubled(base), doubled(decoder)
        model = module.CoconutGPT_Same_Word_Embedding(
            base,
            decoder,
            tokenizer,
            latent,
            start,
            end,
            tokenizer.eos_token_id,
            tokenizer.convert_tokens_to_ids("<<"),
            c,
            configs,
        )
        decoder.eval()
        model.train()
        if kind == "gpt2" and stage == 4:
            report.add(
                "simcot",
                "coconut: train() of the whole leaves the decoder as from_pretrained gives it, in eval mode",
                "note",
                decoder_in_training_mode=decoder.training,
            )
        file = Path(folder) / "data.json"
        file.write_text(json.dumps(data))
        with one_process(), quiet():
            items = dataset.get_cot_with_explainable_latent_dataset(
                stage, dataset.get_dataset(file, tokenizer), configs, start, latent, end
            )
            items = [items[i] for i in range(len(items))]
            batch = dataset.MyExplainableCollator(tokenizer, latent_id=latent)(copy.deepcopy(items))
        batch = {k: v for k, v in batch.items() if k != "idx"}
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        groups, rows = min(stage, stages), []
        for i, example in enumerate(data):
            skipped = len(example["steps"]) if stage > stages else stage
            head = encode(example["question"] + "\n") + [start] + [latent] * (groups * c) + [end]
            said = encode("".join(s + "\n" for s in example["steps"][skipped:]) + "### " + example["answer"]) + [
                tokenizer.eos_token_id
            ]
            chain = example["steps"][:skipped]
            chain = chain[: stages - 1] + (["\n".join(chain[stages - 1 :])] if len(chain) >= stages else [])
            texts = [encode(text) + [tokenizer.eos_token_id] for text in chain]
            texts += [said] * (groups - len(texts))
            rows.append(row(head + said, tail(head + said, len(head)), i, decoder_texts=texts))
        report.equal(
            "simcot",
            f"rows: {what}",
            [[r["input_ids"], r["labels"]] for r in items],
            [[r["ids"], r["labels"]] for r in rows],
        )
        with quiet():
            total = model(**batch).loss
            answer = model(**{k: v for k, v in batch.items() if k != "explainable_ids_list"}).loss
        total.backward()
        losses = {"answer": answer.item(), "decoder": (total - answer).item(), "total": total.item()}
        gradients = {f"model.{k}": v for k, v in named_gradients(base).items()} | {
            f"decoder.{k}": v for k, v in named_gradients(decoder).items()
        }
        case = {
            "thinking": "sequential",
            "iterations": 0,
            "shift": 1,
            "residual": False,
            "feedback": "hs[-1]",
            "rows": rows,
            "c": c,
            "weights": {"answer": 1.0, "decoder": 1.0},
            "decoder": {"layers": 2, "style": "coconut"},
            "latent": latent,
        }
        yield Found("simcot", what, losses, gradients, plain(base), case, {}, plain(decoder))


def simcot_codi(checkout, report, folder):
    latents = 2
    for steps, order in [((6, 2, 3), (0, 1, 2)), ((2, 6, 3), (0, 1, 2)), ((3, 4, 1), (2, 0, 1))]:
        what = f"codi, gpt2, steps {tuple(steps[i] for i in order)}"
        data = examples(2, steps, (6, 6, 6))
        run = codi_run(
            checkout / "CODI", tiny(folder), data, "gpt2", latents, ["--use_lora", "False", "--use_decoder", "True"]
        )
        with torch.no_grad():
            for p in run.model.decoder.parameters():
                p.add_((0.05 * torch.randn(p.shape)).to(p.dtype))
        # The numbers of the real GPT-2's tokens `<<`, ` <<` and `>>` stand in their code: ours are others.
        marks = {
            "start_ids": (run.tokenizer.convert_tokens_to_ids("<<"),),
            "end_id": run.tokenizer.convert_tokens_to_ids(">>"),
        }
        theirs = run.module.get_steps
        run.module.get_steps = lambda ids, n, **given: theirs(ids, n, **given | marks)
        losses, batch, out = codi_step(run, order)
        losses["decoder"] = float(out["explain_loss"])
        gradients = {f"model.{k}": v for k, v in named_gradients(run.model.codi).items()} | codi_part_gradients(
            run.model.prj
        )
        gradients |= {f"decoder.{k}": v for k, v in named_gradients(run.model.decoder).items()}
        rows = codi_rows(run, data, latents)
        report.equal("simcot", f"rows: {what}", codi_their_rows(run, latents), rows)
        eos = run.tokenizer.eos_token_id
        for student, example in zip(rows[::2], data):
            chain = [run.tokenizer.encode(step) for step in example["steps"][:-1]]
            texts = chain[:latents] + ([[*itertools.chain(*chain[latents:])]] if len(chain) > latents else [])
            student["decoder_texts"] = [text + [eos] for text in texts] + [None] * (latents + 1 - len(texts))
        case = codi_case(run, rows, latents, 1.0) | {"decoder": {"layers": 2, "style": "codi"}}
        case["weights"]["decoder"] = 1.0
        yield Found(
            "simcot",
            what,
            losses,
            gradients,
            plain(run.model.codi),
            case,
            codi_parts(run.model.prj),
            plain(run.model.decoder),
        )
        # Every row's text is cut to one token more than row 0's: `compat: simcot`.
        cut = copy.deepcopy(case)
        first = [len(text or []) for text in cut["rows"][2 * order[0]]["decoder_texts"]]
        for student in cut["rows"][::2]:
            student["decoder_texts"] = [text and text[: n + 1] for text, n in zip(student["decoder_texts"], first)]
        yield Found(
            "simcot",
            f"{what}, each slot's texts cut to one token more than row 0's (compat: simcot)",
            losses,
            gradients,
            plain(run.model.codi),
            cut,
            codi_parts(run.model.prj),
            plain(run.model.decoder),
        )


def simcot(checkout, report, folder):
    yield from simcot_coconut(checkout, report, folder)
    yield from simcot_codi(checkout, report, folder)


# ---------------------------------------------------------------- PCCoT


def pccot(checkout, report, folder):
    with imports_from(checkout):
        import models
    c, even, uneven = 4, (6, 6, 6), (3, 8, 5)
    for kind, iterations, projection, words in [
        ("gpt2", 3, False, even),
        ("gpt2", 2, True, even),
        ("llama", 3, True, even),
        ("gpt2", 3, False, uneven),
        ("llama", 3, False, uneven),
        ("gpt2", 0, False, even),
    ]:
        padded = "questions of one length" if words is even else "questions padded"
        what = f"{kind}, {iterations} iterations{', projected' if projection else ''}, {padded}"
        path = tiny(folder, kind)
        Config, Model = (
            (models.PCCoTGPT2Config, models.PCCoTGPT2LMHeadModel)
            if kind == "gpt2"
            else (models.PCCoTLlamaConfig, models.PCCoTLlamaForCausalLM)
        )
        told = json.loads((path / "config.json").read_text())
        config = Config(
            **{k: v for k, v in told.items() if k not in ("model_type", "architectures", "torch_dtype")},
            num_iterations=iterations,
            use_projection=projection,
        )
        torch.manual_seed(6)
        model = Model.from_pretrained(path, config=config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
        ids = []
        for token in ("<pcot.bot>", "<pcot.eot>", "<pcot.latent>"):
            tokenizer.add_special_tokens(
                {"additional_special_tokens": (token,)}, replace_additional_special_tokens=False
            )
            ids.append(tokenizer.convert_tokens_to_ids(token))
        bot, eot, latent = ids
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        model.resize_token_embeddings(len(tokenizer))
        doubled(model).train()
        settings = models.PCCoTArguments(
            bot_token_id=bot, eot_token_id=eot, latent_token_id=latent, num_latent_tokens=c
        )
        # Padding of `tokenizer.pad` to the left is an argument of its younger versions.
        processor, pad = models.COTDataProcessor(tokenizer, settings), tokenizer.pad

        def either_side(*args, padding_side=None, **kwargs):
            side, tokenizer.padding_side = tokenizer.padding_side, padding_side or tokenizer.padding_side
            out = pad(*args, **kwargs)
            tokenizer.padding_side = side
            return out

        tokenizer.pad = either_side
        data = examples(4, (2, 1, 3), words)
        columns = {k: [e[k] for e in data] for k in ("question", "steps", "answer")}
        tokens = processor.tokenize_function(columns)
        items = tokens | processor.group_texts(tokens)
        items = [{k: v[i] for k, v in items.items()} for i in range(len(data))]
        batch = processor.data_collator(copy.deepcopy(items))
        encode = lambda text: tokenizer.encode(text, add_special_tokens=False)
        prompt, rows = encode("The answer is:"), []
        for i, example in enumerate(data):
            question, chain = encode(example["question"]), [*itertools.chain(*map(encode, example["steps"][:-1]))]
            said = prompt + encode(example["answer"]) + [tokenizer.eos_token_id]  # no space before the value
            head = question + [bot] + [latent] * c + [eot]
            rows.append(row(head + said, tail(head + said, len(head)), i, anchor=len(head) + len(prompt) - 1))
            ids = question + chain + said
            rows.append(
                row(
                    ids,
                    tail(ids, len(question)),
                    i,
                    role="teacher",
                    anchor=len(question) + len(chain) + len(prompt) - 1,
                )
            )
        theirs = []
        for item in items:
            student = item["question"] + item["ccot_ids_woq"]
            theirs.append([student, len(item["question"]) + item["ccot_kd_index"]])
            theirs.append([item["cot_input_ids"], item["cot_kd_index"]])
        report.equal("pccot", f"rows: {what}", theirs, [[r["ids"], r["anchor"]] for r in rows])
        out = model(**batch)
        out.loss.backward()
        log = model._log_cache
        losses = {
            "answer": log["ccot_loss"],
            "teacher": log["cot_loss"],
            "distil": log["kd_loss"],
            "total": out.loss.item(),
        }
        gradients = {f"model.{k}": v for k, v in named_gradients(model).items() if not k.startswith("prj")}
        parts = {}
        if projection:
            shaped = torch.nn.Sequential(torch.nn.Identity(), *list(model.prj)[:3])
            shaped.add_module("ln", model.prj[3])
            parts, gradients = codi_parts(shaped), gradients | codi_part_gradients(shaped)
        case = {
            "thinking": "parallel",
            "iterations": iterations,
            "shift": 1,
            "residual": False,
            "feedback": "ln(mlp[1](hs[-1]))" if projection else "hs[-1]",
            "rows": rows,
            "weights": {"answer": 1.0, "teacher": 1.0, "distil": 1.0},
            "distil_layers": "blocks",
            "latent": latent,
        }
        reduced = plain(model)
        yield Found("pccot", what, losses, gradients, reduced, case, parts)
        if words is uneven:
            ours, our_gradients = pccot_padding_seen(reduced, batch, c, iterations, kind)
            report.numbers("pccot", f"gradients: {what}: the same", gradients, our_gradients)
            counted = "" if kind == "gpt2" else "; positions count it"
            report.numbers(
                "pccot",
                f"losses: {what}: in the iterations latents see the padding, elsewhere nobody does{counted}",
                losses,
                ours,
            )


def pccot_padding_seen(model, batch, c, iterations, kind):
    """Losses and gradients as they should be if the padding is seen in the iterations and nowhere else."""
    ids, mask, n = batch["input_ids"], batch["attention_mask"].bool(), batch["key_indices"][0]
    # The latents stand twice, as they are at first and as they become: what a padding's row holds is of the first pass.
    places = [*range(n + c), *range(n, ids.shape[1])]
    twice, last = ids[:, places], n + 2 * c
    real, width = mask[:, places], len(places)
    visible = torch.ones(width, width).tril().bool()[None].repeat(len(ids), 1, 1)
    visible[:, n + c :, n : n + c] = False
    seen_in_iterations = visible[:, n + c : last].clone()
    visible &= real[:, None]
    visible[:, n + c : last] = seen_in_iterations
    dead = [(b, q, n + c) for b, q in (~real).nonzero().tolist() if q < n]
    positions = (
        (mask.long().cumsum(-1) - 1).masked_fill(~mask, 0)
        if kind == "gpt2"
        else torch.arange(ids.shape[1])[None].expand(len(ids), -1)
    )
    positions = positions[:, places]
    model.zero_grad()
    embeds = model.get_input_embeddings()(twice)
    out = padded_forward(model, embeds, visible, dead, positions)
    fed = out.hidden_states[-1][:, n - 1 : n + c - 1]
    for _ in range(iterations):
        embeds = torch.cat([embeds[:, : n + c], fed, embeds[:, last:]], 1)
        out = padded_forward(model, embeds, visible, dead, positions)
        fed = torch.cat([fed[:, :1], out.hidden_states[-1][:, n + c : last - 1]], 1)
    teacher = model(input_ids=batch["cot_input_ids"], output_hidden_states=True)
    at, anchor = torch.arange(len(ids)), last + batch["key_indices"][2]
    ce = lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    distil = mean_distil(
        [h[:, anchor] for h in out.hidden_states[1:]],
        [h[at, batch["cot_kd_indices"]] for h in teacher.hidden_states[1:]],
    )
    losses = {
        "answer": ce(out.logits[:, last:], batch["labels"]),
        "teacher": ce(teacher.logits, batch["cot_labels"]),
        "distil": distil,
    }
    losses["total"] = sum(losses.values())
    losses["total"].backward()
    return {k: v.item() for k, v in losses.items()}, {f"model.{k}": v for k, v in named_gradients(model).items()}


# ---------------------------------------------------------------- iCoT


def icot(checkout, report, folder):
    """Their main() over some epochs, with a model that keeps what it is given; then the same rows from docs' rule."""
    path = tiny(folder, "gpt2")
    data = examples(8, (1, 2, 3, 2, 1, 3, 2, 1, 2, 3, 1, 2), range(3, 15))
    file = Path(folder) / "train.txt"
    file.write_text("".join(f"{e['question']}||{' '.join(e['steps'])} #### {e['answer']}\n" for e in data))
    for batch, per_epoch, smoothing, beyond, epochs, reset in [
        (2, 2, 4.0, 12, 4, True),
        (4, 8, math.inf, math.inf, 11, True),
        (2, 6, 1.0, 9, 4, True),
    ]:
        settings = dict(
            batch_size=batch,
            remove_per_epoch=per_epoch,
            removal_smoothing_lambda=smoothing,
            remove_all_when_remove_beyond=beyond,
            epochs=epochs,
        )
        with imports_from(checkout / "src"):
            train = importlib.import_module("train")
        seen, draws, resets, loaded = [], [], [], []
        multinomial, adamw = torch.multinomial, torch.optim.AdamW

        class Model(train.ImplicitModel):
            def compute_loss(self, input_ids, labels, position_ids=None, output_attentions=False):
                seen.append((input_ids.tolist(), labels.tolist(), position_ids))
                return super().compute_loss(input_ids, labels, position_ids, output_attentions)

            def save_pretrained(self, _):
                pass

        def drawn(p, n, replacement):
            draws.append((p, multinomial(p, n, replacement=replacement)))
            return draws[-1][1]

        def optimizer(*args, **kwargs):
            resets.append(len(seen))
            return adamw(*args, **kwargs)

        class Loader(torch.utils.data.DataLoader):
            def __iter__(self):
                for each in super().__iter__():
                    loaded.append(each)
                    yield each

        sys.argv[1:] = [
            "--model",
            str(path),
            "--train_path",
            str(file),
            "--val_path",
            str(file),
            "--save_model",
            folder.name,
            *itertools.chain(*([f"--{k}", str(v)] for k, v in settings.items())),
        ] + ["--reset_optimizer"] * reset
        with quiet(), replaced(
            train, ImplicitModel=Model, evaluate=lambda *_, **__: (0.0, 0.0, 1.0), DataLoader=Loader
        ), replaced(torch, multinomial=drawn), replaced(torch.optim, AdamW=optimizer):
            train.main()
        del sys.argv[1:]
        # What docs say, and what their code adds: no new AdamW if the batch before had no chain left.
        eos, mine, my_resets, removed, s = len(TOKENS) - 1, [], [0], [], 0
        increments = [0]
        every = round(len(data) // batch / per_epoch)
        offsets = iter(draws)
        gone = False
        for step, given in enumerate(loaded):
            before = s
            s = (
                math.inf
                if every and step // every >= beyond or s == math.inf or s >= beyond
                else (step // every if every else step + 1)
            )
            if s > before:
                increments.append(step)
                if not gone and reset:
                    my_resets.append(step)
            o = next(offsets)[1].tolist() if s > 0 or smoothing != math.inf else [0] * batch
            ids, labels, gone = [], [], True
            for row_ids, offset in zip(given["input_ids_all"].tolist(), o):
                first, second, third = [i for i, t in enumerate(row_ids) if t == eos][:3]
                chain = row_ids[first + 1 : second]
                n = min(len(chain), s + offset)
                gone &= s + offset >= len(chain)
                ids.append(row_ids[: first + 1] + chain[int(n) :] + row_ids[second : third + 1])
                labels.append(tail(ids[-1], first + 1))
            gone &= s > 0 or smoothing != math.inf
            width = max(map(len, ids))
            if not (s > 0 or smoothing != math.inf):
                width = given["input_ids_all"].shape[1]
            mine.append(
                ([r + [eos] * (width - len(r)) for r in ids], [r + [IGNORE] * (width - len(r)) for r in labels], None)
            )
            removed.append(s)
        name = f"batch {batch}, {per_epoch} an epoch, lambda {smoothing}, all beyond {beyond}"
        report.equal("icot", f"rows of {len(seen)} steps, {name}, s from {removed[0]} to {removed[-1]}", seen, mine)
        report.equal(
            "icot", f"steps at which AdamW is made anew, not after a batch without chains, {name}", resets, my_resets
        )
        if reset:
            report.equal("icot", f"steps at which AdamW is made anew, as docs say, {name}", resets, increments)
        if draws:
            p = draws[0][0]
            rule = [
                (1 - math.exp(-smoothing)) * math.exp(-smoothing * o) if smoothing != math.inf else float(o == 0)
                for o in range(len(p))
            ]
            report.numbers("icot", f"P(o), {name}", {"p": p[:-1]}, {"p": torch.tensor(rule[:-1])})
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    report.add("icot", "a row", "note", text=tokenizer.decode(loaded[0]["input_ids_all"][0]))
    # The loss: mean over labels.
    with imports_from(checkout / "src"):
        model_module = importlib.import_module("model")
        configuration = importlib.import_module("configuration_model")
    model = model_module.ImplicitModel(configuration.ImplicitModelConfig(base_model=str(path)))
    doubled(model).train()
    ids, labels = torch.tensor(seen[3][0]), torch.tensor(seen[3][1])
    out = model.compute_loss(ids, labels)
    out.loss.backward()
    rows = []
    for number, (padded, labelled) in enumerate(zip(*seen[3][:2])):
        end = max(t for t, label in enumerate(labelled) if label != IGNORE) + 1
        rows.append(row(padded[:end], labelled[:end], number))
    case = {
        "thinking": "sequential",
        "iterations": 0,
        "shift": 1,
        "residual": False,
        "feedback": "hs[-1]",
        "rows": rows,
        "weights": {"answer": 1.0},
        "latent": -1,
    }
    yield Found(
        "icot",
        "gpt2, one batch",
        {"answer": out.loss.item(), "total": out.loss.item()},
        {f"model.{k}": v for k, v in named_gradients(model.base_model).items()},
        plain(model.base_model),
        case,
    )


# ---------------------------------------------------------------- time

QUESTION, STEPS, STEP, ANSWER, BATCH = 40, 6, 8, 6, 8


def drawn_rows(seed, vocab):
    """Examples of random tokens: eight questions of 40, six steps of 8, an answer of 6 with its eos."""
    gen = torch.Generator().manual_seed(seed)
    text = lambda n: torch.randint(0, vocab - 1, (BATCH, n), generator=gen)
    answer = torch.cat([text(ANSWER - 1), torch.full((BATCH, 1), vocab - 1)], 1)
    return text(QUESTION), [text(STEP) for _ in range(STEPS)], answer


def written_rows(arguments):
    """The rows that are timed, for whoever times other code on them. Markers are the three numbers after the text's."""
    question, steps, answer = (
        x.tolist() if torch.is_tensor(x) else [y.tolist() for y in x]
        for x in drawn_rows(arguments.seed, arguments.vocab)
    )
    bot, eot, latent = (arguments.vocab + i for i in range(3))
    lotus, codi = [], []
    for i in range(BATCH):
        head = question[i] + [bot] + [latent] * (13 * STEPS) + [eot]
        targets = [IGNORE] * (len(head) + ANSWER)
        for k, step in enumerate(steps):
            targets[QUESTION + 13 * k : QUESTION + 13 * k + STEP] = step[i]
        lotus.append(row(head + answer[i], tail(head + answer[i], len(head)), i, step_targets=targets))
        head = question[i] + [bot] + [latent] * 6 + [eot]
        ids = head + answer[i]
        codi.append(row(ids, tail(ids, len(head)), i, anchor=len(ids) - 3))
        ids = question[i] + [*itertools.chain(*(step[i] for step in steps[:-1]))] + answer[i]
        codi.append(row(ids, tail(ids, QUESTION), i, role="teacher", anchor=len(ids) - 3))
    return {"bot": bot, "eot": eot, "latent": latent, "lotus": lotus, "codi": codi}


def time_lotus(checkout, path, arguments):
    with imports_from(checkout / "scripts"):
        Lotus, _ = lotus_modules(checkout)
    c, iterations = 13, 6
    model, tokenizer, (start, end, latent) = lotus_build(Lotus, path, c)
    table = model.base_causallm.get_input_embeddings().num_embeddings
    question, steps, answer = drawn_rows(arguments.seed, arguments.vocab)
    whole = lambda n, token: torch.full((BATCH, n), token)
    # The small tokenizer gives the markers numbers that random tokens may have: the last rows of the table are theirs.
    model.start_latent_id, model.end_latent_id, model.latent_token_id = table - 3, table - 2, table - 1
    model.pad_token_id = arguments.vocab - 1
    ids = torch.cat([question, whole(1, table - 3), whole(c * STEPS, table - 1), whole(1, table - 2), answer], 1)
    labels = ids.clone()
    labels[:, :-ANSWER] = IGNORE
    batch = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(ids.shape[1])[None].expand(BATCH, -1),
        "replaced_cot_steps": torch.stack(steps, 1),
        "n_looped_iters": iterations,
    }
    return model, lambda: model(**batch).loss, {"c": c, "iterations": iterations, "tokens": ids.shape[1]}


def time_codi(checkout, path, arguments, lora):
    latents = 6
    extra = ["--use_lora", str(lora), "--prj_dim", str(arguments.width), "--lora_r", "128", "--lora_alpha", "32"]
    run = codi_run(checkout, path, examples(2, (2,), (6,)), "gpt2", latents, extra)
    model = run.model.float()
    question, steps, answer = drawn_rows(arguments.seed, arguments.vocab)
    encoder = torch.cat([question, torch.full((BATCH, 1), model.bot_id)], 1)
    decoder = torch.cat([torch.full((BATCH, 1), model.eot_id), answer], 1)
    teacher = torch.cat([question, *steps[:-1], answer], 1)
    labels = teacher.clone()
    labels[:, :QUESTION] = IGNORE
    at = lambda n: torch.full((BATCH,), n)
    batch = {
        "encoder_input_ids": encoder,
        "decoder_input_ids": decoder,
        "ref_input_ids": teacher,
        "labels": decoder,
        "ref_labels": labels,
        "encoder_attention_mask": torch.ones_like(encoder).bool(),
        "ref_attention_mask": torch.ones_like(teacher).bool(),
        "model_answer_position": at(decoder.shape[1] - 2),
        "ref_answer_position": at(teacher.shape[1] - 2),
    }
    return (
        model,
        lambda: model(**batch)["loss"],
        {"c": latents, "lora": lora, "tokens": [encoder.shape[1] + latents + decoder.shape[1], teacher.shape[1]]},
    )


def measure(arguments, what):
    """One line: the median of `repeat` steps after one that is not counted, and this process's peak of memory."""
    torch.set_num_threads(arguments.threads)
    method, *lora = what.split("-")
    with tempfile.TemporaryDirectory() as folder:
        path = tiny(
            folder,
            "gpt2",
            arguments.width,
            arguments.layers,
            arguments.heads,
            positions=1024,
            vocab=arguments.vocab,
            spread=0.02,
        )
        before = peak_gb()
        more = (bool(lora),) if method == "codi" else ()
        model, loss, about = globals()[f"time_{method}"](getattr(arguments, method).resolve(), path, arguments, *more)
        if not arguments.dropout:
            without_dropout(model)
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
        times = []
        for _ in range(arguments.repeat + 1):
            start = time.perf_counter()
            value = loss()
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(1e3 * (time.perf_counter() - start))
    print(
        json.dumps(
            {
                "method": method,
                **about,
                "layers": arguments.layers,
                "width": arguments.width,
                "heads": arguments.heads,
                "vocab": arguments.vocab,
                "batch": BATCH,
                "threads": arguments.threads,
                "dropout": arguments.dropout,
                "trained": sum(p.numel() for p in trained),
                "loss": round(value.item(), 4),
                "repeat": arguments.repeat,
                "first_ms": round(times[0], 1),
                "median_ms": round(statistics.median(times[1:]), 1),
                "built_gb": round(before, 3),
                "peak_gb": round(peak_gb(), 3),
            }
        ),
        flush=True,
    )


def time_all(arguments):
    """A process a measurement, so that peaks are each one's own."""
    if arguments.rows:
        arguments.rows.write_text(json.dumps(written_rows(arguments)))
    for what in [*(["lotus"] * bool(arguments.lotus)), *(["codi", "codi-lora"] * bool(arguments.codi))]:
        subprocess.run(
            [sys.executable, __file__, *ARGV, f"--measure={what}"],
            check=True,
            stderr=None if arguments.loud else subprocess.DEVNULL,
        )


# ---------------------------------------------------------------- main


def compare(arguments):
    report = Report()
    double_everywhere()
    transformers.logging.set_verbosity_error()
    for method in METHODS:
        checkout = getattr(arguments, method)
        if checkout is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            compare = globals()[method]
            for found in compare(checkout.resolve(), report, Path(folder)):
                if arguments.published_only:
                    report.add(
                        found.method, found.what, "published", losses=found.losses, gradients=len(found.gradients)
                    )
                    continue
                losses, gradients = reference(found.model, found.case, found.parts, found.decoder)
                report.numbers(found.method, f"losses: {found.what}", found.losses, losses)
                report.numbers(found.method, f"gradients: {found.what}", found.gradients, found.chain(gradients))
    if arguments.json:
        arguments.json.write_text("".join(json.dumps(line) + "\n" for line in report.lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for method in METHODS:
        parser.add_argument(f"--{method}", type=Path, help="its checkout")
    parser.add_argument("--published-only", action="store_true", help="their numbers, without the reference")
    parser.add_argument("--json", type=Path, help="also write the lines here")
    parser.add_argument("--time", action="store_true", help="a step's time and memory instead, of LOTUS and CODI")
    for name, default in [
        ("layers", 4),
        ("width", 128),
        ("heads", 4),
        ("vocab", 50257),
        ("threads", 2),
        ("repeat", 5),
        ("seed", 0),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dropout", action="store_true", help="with --time: leave their dropout on")
    parser.add_argument("--rows", type=Path, help="with --time: also write the rows here")
    parser.add_argument("--loud", action="store_true", help="with --time: show what they write to stderr")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args(ARGV)
    if arguments.measure:
        measure(arguments, arguments.measure)
    elif arguments.time:
        time_all(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
