"""Write the reference values under tests/fixtures/torch/ with PyTorch and transformers.

    python -m venv venv && venv/bin/pip install -r python/requirements.txt
    venv/bin/python python/make_fixtures.py [OUT]

Everything is computed in float64 on one thread from fixed seeds and stored as float32, so that a
float32 implementation is compared with values that have no rounding error of their own.

gpt2/        a tiny random GPT-2 as `save_pretrained` writes it
gpt2_*       ids, masks and logits of that model: full rows, and rows padded on the left
latent/      a second tiny GPT-2, for the gradients
latent_*     the latent multi-pass forward of METHOD.md section 3: loss, logits, every gradient
families/    tiny odd models of qwen2, qwen3 and llama as `save_pretrained` writes them: grouped heads, a
             head_dim that is not width / heads, scaled RoPE, untied heads; qwen2 also in other files
             (f16, bf16, shards), with the logits of what those hold
<family>_*   for each: logits, latent loss and every gradient, and 200 greedy generations (GPT-2's too)
reinject_*   the same forward with other reinjections, and with early passes detached
position_*   the same forward with an encoding of each thought's index
seq_vcr_*    the Seq-VCR loss and its gradient, one time step at a time
lora/        adapters as PEFT writes them, on models named above
lora_*       logits, latent loss and the gradient of everything that is trained
optim_*      torch.optim.AdamW with clipping under the schedules of transformers

The latent forward here shares nothing with a cached one: for every thought, in order, the whole
sequence is run again from inputs_embeds with the thoughts found so far put in place.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/fixtures/torch"
VOCAB = 41
EOS, BOT, EOT, LATENT = 37, 38, 39, 40  # plain tokens are 0..36
VERSIONS = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}


def dump(name, value):
    """Write JSON with one key a line, arrays compact."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, separators=(', ', ': '))}" for k, v in value.items()]
    (OUT / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def store(name, tensors):
    """Write a safetensors file of float32 tensors."""
    save_file({k: v.detach().to(torch.float32).contiguous().clone() for k, v in tensors.items()}, OUT / name)


def make_model(folder, seed, **shape):
    """A GPT-2 whose every parameter is random and large enough to matter, saved as float32."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB,
        initializer_range=0.2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
        attn_implementation="eager",
        **shape,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".ln_" in name and name.endswith("weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.2 * torch.randn_like(p))
            elif name.endswith("wpe.weight"):
                p.copy_(0.2 * torch.randn_like(p))
            else:  # the configured scale, on every matrix alike
                p.copy_(config.initializer_range * torch.randn_like(p))
    model.eval().save_pretrained(OUT / folder)
    # Read back what was written, so that the values belong to the file and not to this process.
    model = GPT2LMHeadModel.from_pretrained(OUT / folder, attn_implementation="eager")
    return model.to(torch.float64).eval()


# ---------------------------------------------------------------- logits


def make_logits():
    model = make_model("gpt2", 0, n_layer=2, n_embd=24, n_head=3, n_positions=64)
    gen = torch.Generator().manual_seed(1)
    full = torch.randint(0, VOCAB, (2, 12), generator=gen)
    lengths = [12, 7, 1]
    rows = [torch.randint(0, VOCAB, (n,), generator=gen).tolist() for n in lengths]
    width = max(lengths)
    padded = torch.tensor([[EOS] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits_full = model(input_ids=full).logits
        out = model(input_ids=padded, attention_mask=mask, position_ids=positions, output_hidden_states=True)
        logits_padded = out.logits
        for i, r in enumerate(rows):  # padding on the left must change nothing
            alone = model(input_ids=torch.tensor([r])).logits[0]
            assert torch.allclose(alone, logits_padded[i, width - len(r) :], atol=1e-10)
        # wte + wpe, after block 0, after block 1 and ln_f: HF's L+1 entries
        hidden = model(input_ids=full, output_hidden_states=True).hidden_states
    dump(
        "gpt2_logits.json",
        {
            "versions": VERSIONS,
            "note": "full/padded: input ids; padded rows are left-padded, compare them where attention_mask is 1",
            "full": full.tolist(),
            "padded": padded.tolist(),
            "attention_mask": mask.tolist(),
            "position_ids": positions.tolist(),
        },
    )
    store(
        "gpt2_logits.safetensors",
        {"logits_full": logits_full, "logits_padded": logits_padded * mask[..., None]}
        | {f"hidden_full.{i}": h for i, h in enumerate(hidden)},
    )


# ---------------------------------------------------------------- latent forward


def latent_forward(model, ids):
    """Logits of one unpadded row [T], every latent's embedding replaced by the final-normed state before it."""
    return model(inputs_embeds=thoughts_in_place(model, ids)[None]).logits[0]


def thoughts_in_place(model, ids):
    """Input embeddings [T, d_model] of one unpadded row, its latents' found one after the other."""
    T = ids.shape[0]
    positions = torch.arange(T)[None]
    embeds = list(model.get_input_embeddings()(ids))
    for p in [t for t in range(T) if ids[t] == LATENT]:
        # The whole sequence, from the start, nothing remembered. States at p - 1 see positions < p only,
        # so thoughts that are not in place yet do not touch them.
        out = model(inputs_embeds=torch.stack(embeds)[None], position_ids=positions, output_hidden_states=True)
        embeds[p] = out.hidden_states[-1][0, p - 1]
    return torch.stack(embeds)


def latent_loss(model, rows):
    """Mean next-token cross entropy over all labelled tokens of all rows, and each row's logits."""
    total, count, logits = 0.0, 0, []
    for row in rows:
        out = latent_forward(model, torch.tensor(row["ids"]))
        labels = torch.tensor(row["labels"])
        total = total + torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
        logits.append(out)
    return total / count, count, logits


def make_row(gen, question, latents, answer):
    """Q, bot, latents, eot, answer, eos; labels on the answer and eos only."""
    q = torch.randint(0, EOS, (question,), generator=gen).tolist()
    a = torch.randint(0, EOS, (answer,), generator=gen).tolist()
    prompt = q + [BOT] + [LATENT] * latents + [EOT]
    return {"ids": prompt + a + [EOS], "labels": [-100] * len(prompt) + a + [EOS], "latents": latents}


def run_cases(model, cases):
    """Loss, logits and every gradient of each case's rows. A bias of the keys alone may have none: the
    softmax does not see it."""
    meta, tensors = {}, {}
    for name, rows in cases.items():
        model.zero_grad()
        loss, count, logits = latent_loss(model, rows)
        loss.backward()
        meta[name] = {"loss": loss.item(), "labelled_tokens": count, "rows": rows}
        for i, row_logits in enumerate(logits):
            tensors[f"{name}.logits.{i}"] = row_logits
        for pname, p in model.named_parameters():
            assert p.grad is not None and (p.grad.abs().max() > 0 or "k_proj.bias" in pname), (name, pname)
            tensors[f"{name}.grad.{pname}"] = p.grad
    return meta, tensors


def make_latent():
    model = make_model("latent", 2, n_layer=2, n_embd=16, n_head=2, n_positions=40)
    gen = torch.Generator().manual_seed(3)
    cases = {f"latents_{n}": [make_row(gen, 6, n, 5)] for n in (0, 1, 3, 6)}
    cases["mixed"] = [make_row(gen, q, n, a) for q, n, a in ((9, 0, 3), (4, 1, 7), (7, 3, 2), (5, 6, 4))]
    # Thoughts with words between them, some of which are labelled.
    a = torch.randint(0, EOS, (14,), generator=gen).tolist()
    ids = a[:4] + [BOT, LATENT, LATENT, EOT] + a[4:7] + [LATENT] + a[7:9] + [LATENT, LATENT, EOT] + a[9:] + [EOS]
    labels = [-100] * 8 + a[4:7] + [-100] + a[7:9] + [-100] * 3 + a[9:] + [EOS]
    cases["scattered"] = [{"ids": ids, "labels": labels, "latents": 5}]

    meta, tensors = run_cases(model, cases)
    for case in meta.values():
        # The rows of a batch weigh by their labelled tokens.
        alone = [latent_loss(model, [r])[:2] for r in case["rows"]]
        mean = sum(v.item() * n for v, n in alone) / case["labelled_tokens"]
        assert abs(mean - case["loss"]) < 1e-12
    check_by_differences(model, cases["latents_6"])
    dump(
        "latent_cases.json",
        {
            "versions": VERSIONS,
            "note": "labels[t] belongs to ids[t]: position t-1 predicts it; -100 is ignored",
            "bot": BOT,
            "eot": EOT,
            "latent": LATENT,
            "eos": EOS,
        }
        | meta,
    )
    store("latent_cases.safetensors", tensors)


# ---------------------------------------------------------------- reinjections


def reinjected(model, ids, feedback, detached=None):
    """Logits of one row, latents fed with feedback(hidden states at p - 1, input embedding at p - 1).

    With `detached` k, gradients flow through the last k passes only. A pass ends before each latent, and the last
    one with the row; keys and values of a position belong to the pass that computed it. The row is run layer
    by layer on a cache of tensors that are detached where their pass is.
    """
    T = ids.shape[0]
    latents = [t for t in range(T) if ids[t] == LATENT]
    starts, ends = [0] + latents, latents + [T]
    gpt = model.transformer
    past = [([], []) for _ in gpt.h]
    heads, logits, before = model.config.n_head, [], None
    for number, (a, b) in enumerate(zip(starts, ends)):
        constant = detached is not None and number < len(starts) - detached
        e = gpt.wte(ids[a:b])
        if number > 0:
            e = torch.cat([before[None], e[1:]])
        x = e + gpt.wpe(torch.arange(a, b))
        hidden = [x]
        for block, (keys, values) in zip(gpt.h, past):
            q, k, v = block.attn.c_attn(block.ln_1(x)).split(model.config.n_embd, -1)
            keys.append(k.detach() if constant else k)
            values.append(v.detach() if constant else v)
            split = lambda m: m.view(m.shape[0], heads, -1).transpose(0, 1)
            scores = split(q) @ split(torch.cat(keys)).transpose(1, 2) / (q.shape[-1] // heads) ** 0.5
            mask = torch.arange(b)[None] <= torch.arange(a, b)[:, None]
            weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
            mixed = (weights @ split(torch.cat(values))).transpose(0, 1).reshape(b - a, -1)
            x = x + block.attn.c_proj(mixed)
            x = x + block.mlp(block.ln_2(x))
            hidden.append(x)
        raw = hidden[-1]
        hidden[-1] = gpt.ln_f(raw)
        if constant:
            hidden, e, raw = [h.detach() for h in hidden], e.detach(), raw.detach()
        logits.append(model.lm_head(hidden[-1]))
        before = feedback([h[-1] for h in hidden], e[-1], raw[-1])
        if constant and number + 1 < len(starts) - detached:
            before = before.detach()
    return torch.cat(logits)


def suppressed(h, layers, W, epsilon=0.1, relative=False):
    """Through the pseudo-inverse, as the definition has it."""
    total = 0
    for l in layers:
        delta = torch.linalg.pinv(W) @ (W @ (h[l + 1] - h[l]))
        limit = epsilon * h[l + 1].square().mean().sqrt() if relative else epsilon
        total = total + h[l + 1] * (delta < -limit).detach()
    return total


def make_reinject():
    folder = OUT / "latent"
    meta = json.loads((OUT / "latent_cases.json").read_text())
    gen = torch.Generator().manual_seed(6)
    d = 16
    rand = lambda *shape: (0.3 * torch.randn(*shape, generator=gen)).float().double()
    parts = {
        "proj.0.weight": rand(d, d), "proj.0.bias": rand(d),
        "mlp.0.ln.weight": 1 + rand(d), "mlp.0.ln.bias": rand(d),
        "mlp.0.c_fc.weight": rand(d, 4 * d), "mlp.0.c_fc.bias": rand(4 * d),
        "mlp.0.c_proj.weight": rand(4 * d, d), "mlp.0.c_proj.bias": rand(d),
        "pause.0.weight": rand(d),
    }
    F = torch.nn.functional
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").to(torch.float64).eval()
    W = lambda: model.lm_head.weight.detach()
    E = model.transformer.wte.weight
    length = lambda: E.detach().norm(dim=1).mean()

    def mlp(x, p):
        x = F.layer_norm(x, (d,), p["mlp.0.ln.weight"], p["mlp.0.ln.bias"])
        x = F.gelu(x @ p["mlp.0.c_fc.weight"] + p["mlp.0.c_fc.bias"], approximate="tanh")
        return x @ p["mlp.0.c_proj.weight"] + p["mlp.0.c_proj.bias"]

    # N = 3 states, 2 differences: int(0.5 * 3) = 1.
    feedbacks = {
        "hs[-2]": lambda h, e, r, p: h[-2],
        "suppressed[0:]": lambda h, e, r, p: suppressed(h, [0, 1], W()),
        "ie+suppressed[0.5:]": lambda h, e, r, p: e + suppressed(h, [1], W()),
        "suppressed[0:] relative": lambda h, e, r, p: suppressed(h, [0, 1], W(), 0.5, True),
        "hs[-1]+suppressed[0:] unnormed": lambda h, e, r, p: r + suppressed(h[:-1] + [r], [0, 1], W()),
        "soft[0.7]": lambda h, e, r, p: (model.lm_head(h[-1]) / 0.7).softmax(-1) @ E,
        "norm(hs[-1])": lambda h, e, r, p: h[-1] / h[-1].norm() * length(),
        "proj(hs[-1])": lambda h, e, r, p: h[-1] @ p["proj.0.weight"] + p["proj.0.bias"],
        "mlp(hs[1]+ie)": lambda h, e, r, p: mlp(h[1] + e, p),
        "hs[-1]+pause": lambda h, e, r, p: h[-1] + p["pause.0.weight"],
        "zero": lambda h, e, r, p: torch.zeros_like(e),
        "hs[-1]": lambda h, e, r, p: h[-1],
    }
    names = list(feedbacks)
    # "hs[-1]" agrees with the uncached reference above; each case, and the last 1, 2, 3, 99 passes of it.
    runs = [(n, n, None) for n in names[:-1]] + [(f"hs[-1] last {k}", "hs[-1]", k) for k in (1, 2, 3, 99)]
    runs += [("ie+suppressed[0.5:] last 2", "ie+suppressed[0.5:]", 2)]
    rows = meta["mixed"]["rows"]
    about, tensors = {"versions": VERSIONS, "rows": rows, "latent": LATENT}, {f"part.{k}": v for k, v in parts.items()}
    for name, expression, detached in [("hs[-1]", "hs[-1]", None)] + runs:
        p = {k: v.clone().requires_grad_() for k, v in parts.items()}
        feedback = lambda h, e, r: feedbacks[expression](h, e, r, p)
        model.zero_grad()
        total, count = 0, 0
        for row in rows:
            # A short row's last words are spoken in the batch's last pass; its own passes are the last ones only
            # if it has as many latents. Here each row is a batch of its own.
            out = reinjected(model, torch.tensor(row["ids"]), feedback, detached)
            labels = torch.tensor(row["labels"])
            total = total + F.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum")
            count += int((labels[1:] != -100).sum())
        loss = total / count
        loss.backward()
        if name == "hs[-1]":
            assert abs(loss.item() - meta["mixed"]["loss"]) < 1e-12
            continue
        about[name] = {"loss": loss.item(), "reinject": expression, "detached": detached}
        for key, value in list(model.named_parameters()) + [(f"reinject.{k}", v) for k, v in p.items()]:
            if value.grad is not None:
                tensors[f"{name}.grad.{key}"] = value.grad.clone()
    dump("reinject_cases.json", about)
    store("reinject_cases.safetensors", tensors)


def make_positions():
    """Thought j (from 0) is h[-1] plus an encoding of j: a row of a learned table, or Vaswani's sinusoid of the
    embeddings' mean length."""
    meta = json.loads((OUT / "latent_cases.json").read_text())
    rows = meta["mixed"]["rows"]
    model = GPT2LMHeadModel.from_pretrained(OUT / "latent", attn_implementation="eager").to(torch.float64).eval()
    E, d = model.transformer.wte.weight, model.config.n_embd
    most = max(row["ids"].count(LATENT) for row in rows)
    gen = torch.Generator().manual_seed(7)
    table = (0.3 * torch.randn(most, d, generator=gen)).float().double().requires_grad_()
    rates = 10_000 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angles = torch.arange(most)[:, None] * rates
    waves = torch.stack([angles.sin(), angles.cos()], -1).reshape(most, d)
    sinusoid = waves / waves.norm(dim=1, keepdim=True) * E.detach().norm(dim=1).mean()
    about, tensors = {"versions": VERSIONS, "rows": rows, "latent": LATENT, "latents": most}, {"table": table.detach()}
    for name, encodings in [("learned", table), ("sinusoidal", sinusoid)]:
        model.zero_grad()
        table.grad = None
        total, count = 0, 0
        for row in rows:
            numbers = iter(range(most + 1))

            def feedback(h, e, r):
                j = next(numbers)
                return h[-1] + encodings[j] if j < most else h[-1]

            out = reinjected(model, torch.tensor(row["ids"]), feedback)
            labels = torch.tensor(row["labels"])
            total = total + torch.nn.functional.cross_entropy(out[:-1], labels[1:], ignore_index=-100, reduction="sum")
            count += int((labels[1:] != -100).sum())
        loss = total / count
        loss.backward()
        about[name] = {"loss": loss.item()}
        for key, value in [*model.named_parameters(), ("latent_positions.weight", table)]:
            if value.grad is not None:
                tensors[f"{name}.grad.{key}"] = value.grad.clone()
    dump("position_cases.json", about)
    store("position_cases.safetensors", tensors)


# ---------------------------------------------------------------- Seq-VCR


def make_seq_vcr():
    gen = torch.Generator().manual_seed(7)
    rows, time, width, l1, l2, eta = 4, 6, 5, 0.3, 0.2, 1e-3
    x = (0.6 * torch.randn(rows, time, width, generator=gen)).float().double().requires_grad_()
    mask = [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 1]]  # step 0: 1 row, step 1: 1
    tensors, about = {"x": x}, {"versions": VERSIONS, "mask": mask, "lambda1": l1, "lambda2": l2, "eta": eta}
    for divisor in ("pairs", "width"):
        variance, covariance, steps = 0, 0, 0
        for t in range(time):
            valid = [i for i in range(rows) if mask[i][t]]
            if len(valid) < 2:
                continue
            C = torch.cov(x[valid, t].T)
            steps += 1
            variance = variance + torch.relu(1 - (C.diagonal() + eta).sqrt()).sum()
            covariance = covariance + (C - torch.diag(C.diagonal())).square().sum()
        variance = l1 * variance / (steps * width)
        covariance = l2 * covariance / (steps * width * (width - 1 if divisor == "pairs" else 1))
        x.grad = None
        (variance + covariance).backward()
        about[divisor] = {"variance": variance.item(), "covariance": covariance.item()}
        tensors[f"{divisor}.grad"] = x.grad.clone()
    dump("seq_vcr.json", about)
    store("seq_vcr.safetensors", tensors)


def check_by_differences(model, rows):
    """The gradient along a random direction against central differences of the loss, in float64."""
    model.zero_grad()
    latent_loss(model, rows)[0].backward()
    gen = torch.Generator().manual_seed(4)
    params = [p for _, p in model.named_parameters()]
    direction = [torch.randn(p.shape, generator=gen, dtype=torch.float64) for p in params]
    slope = sum((p.grad * d).sum() for p, d in zip(params, direction)).item()
    values = []
    with torch.no_grad():
        for sign in (1, -2, 1):
            for p, d in zip(params, direction):
                p.add_(d, alpha=sign * 1e-6)
            values.append(latent_loss(model, rows)[0].item())
    difference = (values[0] - values[1]) / 2e-6
    assert abs(difference - slope) < 1e-6 * max(1.0, abs(slope)), (difference, slope)


# ---------------------------------------------------------------- families


def make_qwen2():
    """Biases on queries, keys and values; four query heads share a key head; tied."""
    config = Qwen2Config(
        **SHARED, num_attention_heads=4, num_key_value_heads=1, rms_norm_eps=1e-5, rope_theta=1000.0, tie_word_embeddings=True
    )
    model = make_family(Qwen2ForCausalLM, config, 10)
    # The same weights in other files: each rounds in its own way, so each has its own logits.
    ids = torch.tensor([[3, 14, 15, 9, 26, 5, 35, 8]])
    logits = {}
    for name, dtype, size in (("f16", torch.float16, "10GB"), ("bf16", torch.bfloat16, "10GB"), ("shards", torch.float32, "12KB")):
        folder = OUT / "families" / f"qwen2_{name}"
        Qwen2ForCausalLM.from_pretrained(OUT / "families/qwen2", dtype=dtype).save_pretrained(folder, max_shard_size=size)
        (folder / "generation_config.json").unlink()
        rounded = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
        with torch.no_grad():
            logits[name] = in_double(rounded)(input_ids=ids).logits
    assert len(list((OUT / "families/qwen2_shards").glob("*.safetensors"))) > 2
    store("families_files.safetensors", logits | {"ids": ids})
    return model


def make_qwen3():
    """Norms of heads, whose width is not width / heads; untied."""
    config = Qwen3Config(
        **SHARED, num_attention_heads=4, num_key_value_heads=2, head_dim=10, rms_norm_eps=1e-6, rope_theta=1e6
    )
    return make_family(Qwen3ForCausalLM, config, 11)


def make_llama():
    """Biases everywhere, scaled RoPE whose three kinds of pairs all occur, untied."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 40,
    }
    config = LlamaConfig(
        **SHARED,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=1e-4,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=rope,
    )
    return make_family(LlamaForCausalLM, config, 12)


SHARED = dict(
    vocab_size=VOCAB,
    hidden_size=24,
    intermediate_size=26,
    num_hidden_layers=2,
    max_position_embeddings=48,
    initializer_range=0.2,
    bos_token_id=EOS,
    eos_token_id=EOS,
    pad_token_id=None,
)


def in_double(model):
    """The model in float64 throughout: the norms of transformers go through float32 by themselves."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = forward.__get__(module)
    return model.to(torch.float64).eval()


def make_family(kind, config, seed):
    """A model whose every parameter is random and large enough to matter, written and read back."""
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            else:
                p.copy_(0.2 * torch.randn_like(p))
    folder = OUT / "families" / config.model_type
    model.eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    # sdpa: the eager attention of transformers takes its softmax in float32.
    return in_double(kind.from_pretrained(folder, attn_implementation="sdpa"))


def make_families():
    for family, make in (("qwen2", make_qwen2), ("qwen3", make_qwen3), ("llama", make_llama)):
        model = make()
        gen = torch.Generator().manual_seed(13)
        cases = {"mixed": [make_row(gen, q, n, a) for q, n, a in ((9, 0, 3), (4, 1, 7), (5, 4, 4))]}
        a = torch.randint(0, EOS, (10,), generator=gen).tolist()
        ids = a[:4] + [BOT, LATENT, LATENT, EOT] + a[4:7] + [LATENT] + a[7:9] + [LATENT, EOT] + a[9:] + [EOS]
        labels = [-100] * 8 + a[4:7] + [-100] + a[7:9] + [-100] * 2 + a[9:] + [EOS]
        cases["scattered"] = [{"ids": ids, "labels": labels, "latents": 4}]
        meta, tensors = run_cases(model, cases)
        check_by_differences(model, cases["mixed"])
        dump(f"families_{family}.json", {"versions": VERSIONS, "latent": LATENT, "eos": EOS} | meta)
        store(f"families_{family}.safetensors", tensors)
        make_generations(family, model, 14)
    make_generations("gpt2", GPT2LMHeadModel.from_pretrained(OUT / "gpt2").to(torch.float64).eval(), 14)


def make_generations(family, model, seed):
    """200 prompts, half of them with thoughts, and the eight tokens after each, by running the whole row
    again for every token. Prompts where two tokens are nearly as good as each other are passed over."""
    gen = torch.Generator().manual_seed(seed)
    prompts, generated = [], []
    with torch.no_grad():
        while len(prompts) < 200:
            length, latents = torch.randint(1, 9, (2,), generator=gen).tolist()
            prompt = torch.randint(0, EOS, (length,), generator=gen).tolist()
            if len(prompts) % 2:
                prompt += [BOT] + [LATENT] * (latents // 2) + [EOT]
            row, closest = list(prompt), 1.0
            embeds = None
            for _ in range(8):
                # A latent token that is spoken is an ordinary token: thoughts are found in the prompt only.
                if embeds is None:
                    embeds = thoughts_in_place(model, torch.tensor(prompt))
                logits = model(inputs_embeds=embeds[None]).logits[0, -1]
                best = logits.topk(2)
                closest = min(closest, (best.values[0] - best.values[1]).item())
                token = best.indices[0]
                row.append(token.item())
                if token == EOS:
                    break
                embeds = torch.cat([embeds, model.get_input_embeddings()(token[None])])
            if closest > 1e-3:
                prompts.append(prompt)
                generated.append(row[len(prompt) :])
    dump(f"generate_{family}.json", {"versions": VERSIONS, "latent": LATENT, "eos": EOS, "prompts": prompts, "generated": generated})


# ---------------------------------------------------------------- adapters


def make_lora():
    """Random adapters as PEFT writes them, on models written above, and the latent forward through them."""
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for name, below, kind, targets in (
        ("gpt2", "latent", GPT2LMHeadModel, ["c_attn", "c_fc", "c_proj"]),
        ("qwen2", "families/qwen2", Qwen2ForCausalLM, ["q_proj", "v_proj"]),  # tied
        ("qwen3", "families/qwen3", Qwen3ForCausalLM, every),  # untied
    ):
        torch.manual_seed(20)
        load = lambda: kind.from_pretrained(OUT / below, attn_implementation="eager" if name == "gpt2" else "sdpa")
        tables = ["wte"] if name == "gpt2" else ["embed_tokens"] if name == "qwen2" else ["embed_tokens", "lm_head"]
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=3,
            lora_alpha=5,
            target_modules=targets,
            fan_in_fan_out=name == "gpt2",
            trainable_token_indices={table: [BOT, EOT, LATENT] for table in tables},
        )
        model = peft.get_peft_model(load(), config)
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        with torch.no_grad():
            for _, p in trained:
                p.copy_(0.2 * torch.randn_like(p))
        folder = OUT / "lora" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink()
        about = json.loads((folder / "adapter_config.json").read_text())
        about["base_model_name_or_path"] = f"tests/fixtures/torch/{below}"
        about["target_modules"] = sorted(about["target_modules"])  # a set, in no order
        (folder / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")

        model = in_double(peft.PeftModel.from_pretrained(load(), folder, is_trainable=True))
        gen = torch.Generator().manual_seed(21)
        rows = [make_row(gen, q, n, a) for q, n, a in ((9, 0, 3), (4, 1, 7), (5, 4, 4))]
        loss, count, logits = latent_loss(model, rows)
        loss.backward()
        tensors = {f"logits.{i}": row for i, row in enumerate(logits)}
        for key, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad.abs().max() > 0, key
                tensors["grad." + key.removeprefix("base_model.model.").replace(".default", "")] = p.grad
        dump(f"lora_{name}.json", {"versions": VERSIONS, "latent": LATENT, "loss": loss.item(), "labelled_tokens": count, "rows": rows})
        store(f"lora_{name}.safetensors", tensors)


# ---------------------------------------------------------------- optimiser


def make_optim():
    steps, warmup, lr = 5, 2, 1e-3
    schedules = {
        "constant": lambda o: get_constant_schedule_with_warmup(o, warmup),
        "linear": lambda o: get_linear_schedule_with_warmup(o, warmup, steps),
        "cosine": lambda o: get_cosine_schedule_with_warmup(o, warmup, steps),
    }
    meta = {
        "versions": VERSIONS,
        "note": "step k (from 0): grad -> clip_grad_norm_ -> AdamW at lr[k] -> param; weight decay on every parameter",
        "lr": lr,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
        "max_norm": 1.0,
        "steps": steps,
        "warmup_steps": warmup,
    }
    tensors = {}
    for name, schedule in schedules.items():
        gen = torch.Generator().manual_seed(5)
        rand = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)
        x, y = rand(8, 4), rand(8, 3)
        params = {"weight": rand(3, 4), "bias": rand(3)}
        params = {k: v.requires_grad_() for k, v in params.items()}
        # Start from values that float32 holds exactly.
        for v in params.values():
            v.data = v.data.float().double()
        opt = torch.optim.AdamW(params.values(), lr=lr, weight_decay=0.01)
        sched = schedule(opt)
        lrs, norms = [], []
        for k, v in params.items():
            tensors[f"{name}.start.param.{k}"] = v.clone()
        for i in range(steps):
            opt.zero_grad()
            error = x @ params["weight"].T + params["bias"] - y
            # Some steps are clipped and some are not.
            scale = [1.0, 0.05, 3.0, 0.1, 1.0][i]
            (scale * (error**2).mean()).backward()
            for k, v in params.items():
                v.grad = v.grad.float().double()
                tensors[f"{name}.{i}.grad.{k}"] = v.grad.clone()
            norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 1.0).item())
            for k, v in params.items():
                tensors[f"{name}.{i}.clipped.{k}"] = v.grad.clone()
            lrs.append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
            for k, v in params.items():
                tensors[f"{name}.{i}.param.{k}"] = v.clone()
        assert min(norms) < 1.0 < max(norms)
        meta[name] = {"lr": lrs, "grad_norm": norms}
    # The factors of longer schedules, cheap to keep: lr 1, 10 warm-up steps of 50.
    for name, get in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        sched, factors = get(opt, 10, 50), []
        for _ in range(52):
            factors.append(opt.param_groups[0]["lr"])
            opt.step()
            sched.step()
        meta[f"factors_{name}_10_50"] = factors
    dump("optim_adamw.json", meta)
    store("optim_adamw.safetensors", tensors)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    OUT.mkdir(parents=True, exist_ok=True)
    make_logits()
    make_latent()
    make_families()
    make_reinject()
    make_positions()
    make_seq_vcr()
    make_lora()
    make_optim()
    for path in OUT.rglob("*.safetensors"):
        path.chmod(0o644)
    own = [f for f in OUT.rglob("*") if f.is_file() and OUT / "files" not in f.parents]  # make_model_files.py's
    size = sum(f.stat().st_size for f in own)
    print(f"{OUT}: {size / 1024:.0f} KiB")
    assert size < 2000 * 1024
