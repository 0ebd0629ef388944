"""Render chat templates with transformers and with ours, and compare the texts byte for byte.

    venv/bin/python python/compare/check_templates.py FILE.jinja | FOLDER ...

Folders are searched for *.jinja files and for tokenizer_config.json files with a `chat_template`; templates of
published models come with several packages, `trl` and the sources of `llama-cpp-python` among them. Each is
rendered for every conversation below. What transformers refuses must be refused by ours too; what ours alone
refuses is counted apart from other texts, and a text that differs fails the script.
"""

import datetime
import json
import subprocess
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import _compile_jinja_template

ROOT = Path(__file__).parents[2]
DATE = datetime.datetime(2024, 7, 26)
USER = {"role": "user", "content": "Janet has 16 eggs & eats <3>.\nHow many \"are\" left, d'accord? \U0001f600 café"}
SYSTEM = {"role": "system", "content": "Think in << and >>; answer after ###.\n"}
ANSWER = {"role": "assistant", "content": "<<16-3=13>>\n### 13"}
THOUGHT = {"role": "assistant", "content": "<think>\nsixteen less three\n</think>\n\n### 13"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather <of> a \"place\" & time.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Name of a café"},
                "days": {"type": "integer", "default": 1, "enum": [1, 2]},
                "units": {"type": ["string", "null"], "nullable": True},
                "list": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["place"],
        },
        "return": {"type": "string", "description": "what it is like"},
    },
}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "list": [1.5, None, True]}},
        }
    ],
}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "abcdefghi", "content": '{"sky": "clear"}'}
PARTS = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]}
CONVERSATIONS = {
    "question": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "turns": {"messages": [USER, ANSWER, USER], "add_generation_prompt": True},
    "answered": {"messages": [SYSTEM, USER, ANSWER]},
    "thought": {"messages": [SYSTEM, USER, THOUGHT, USER], "add_generation_prompt": True},
    "reasoning": {"messages": [USER, ANSWER | {"reasoning_content": "sixteen less three", "thinking": "sixteen"}]},
    "thinking off": {"messages": [USER], "enable_thinking": False, "thinking": False, "add_generation_prompt": True},
    "spaces": {"messages": [{"role": "user", "content": "\x1c \t a\x0b\x1f b \x85\n"}], "add_generation_prompt": True},
    "two of a kind": {"messages": [USER, USER]},
    "answer first": {"messages": [ANSWER, USER]},
    "other role": {"messages": [USER, {"role": "critic", "content": "Really?"}]},
    "parts": {"messages": [SYSTEM, PARTS], "add_generation_prompt": True},
    "tools": {"messages": [SYSTEM, USER], "tools": [WEATHER], "add_generation_prompt": True},
    "calls": {"messages": [USER, CALL, RESULT, ANSWER], "tools": [WEATHER]},
    "calls only": {"messages": [USER, CALL, RESULT], "add_generation_prompt": True},
    "documents": {"messages": [USER], "documents": [{"title": "Eggs", "text": "There are <16>."}]},
}
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def variables(conversation):
    return {"tools": None, "documents": None, "add_generation_prompt": False} | SPECIALS | conversation


def reference(case, compiled={}):
    """What transformers makes of a case; the date alone is ours, in place of the clock's."""
    try:
        source = case["template"]
        if source not in compiled:
            compiled[source] = _compile_jinja_template(source)
        return {"text": compiled[source].render(**case["variables"], strftime_now=DATE.strftime)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def ours(cases):
    command = ["cargo", "run", "--quiet", "--release", "-p", "coconut-jinja", "--example", "render"]
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def templates(paths):
    """Name and source of every template in files and folders."""
    for path in map(Path, paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix == ".jinja":
                yield str(file), file.read_text()
            elif file.name == "tokenizer_config.json":
                found = json.loads(file.read_text()).get("chat_template") or []
                named = [{"name": "default", "template": found}] if isinstance(found, str) else found
                for template in named:
                    yield f"{file} {template['name']}", template["template"]


if __name__ == "__main__":
    found = list(templates(sys.argv[1:]))
    named = [(f"{name}, {c}", source, variables(v)) for name, source in found for c, v in CONVERSATIONS.items()]
    cases = [{"template": source, "variables": values, "date": f"{DATE:%Y-%m-%d}"} for _, source, values in named]
    same = refused = both = 0
    different = []
    for (name, *_), case, mine in zip(named, cases, ours(cases), strict=True):
        theirs = reference(case)
        if theirs == mine:
            same += 1
        elif "error" in theirs and "error" in mine:
            both += 1
        elif "error" in mine:
            refused += 1
            print(f"{name}: refused: {mine['error']}")
        else:
            different.append(name)
            print(f"{name}: different\n  transformers {theirs}\n  ours         {mine}")
    print(f"{len(found)} templates: {same} texts equal, {both} refused by both, {refused} by ours alone, {len(different)} different")
    sys.exit(bool(different))
