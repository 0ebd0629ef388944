"""Thoughts as arrays."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from ._program import Option, run

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True)
class Thoughts:
    """What a checkpoint was fed at its latents, and what it computed there, question by question."""

    thoughts: Array
    """`[questions, latents, d_model]`: what was fed; zero beyond a question's own `latents`."""
    hidden_states: Array
    """`[questions, 1 + latents, layers + 1, d_model]`: from the question's last token on, the embeddings first."""
    questions: list[dict[str, Any]]
    """`question`, `steps`, `answer`, `prediction`, `correct`, `latents`, … of each."""


def thoughts(checkpoint: Union[str, os.PathLike[str]], data: Union[str, os.PathLike[str]], **options: Option) -> Thoughts:
    """Asks a checkpoint the questions of a file, six at least, and reads its thoughts; `options` are `coconut audit`'s, such
    as `max_size=100`."""
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"only": "zero@all", "shuffles": 0, **options}
        run("audit", checkpoint, data=data, thoughts=True, output=folder, **settings)
        return read_thoughts(folder)


def read_thoughts(folder: Union[str, os.PathLike[str]]) -> Thoughts:
    """Reads what `coconut audit … --thoughts` has written into a folder."""
    tensors = _safetensors(Path(folder, "thoughts.safetensors"))
    lines = Path(folder, "thoughts.jsonl").read_text("utf-8").splitlines()
    return Thoughts(tensors["thoughts"], tensors["hidden_states"], [json.loads(line) for line in lines])


def _safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a file, all of which are f32: a length, a header of JSON, and the numbers."""
    import numpy

    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "F32":
            raise ValueError(f"{path}: {name} is {entry['dtype']}; expected F32")
        begin, count = start + entry["data_offsets"][0], math.prod(entry["shape"])
        values = numpy.frombuffer(content, numpy.dtype("<f4"), count, begin)
        tensors[name] = values.reshape(entry["shape"]).copy()
    return tensors
