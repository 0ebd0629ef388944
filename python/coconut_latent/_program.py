"""The program as a function."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

Argument = Union[str, int, float, "os.PathLike[str]"]
Option = Union[None, bool, Argument, Sequence[Argument], Mapping[str, Any]]

# Verbs that print JSON if they are asked to.
_WITH_JSON = ("audit", "bench", "data stats", "eval", "generate", "logits", "sweep", "train")


class CoconutError(RuntimeError):
    """The program's own message.

    `code` is its exit code: 2 for a mistake in what was asked, 130 for a run that was stopped and saved.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def program() -> Path:
    """The program that was installed with this package, or else the one on the PATH."""
    name = "coconut" + (sysconfig.get_config_var("EXE") or "")
    schemes = [sysconfig.get_default_scheme(), _user_scheme()] if sys.version_info >= (3, 10) else [None]
    folders = [sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts") for scheme in schemes]
    for folder in folders:
        path = Path(folder, name)
        if path.is_file():
            return path
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"there is no `{name}` in {' or '.join(folders)}, nor on the PATH; `pip install coconut-latent` puts it there")
    return Path(found)


def _user_scheme() -> str:
    return sysconfig.get_preferred_scheme("user")


def run(
    *arguments: Argument, input: Optional[str] = None, cwd: Optional["os.PathLike[str] | str"] = None, **options: Option
) -> Any:
    """Runs the program: `run("eval", checkpoint, data="test.json", latents="0..8")` is `coconut eval CHECKPOINT --data
    test.json --latents 0..8`.

    An option that is True stands alone, one that is None or False is left out, a list repeats it, and a mapping repeats it
    with `key=value`; `set` is the program's `-s`. `input` is given on standard input.

    The answer is the JSON that the verb prints, a list of them if there are several lines or an `input`; of verbs without
    JSON, their text. What the program says on standard error goes there.

    Raises `CoconutError` with the program's message if it does not end well.
    """
    words = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in arguments]
    as_json = any(" ".join(words).startswith(verb) for verb in _WITH_JSON) and not options.get("dry_run")
    words += _flags({**options, "json": as_json})
    output, errors, code = _call([str(program()), *words], input, cwd)
    if code != 0:
        message = re.split(r"^error: ", errors, flags=re.MULTILINE)[-1].strip()
        raise CoconutError(message or f"coconut {words[0] if words else ''} ended with code {code}", code)
    sys.stderr.write(errors)
    if not as_json:
        return output
    answers = [json.loads(line) for line in output.splitlines()]
    return answers[0] if len(answers) == 1 and input is None else answers


def _flags(options: Mapping[str, Option]) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        name = "s" if name == "set" else name
        flag = f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            value = [f"{key}={_text(of)}" for key, of in value.items()]
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            values = value if isinstance(value, (list, tuple)) else [value]
            for one in values:
                flags += [flag, str(one)]
    return flags


def _text(value: Any) -> str:
    """A value as a recipe has it: JSON is YAML, and a text needs no quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _call(command: list[str], input: Optional[str], cwd: Optional["os.PathLike[str] | str"]) -> tuple[str, str, int]:
    # A session of its own, so that Ctrl-C reaches the program once: the first saves, a second one ends it at once.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(input)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            raise
        sys.stderr.write(errors)
        raise
    return output, errors, process.returncode
