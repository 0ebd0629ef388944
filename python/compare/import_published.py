"""Checkpoints that published programs wrote, through `coconut import`: the same answers, token for token.

    python -m venv venv && venv/bin/pip install torch==2.11.0 transformers==4.46.2 peft==0.13.2 accelerate datasets \
        safetensors numpy tqdm
    cargo build --release
    venv/bin/python python/compare/import_published.py [--coconut CHECKOUT] [--lotus CHECKOUT] [--codi CHECKOUT]
                                                       [--simcot CHECKOUT] [--json FILE] [--fixtures FOLDER]

Each CHECKOUT is a copy of a published repository, whose modules are imported as they are; what a CPU does not have is
replaced from outside. A tiny GPT-2 or Llama is trained for some hundred steps by their classes on their rows, saved as
their programs save it, and asked by their loop of generation (LOTUS and CODI: by their whole evaluation program). The
file goes through `coconut import`, the questions through `coconut generate`. What is compared: token ids of every
answer up to its end, and of every prompt; `eos_first` counts the answers of Coconut and LOTUS that begin with the end of
sequence, which their loops speak and go on from. With `--fixtures` the models are smaller, and files and answers are
kept: so tests/fixtures/import was made.
"""

import argparse
import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

ARGV, sys.argv = sys.argv[1:], sys.argv[:1]
import published_objectives as shared  # its helpers run published code; it sets the environment too
import torch
import transformers
from published_objectives import imports_from, one_process, quiet, replaced

BINARY = Path(__file__).parents[2] / "target/release/coconut"
QUESTIONS, STEPS = 64, 300
SHAPE = {"width": 32, "layers": 2, "spread": 0.1}
KEPT = None  # a folder for fixtures
FIXTURES = {
    "coconut_llama.pt",
    "lotus_gpt2.pt",
    "codi_gpt2_lora.bin",
    "codi_llama_lora.safetensors",
    "simcot_coconut_llama.pt",
    "simcot_codi_gpt2_lora.bin",
}


def folder_of(place, kind):
    """A tiny model with both forms of its tokenizer."""
    path = shared.tiny(place, kind, **SHAPE)
    transformers.AutoTokenizer.from_pretrained(str(path)).save_pretrained(path)
    return path


def questions():
    """Each text once: their answers are to be learned."""
    data = shared.examples(1, [2 + i % 3 for i in range(QUESTIONS)], [4 + i % 5 for i in range(QUESTIONS)])
    assert len({example["question"] for example in data}) == QUESTIONS
    return data


def train(model, loss, steps=STEPS, lr=5e-3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for step in range(steps):
        value = loss(step)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return value.item()


def ours(checkpoint, data, new_tokens, *options):
    lines = "".join(example["question"] + "\n" for example in data)
    command = [BINARY, "generate", checkpoint, "--json", f"--max-new-tokens={new_tokens}", *options]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def keep(name, file, base, options, data, theirs):
    """A file, the model's folder without weights, and their answers, for the tests."""
    file_name = f"{name}{file.suffix or '.pt'}"
    if KEPT is None or file_name not in FIXTURES:
        return
    folder = KEPT / base.name
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(base / part, folder / part)
    shutil.copyfile(file, KEPT / file_name)
    expected = {
        "file": file_name,
        "base": base.name,
        "options": options,
        "questions": [example["question"] for example in data],
        "ids": theirs,
    }
    (KEPT / f"{name}.json").write_text(json.dumps(expected) + "\n")


def imported(file, base, out, *options):
    subprocess.run([BINARY, "import", file, "--base", base, "-o", out, *options], check=True, capture_output=True)
    return out


def accuracy(checkpoint, data, place):
    path = Path(place) / "asked.json"
    path.write_text(json.dumps(data))
    command = [BINARY, "eval", checkpoint, f"--data={path}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["eval_acc"]


def compared(what, theirs, mine, prompts, eos, loss, **more):
    """One line about a checkpoint. Their loops drop the end of sequence, ours keeps it."""
    cut = lambda ids: ids[: ids.index(eos)] if eos in ids else ids
    same = [cut(a) == cut(b["ids"]) for a, b in zip(theirs, mine, strict=True)]
    for question, (ids, answer) in enumerate(zip(theirs, mine)):
        if not same[question]:
            print(json.dumps({"what": what, "question": question, "theirs": ids, "ours": answer["ids"]}))
    return {
        "what": what,
        "questions": len(same),
        "same": sum(same),
        "prompts_same": sum(a == b["prompt_ids"] for a, b in zip(prompts, mine)) if prompts else None,
        "tokens": sum(len(cut(ids)) for ids in theirs),
        "different_answers": len({tuple(cut(ids)) for ids in theirs}),
        "eos_first": sum(ids[:1] == [eos] for ids in theirs),
        "loss": round(loss, 4),
        **more,
    }


# ---------------------------------------------------------------- Coconut, and SIM-CoT on it


def said_by(decoder, embed, thoughts, eos):
    """What a step decoder says after a block of thoughts, greedily, positions from 1 as their training has them."""
    said, inputs = [], thoughts[None]
    while len(said) < 32:
        positions = torch.arange(1, inputs.shape[1] + 1)[None]
        token = decoder(inputs_embeds=inputs, position_ids=positions).logits[0, -1].argmax().item()
        if token == eos:
            break
        said.append(token)
        inputs = torch.cat([inputs, embed(torch.tensor([[token]]))], 1)
    return said


def coconut(checkout, simcot=False):
    c, stages = 2, 3
    for kind in ("gpt2", "llama"):
        with tempfile.TemporaryDirectory() as place:
            with imports_from(checkout):
                module, dataset = importlib.import_module("coconut"), importlib.import_module("dataset")
            path, data = folder_of(place, kind), questions()
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
            tokenizer.pad_token = tokenizer.eos_token
            base, decoder = (transformers.AutoModelForCausalLM.from_pretrained(str(path)) for _ in range(2))
            for token in ("<|start-latent|>", "<|end-latent|>", "<|latent|>"):
                tokenizer.add_tokens(token)
            start, end, latent = (
                tokenizer.convert_tokens_to_ids(t) for t in ("<|start-latent|>", "<|end-latent|>", "<|latent|>")
            )
            base.resize_token_embeddings(len(tokenizer))
            markers = latent, start, end, tokenizer.eos_token_id
            configs = SimpleNamespace(
                max_latent_stage=stages,
                c_thought=c,
                uniform_prob=0.0,
                no_cot=False,
                pad_latent_to_max=True,
                training_method="full",
                explain_mode="v1_aug",
            )
            if simcot:
                with torch.no_grad():  # a decoder that is not the base
                    for p in decoder.parameters():
                        p.add_(0.05 * torch.randn_like(p))
                step = tokenizer.convert_tokens_to_ids("<<")
                model = module.CoconutGPT_Same_Word_Embedding(base, decoder, tokenizer, *markers, step, c, configs)
            else:
                model = module.Coconut(base, *markers)
            file = Path(place) / "data.json"
            file.write_text(json.dumps(data))
            with one_process(), quiet():
                examples = dataset.get_dataset(file, tokenizer)
                rows = dataset.get_cot_latent_dataset(stages + 1, examples, configs, start, latent, end)
                asked = dataset.get_question_latent_dataset(stages + 1, examples, configs, start, latent, end)
                rows, asked = [rows[i] for i in range(QUESTIONS)], [asked[i] for i in range(QUESTIONS)]
            collator = dataset.MyCollator(tokenizer, latent_id=latent, label_pad_token_id=-100)

            def loss(step):
                half = rows[step % 2 :: 2]
                batch = collator([dict(row) for row in half])
                return model(**{k: v for k, v in batch.items() if k != "idx"}).loss

            model.train()
            with quiet():
                last = train(model, loss)
            model.eval()
            saved = Path(place) / "checkpoint_1"
            torch.save(model.state_dict(), saved)
            text = lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            theirs, readout = [], []
            with torch.no_grad():
                for row in asked:
                    ids = torch.tensor([row["input_ids"]])
                    out, fed = model.generate(ids, None, max_new_tokens=64, output_embedding=True)
                    theirs.append(out[0, ids.shape[1] :].tolist())
                    blocks = fed[0, : ids.shape[1]][ids[0] == latent].split(c)
                    said = [said_by(decoder, model.embedding, b, tokenizer.eos_token_id) for b in blocks if simcot]
                    readout.append([text(ids).rstrip() for ids in said])
            options = ["--c-thought=2", "--max-latent-stage=3", "--pad-latent-to-max"]
            options += [] if simcot else ["--method=coconut"]
            out = imported(saved, path, Path(place) / "out", *options)
            keep(f"{'simcot_' if simcot else ''}coconut_{kind}", saved, path, options, data, theirs)
            # Their judge, as run.py has it.
            right = [text(t).split("#")[-1].replace(",", "").strip() == e["answer"] for t, e in zip(theirs, data)]
            prompts = [row["input_ids"] for row in asked]
            found = {"their_accuracy": sum(right) / len(right), "accuracy": accuracy(out, data, place)}
            what, mine = f"{'simcot ' if simcot else ''}coconut {kind}", ours(out, data, 64, "--thoughts")
            if simcot:
                pairs = [pair for a, b in zip(readout, mine) for pair in zip(a, b["readout"], strict=True)]
                found |= {"readouts": len(pairs), "readouts_same": sum(a == b for a, b in pairs)}
            yield compared(what, theirs, mine, prompts, tokenizer.eos_token_id, last, **found)


# ---------------------------------------------------------------- LOTUS


def lotus(checkout):
    c, stages = 3, 3
    for kind in ("gpt2", "llama"):
        with tempfile.TemporaryDirectory() as place:
            with imports_from(checkout / "scripts"):
                Lotus, dataset = shared.lotus_modules(checkout)
            path, data = folder_of(place, kind), questions()
            model, tokenizer, markers = shared.lotus_build(Lotus, path, c, kind)
            _, batch = shared.lotus_batch(dataset, tokenizer, place, data, stages, c, stages, markers)
            # Of a Llama their loop changes a cache in place that backward needs: it learns without iterations.
            looped = {"n_looped_iters": stages if kind == "gpt2" else 0}
            model.train()
            with quiet():
                last = train(model, lambda _: model(**batch | looped).loss, STEPS // 2)
            saved = Path(place) / "checkpoint_1"
            saved.mkdir()
            torch.save(model.state_dict(), saved / "model.pt")
            # Their evaluation program, its generations recorded.
            with imports_from(checkout / "scripts"):
                program = importlib.import_module("eval")
            record, generate = [], program.Lotus.generate

            def recorded(self, input_ids, **given):
                out = generate(self, input_ids=input_ids, **given)
                record.append((input_ids[0].tolist(), out[0].tolist()))
                return out

            asked, preds = Path(place) / "data.json", Path(place) / "preds.json"
            sys.argv[1:] = [
                *("--checkpoint", str(saved), "--model_id", str(path), "--datasets", str(asked), "--fp32"),
                *("--n_looped_iters", str(stages), "--c_thought", str(c), "--device", "cpu"),
                *("--save_preds", str(preds)),
            ]
            nothing = lambda *_, **__: 0
            cuda = ("synchronize", "reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved")
            with quiet(), replaced(torch.cuda, **dict.fromkeys(cuda, nothing)), replaced(Lotus, generate=recorded):
                with replaced(program.Lotus, generate=recorded):
                    program.main()
            del sys.argv[1:]
            prompts = [prompt for prompt, _ in record]
            theirs = [out[len(prompt) :] for prompt, out in record]
            options = ["--method=lotus", f"--c-thought={c}", f"--max-latent-stage={stages}"]
            out = imported(saved, path, Path(place) / "out", *options)
            keep(f"lotus_{kind}", saved / "model.pt", path, options, data, theirs)
            right = [p["correct"] for p in next(iter(json.loads(preds.read_text()).values()))]
            found = {"their_accuracy": sum(right) / len(right), "accuracy": accuracy(out, data, place)}
            yield compared(
                f"lotus {kind}", theirs, ours(out, data, 64), prompts, tokenizer.eos_token_id, last, **found
            )


# ---------------------------------------------------------------- CODI, and SIM-CoT on it


def on_the_cpu(source):
    """Their evaluation in f32 on the CPU: it names the device, and bf16, in its text."""
    return re.sub(r"['\"]cuda['\"]", "'cpu'", source).replace("torch.bfloat16", "torch.float32")


def codi(checkout, simcot=False):
    latents, inner = 3, SHAPE["width"] * 3 // 2
    cases = [("gpt2", True, "bin"), ("llama", True, "bin"), ("gpt2", False, "bin"), ("llama", True, "safetensors")]
    if simcot:
        cases = [("gpt2", True, "bin")]  # of Llama, tokens' numbers of the real one stand in their code
    for kind, lora, form in cases:
        with tempfile.TemporaryDirectory() as place:
            # Not a multiple of the width, so that the projection is wider than the model. Their Llama has no tied table.
            path, data = folder_of(place, kind), questions()
            settings = ["--use_lora", str(lora), "--prj_dim", str(inner), "--bf16", "True", "--use_cpu", "True"]
            train_only = ["--use_decoder", "True"] if simcot else []
            run = shared.codi_run(checkout, path, data, kind, latents, [*settings, *train_only])
            types = {name: p.dtype for name, p in run.model.named_parameters()}
            model = run.model.float()
            if simcot:  # the numbers of GPT-2's tokens stand in their code: ours are others
                marks = {
                    "start_ids": (run.tokenizer.convert_tokens_to_ids("<<"),),
                    "end_id": run.tokenizer.convert_tokens_to_ids(">>"),
                }
                steps_of = run.module.get_steps
                run.module.get_steps = lambda ids, n, **given: steps_of(ids, n, **given | marks)

            def loss(step):
                batch = run.collator([run.dataset[i] for i in range(step % 4, QUESTIONS, 4)])
                return model(**batch)["loss"]

            model.train()
            model.requires_grad_(True)  # what lies below the adapters too: a tiny random model knows nothing
            with quiet():
                last = train(model, loss, 2 * STEPS)
            for name, p in model.named_parameters():  # the model in bf16, the rest in f32, as their run has them
                p.data = p.data.to(types[name])
            saved = Path(place) / "saved"
            arguments = transformers.TrainingArguments(
                str(saved), save_safetensors=form == "safetensors", use_cpu=True, report_to="none"
            )
            with quiet():
                transformers.Trainer(model=model, args=arguments).save_model(str(saved))
            # Their evaluation program, the ids that it decodes recorded.
            source = on_the_cpu((checkout / "test.py").read_text())
            with imports_from(checkout):
                program = {"__name__": "their_test", "__file__": str(checkout / "test.py")}
                with quiet():
                    exec(compile(source, str(checkout / "test.py"), "exec"), program)
            record, accuracies = [], []
            gold = [{"question": e["question"], "answer": f"#### {e['answer']}"} for e in data]
            program["load_dataset"] = lambda *_: {"test": gold}
            if simcot:
                program.update(read_json=lambda _: gold, write_json=lambda *_: None)
            decode = transformers.PreTrainedTokenizer.decode

            def recorded(self, ids, **given):
                record.append(list(ids))
                return decode(self, ids, **given)

            parser = transformers.HfArgumentParser(
                tuple(program[name] for name in ("ModelArguments", "DataArguments", "TrainingArguments"))
            )
            given = parser.parse_args_into_dataclasses(
                [
                    *("--data_name", "gsm8k", "--output_dir", str(Path(place) / "out"), "--report_to", "none"),
                    *("--model_name_or_path", str(path), "--ckpt_dir", str(saved), "--model_max_length", "512"),
                    *("--lora_r", "4", "--lora_alpha", "8", "--lora_init", "--batch_size", "1", "--greedy", "True"),
                    *("--num_latent", str(latents), "--inf_latent_iterations", str(latents), "--use_prj", "True"),
                    *("--remove_eos", "True", "--prj_dropout", "0.0", *settings),
                ]
            )
            program["data_args"] = given[1]
            with quiet(), replaced(transformers.PreTrainedTokenizer, decode=recorded), contextlib.ExitStack() as stack:
                if simcot:
                    stack.enter_context(replaced(importlib.import_module("pdb"), set_trace=lambda: None))
                # argmax(…).squeeze(-1) of a batch of one has no dimension left, which their loop does not expect.
                squeeze = torch.Tensor.squeeze
                stack.enter_context(
                    replaced(torch.Tensor, squeeze=lambda t, *d: t if t.dim() == 1 and d == (-1,) else squeeze(t, *d))
                )
                accuracies.append(program["evaluation"](*given) / 100)
            options = [f"--c-thought={latents}", *(["--lora-alpha=8"] if lora else [])]
            out = imported(saved, path, Path(place) / "imported", *options)
            name = f"{'simcot_' if simcot else ''}codi_{kind}{'_lora' if lora else ''}"
            file = saved / ("model.safetensors" if form == "safetensors" else "pytorch_model.bin")
            keep(name, file, path, options, data, record)
            found = {"their_accuracy": accuracies[0], "accuracy": accuracy(out, data, place)}
            what = f"{'simcot ' if simcot else ''}codi {kind}{', LoRA' if lora else ''}, {form}"
            eos = run.tokenizer.eos_token_id
            yield compared(what, record, ours(out, data, 256), None, eos, last, **found)


def simcot(checkout):
    yield from coconut(checkout / "Coconut", simcot=True)
    yield from codi(checkout / "CODI", simcot=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = {"coconut": coconut, "lotus": lotus, "codi": codi, "simcot": simcot}
    for name in programs:
        parser.add_argument(f"--{name}", type=Path, help="its checkout")
    parser.add_argument("--json", type=Path, help="also write the lines here")
    parser.add_argument("--fixtures", type=Path, help="smaller models, whose files and answers are kept there")
    arguments = parser.parse_args(ARGV)
    if arguments.fixtures:
        global KEPT, QUESTIONS
        KEPT, QUESTIONS = arguments.fixtures, 12
        SHAPE.update(width=8, layers=1, positions=128)
    transformers.logging.set_verbosity_error()
    lines = []
    for name, program in programs.items():
        checkout = getattr(arguments, name)
        for line in program(checkout.resolve()) if checkout else ():
            print(json.dumps(line), flush=True)
            lines.append(json.dumps(line))
    if arguments.json:
        arguments.json.write_text("\n".join(lines) + "\n")
    if any(json.loads(line)["same"] != json.loads(line)["questions"] for line in lines):
        sys.exit("some answers differ")


if __name__ == "__main__":
    main()
