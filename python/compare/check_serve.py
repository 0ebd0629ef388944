"""`coconut serve` as real clients meet it: the openai package, and lm_eval with local-completions and local-chat-completions.

    python python/compare/check_serve.py target/release/coconut FOLDER [--chat] [--no-lm-eval]

FOLDER is a checkpoint of the quickstart or a plain model of English. Needs `openai`, `lm_eval[api]`, `torch` and
`transformers`: lm_eval's `hf` model computes the same log-likelihoods. Nothing is fetched.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("HF_HUB_OFFLINE", "1")

QUESTIONS = ["3+5*2-7+1", "1+1+1+1+1", "9*9-2+4*3", "2-3+4*5-6"]
TEXTS = ["The capital of France is", "Once upon a time", "2 + 2 =", "The sun rises in the"]
CHOICES = [
    ("The capital of France is", [" Paris", " Berlin", " purple"], 0),
    ("Two plus two is", [" four", " nine", " banana"], 0),
    ("The sun rises in the", [" west", " east", " spoon"], 1),
    ("Water freezes at zero degrees", [" Celsius", " Monday", " lemon"], 0),
]

# For a checkpoint of the quickstart, of which this asks for the likelihoods of answers without latents.
CHAINS = [(f"{question}\n", ["### 0", "### 5", "### 9"], gold) for question, gold in zip(QUESTIONS, [0, 1, 2, 2])]


def start(program, folder):
    command = [program, "serve", folder, "--port", "0", "--name", "served"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "http://" in line:
            return process, line.split("on ")[1].split(";")[0]
    sys.exit("the server ended")


def generated(program, folder, question):
    command = [program, "generate", folder, "--json", "--prompt", question]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def check_openai(url, program, folder, plain, chat):
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
    assert [model.id for model in client.models.list()] == ["served"]
    prompts = TEXTS if plain else QUESTIONS
    ask = lambda prompt, **more: client.completions.create(
        model="served", prompt=prompt, max_tokens=16, temperature=0, **more
    )
    alone = [ask(prompt).choices[0].text for prompt in prompts]
    for prompt, text in zip(prompts, alone):
        print(f"  {prompt!r} -> {text!r}")
        if not plain:
            assert text == generated(program, folder, prompt)["generation"], "not as generate says"
        parts = [part.choices[0].text for part in ask(prompt, stream=True)]
        assert "".join(parts) == text, (parts, text)
    assert [choice.text for choice in ask(prompts).choices] == alone, "a batch says something else"
    with ThreadPoolExecutor(16) as pool:
        many = list(pool.map(lambda n: ask(prompts[n % 4]).choices[0].text, range(32)))
    assert many == [alone[n % 4] for n in range(32)], "16 clients at once hear something else"
    if not plain:
        answer = ask(prompts[0], extra_body={"thoughts": 3})
        thoughts = answer.choices[0].model_extra["thoughts"]
        expected = [thought["length"] for thought in thoughts]
        assert expected and all(len(thought["tokens"]) == 3 for thought in thoughts)
        edited = ask(prompts[0], extra_body={"edit": "zero@all"}).choices[0].text
        print(f"  {len(thoughts)} thoughts; zeroed, {prompts[0]!r} -> {edited!r}")
    if chat or not plain:
        messages = [{"role": "user", "content": prompts[0]}]
        create = lambda **more: client.chat.completions.create(
            model="served", messages=messages, max_completion_tokens=16, temperature=0, **more
        )
        said = create().choices[0].message.content
        parts = [part.choices[0].delta.content or "" for part in create(stream=True)]
        assert "".join(parts) == said
        print(f"  chat: {said!r}")
    for wrong, kind in [
        (dict(n=2), openai.BadRequestError),
        (dict(top_p=0.5), openai.BadRequestError),
        (dict(extra_body={"edit": "nonsense"}), openai.BadRequestError),
    ]:
        try:
            ask(prompts[0], **wrong)
            sys.exit(f"{wrong} was taken")
        except kind as error:
            print(f"  refused: {error.body['message']}")


TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{question}}}}"
target_delimiter: ""
"""
CHOICE = """output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - metric: acc
"""
SAY = """output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 16
metric_list:
  - metric: exact_match
"""


def evaluated(model, arguments, name, task, documents, **more):
    """The task's metrics, and each document's replies; `more` is for lm_eval."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as here:
        data = os.path.join(here, "data.jsonl")
        with open(data, "w") as file:
            file.writelines(json.dumps(document) + "\n" for document in documents)
        with open(os.path.join(here, "local.yaml"), "w") as file:
            file.write(TASK.format(name=name, data=data) + task)
        found = lm_eval.simple_evaluate(
            model=model,
            model_args=arguments,
            tasks=[name],
            task_manager=TaskManager(include_path=here, include_defaults=False),
            batch_size=4 if model == "local-completions" else 1,
            bootstrap_iters=0,
            log_samples=True,
            **more,
        )
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return found["results"][name], [sample["filtered_resps"] for sample in samples]


def check_lm_eval(url, program, folder, plain, chat):
    served = {"model": "served", "base_url": f"{url}/v1/completions"}
    tokenizer = {"tokenizer_backend": "huggingface", "tokenizer": folder, "max_length": 256}
    documents = [
        {"question": question, "choices": choices, "gold": gold}
        for question, choices, gold in (CHOICES if plain else CHAINS)
    ]
    task = ("local_choices", CHOICE, documents)
    found, ours = evaluated("local-completions", served | tokenizer, *task)
    print(f"  local-completions: accuracy {found['acc,none']}")
    found, theirs = evaluated("hf", {"pretrained": folder, "device": "cpu", "dtype": "float32"}, *task)
    pairs = [(a, b) for x, y in zip(ours, theirs) for a, b in zip(x, y)]
    worst = max(abs(float(a[0]) - float(b[0])) for a, b in pairs)
    print(f"  hf: accuracy {found['acc,none']}; {len(pairs)} log-likelihoods differ by {worst:.1e} at most")
    assert worst < 1e-3, pairs
    assert all(bool(a[1]) == bool(b[1]) for a, b in pairs), "is_greedy differs"
    if not plain:
        answers = [generated(program, folder, question)["generation"] for question in QUESTIONS]
        documents = [{"question": q, "answer": a} for q, a in zip(QUESTIONS, answers)]
        texts = {"tokenizer_backend": "None", "tokenized_requests": False}
        found, _ = evaluated("local-completions", served | texts, "local_answers", SAY, documents)
        print(f"  generate_until, questions with latents: {found['exact_match,none']} as `generate` says")
        assert found["exact_match,none"] == 1.0
    if chat or not plain:
        # The answers are those of transformers, or of `generate`.
        questions = TEXTS if plain else QUESTIONS
        documents = [{"question": question, "answer": ""} for question in questions]
        if plain:
            hf = {"pretrained": folder, "device": "cpu", "dtype": "float32"}
            _, said = evaluated("hf", hf, "local_chats", SAY, documents, apply_chat_template=True)
        else:
            said = [[generated(program, folder, question)["generation"]] for question in questions]
        documents = [{"question": q, "answer": a[0]} for q, a in zip(questions, said)]
        chats = {"model": "served", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 4}
        found, heard = evaluated("local-chat-completions", chats, "local_chats", SAY, documents, apply_chat_template=True)
        print(f"  local-chat-completions: {heard}")
        assert found["exact_match,none"] == 1.0, (said, heard)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--no-lm-eval", action="store_true")
    options = parser.parse_args()
    plain = not os.path.exists(os.path.join(options.folder, "latent.json"))
    process, url = start(options.program, options.folder)
    try:
        started = time.time()
        check_openai(url, options.program, options.folder, plain, options.chat)
        print(f"openai: as expected ({time.time() - started:.0f} s)")
        if not options.no_lm_eval:
            check_lm_eval(url, options.program, options.folder, plain, options.chat)
            print("lm_eval: as expected")
    finally:
        process.terminate()
        print(f"the server ended with {process.wait(timeout=60)}")


main()
