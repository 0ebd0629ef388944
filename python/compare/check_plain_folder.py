"""Check that a pretrained model's folder is to coconut what it is to transformers.

    venv/bin/python python/compare/check_plain_folder.py FOLDER DATA [COCONUT [QUESTIONS [TOKENS]]]

FOLDER is a Hugging Face folder with a chat template, such as SmolLM2-135M-Instruct; DATA a file of examples in any
form that `coconut data convert` reads, such as GSM8K's; COCONUT the binary, by default target/release/coconut. On the
first QUESTIONS, by default 200, in float32, the following must hold, and the script fails where one does not:

1. Chat prompts are the same token by token, and read as the same bytes: the question alone, after a system prompt,
   and after a system prompt and three solved examples as turns.
2. Logits after each prompt of the first kind differ by less than 1e-3.
3. The greedy continuations, up to TOKENS, by default 32, and where they end are the same, or part at a token where the
   two best logits of transformers are less than 1e-3 apart; each such place is told.

Takes about twenty minutes of one core's time for 135M parameters.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
SHOTS, BOUND = 3, 1e-3
SYSTEM = "Think in << and >>, then write the answer after ###; “12½ café”, d'accord?"


def run(coconut, arguments, lines=()):
    """What the program prints, a value of JSON a line; `lines` are its standard input."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run([coconut, *map(str, arguments)], input=text, capture_output=True, text=True)
    assert done.returncode == 0, f"coconut {' '.join(map(str, arguments))}\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]


def examples(coconut, data, folder, count):
    """Examples to ask and examples to show, whose questions stand on one line."""
    run(coconut, ["data", "convert", data, folder / "all.json"])
    found = [e for e in json.loads((folder / "all.json").read_text()) if len(e["question"].splitlines()) == 1]
    assert len(found) >= count + SHOTS, f"{len(found)} questions of one line are too few"
    return found[:count], found[count : count + SHOTS]


def check_prompts(tokenizer, name, answers, asked, before):
    """Holds prompts against the template's text; `before` are the turns before each question."""
    same = 0
    for answer, example in zip(answers, asked, strict=True):
        turns = [*before, {"role": "user", "content": example["question"]}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        read = tokenizer.decode(answer["prompt_ids"], clean_up_tokenization_spaces=False)
        if answer["prompt_ids"] == ids and read.encode() == text.encode():
            same += 1
        else:
            print(f"{name}: other prompt\n  transformers {text!r}\n  coconut      {read!r}")
    tokens = sum(len(answer["prompt_ids"]) for answer in answers)
    print(f"prompts, {name}: {same} of {len(asked)} the same, {tokens} tokens")
    return same == len(asked)


@torch.no_grad()
def check_logits(model, rows, answers):
    """Holds logits after each prompt against a pass of transformers; the rows of markers that we add are left out."""
    off, best = 0.0, 0
    for row, answer in zip(rows, answers, strict=True):
        theirs = model(input_ids=torch.tensor([answer["prompt_ids"]])).logits[0, -1]
        ours = torch.tensor(row["logits"][0])[: len(theirs)]
        off = max(off, (ours - theirs).abs().max().item())
        best += ours.argmax().item() == theirs.argmax().item()
    print(f"logits: off by at most {off:.1e} over {len(rows)} prompts; {best} of {len(rows)} likeliest tokens the same")
    return off < BOUND


@torch.no_grad()
def check_generations(model, answers, limit):
    """Holds greedy continuations against `generate` of transformers."""
    same, ended, tokens, fine = 0, 0, 0, True
    for number, answer in enumerate(answers, 1):
        prompt = torch.tensor([answer["prompt_ids"]])
        ends = model.generation_config.eos_token_id
        whole = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=limit
        )[0]
        theirs = whole[prompt.shape[1] :].tolist()
        ends = ends if isinstance(ends, list) else [ends]
        finished = bool(theirs) and theirs[-1] in ends
        theirs = theirs[:-1] if finished else theirs
        ours = answer["ids"][:-1] if answer["ids"] and answer["ids"][-1] in ends else answer["ids"]
        tokens += len(theirs)
        ended += finished
        if ours == theirs and answer["finished"] == finished:
            same += 1
            continue
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        two = model(input_ids=whole[None, : prompt.shape[1] + at]).logits[0, -1].topk(2).values
        gap = (two[0] - two[1]).item()
        print(f"question {number}: other token at {at + 1}, where the two best logits are {gap:.1e} apart")
        fine &= gap < BOUND
    print(f"greedy text: {same} of {len(answers)} the same, {tokens} tokens, {ended} ended before the limit")
    return fine


def main(folder, data, coconut=ROOT / "target/release/coconut", count=200, limit=32):
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with tempfile.TemporaryDirectory() as place:
        asked, shots = examples(coconut, data, Path(place), int(count))
        questions = [example["question"] for example in asked]
        shots_file = Path(place) / "shots.json"
        shots_file.write_text(json.dumps(shots))
        ask = ["generate", folder, "--chat", "--json", "--max-new-tokens"]
        system = [{"role": "system", "content": SYSTEM}]
        turns = [
            {"role": role, "content": content}
            for shot in shots
            for role, content in [
                ("user", shot["question"]),
                ("assistant", "\n".join([*shot["steps"], f"### {shot['answer']}"])),
            ]
        ]
        with_shots = ["--system", SYSTEM, "--shots-from", shots_file]
        answers = run(coconut, [*ask, limit], questions)
        after_system = run(coconut, [*ask, 1, "--system", SYSTEM], questions)
        after_shots = run(coconut, [*ask, 1, *with_shots], questions)
        rows = [",".join(map(str, answer["prompt_ids"])) for answer in answers]
        logits = run(coconut, ["logits", folder, "--last"], rows)
    fine = [
        check_prompts(tokenizer, "question alone", answers, asked, []),
        check_prompts(tokenizer, "system prompt", after_system, asked, system),
        check_prompts(tokenizer, f"system prompt, {SHOTS} shots", after_shots, asked, system + turns),
        check_logits(model, logits, answers),
        check_generations(model, answers, int(limit)),
    ]
    sys.exit(not all(fine))


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    main(*sys.argv[1:])
