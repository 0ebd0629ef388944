"""Run every line of a page, in order, in a folder that is thrown away.

    venv/bin/python dev/check_page.py docs/pretrained.md [NAME=PATH …] [--coconut BINARY] [--keep]

Blocks fenced as `sh` are run command by command, those fenced as `python` as a whole, by the Python that runs this
script. What stands in a block fenced as `text` must be what the block before it printed on its standard output; fenced
as `text example` it is not compared. The first failure ends the run. `configs/` is the repository's.

A line that fetches (`hf`, `curl`) is run as it stands unless NAME=PATH stands in for what it fetches: NAME is the
model's `org/name`, which then lies in a Hugging Face cache of its own, or what follows `--local-dir` or `-o`.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMIT = "0" * 40


def blocks(page):
    """Language and text of each fenced block, with the number of its first line."""
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", page, re.MULTILINE):
        yield match[1].strip(), match[2], page[: match.start(2)].count("\n") + 1


def commands(block):
    """The commands of a block: its lines, those that end in a backslash joined with the next."""
    lines = re.split(r"(?<!\\)\n", block)
    return [line for line in lines if line.strip() and not line.startswith("#")]


def fetched(command):
    """The name of what a command would fetch; nothing for other commands."""
    words = shlex.split(command, comments=True)
    if words[0] not in ("hf", "curl"):
        return None
    for option in ("--local-dir", "-o"):
        if option in words:
            return words[words.index(option) + 1]
    return words[2]


def stand_in(name, path, command, place):
    """Puts a folder or file where a fetch would leave it: below `place`, or in the cache there."""
    if name in shlex.split(command)[3:]:
        (place / name).symlink_to(path)
        return
    repository = place / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(path)


def run(arguments, place, environment):
    """What a command prints; shows it, and ends the script if the command fails."""
    start = time.monotonic()
    done = subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True)
    print(done.stderr + done.stdout, end="")
    print(f"[{time.monotonic() - start:.0f} s]", flush=True)
    if done.returncode:
        sys.exit(f"failed with {done.returncode}")
    return done.stdout


def check(page, stand_ins, place, environment):
    (place / "configs").symlink_to(ROOT / "configs")
    printed = ""
    for language, block, line in blocks(page.read_text()):
        where = f"{page}:{line}"
        if language == "sh":
            printed = ""
            for command in commands(block):
                print(f"{where}: $ {command}", flush=True)
                name = fetched(command)
                if name in stand_ins:
                    stand_in(name, stand_ins[name], command, place)
                else:
                    printed += run(["bash", "-c", command], place, environment)
        elif language == "python":
            print(f"{where}: python", flush=True)
            printed = run([sys.executable, "-c", block], place, environment)
        elif language == "text" and printed.strip() != block.strip():
            sys.exit(f"{where}: shown is\n{block}printed was\n{printed}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("stand_ins", nargs="*", metavar="NAME=PATH")
    parser.add_argument("--coconut", type=Path, default=ROOT / "target/release/coconut")
    parser.add_argument("--keep", action="store_true", help="leave the folder behind")
    options = parser.parse_args()
    stand_ins = {name: Path(path).resolve() for name, path in (pair.split("=", 1) for pair in options.stand_ins)}
    place = Path(tempfile.mkdtemp(prefix="page-"))
    (place / "bin").mkdir()
    (place / "bin/coconut").symlink_to(options.coconut.resolve())
    environment = os.environ | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "RUST_BACKTRACE": "0",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if any("/" in name for name in stand_ins):
        environment |= {"HF_HUB_CACHE": str(place / "hub"), "HF_HUB_OFFLINE": "1"}
    try:
        check(options.page, stand_ins, place, environment)
        print("every line ran")
    finally:
        print(f"left in {place}") if options.keep else shutil.rmtree(place)


if __name__ == "__main__":
    main()
