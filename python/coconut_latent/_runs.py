"""A run's folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import pandas


class Run:
    """A run's folder, `save_path/name`, or a baseline's within it."""

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        self.path = Path(path)
        if not (self.path / "metrics.jsonl").is_file():
            raise FileNotFoundError(f"{self.path} holds no run: there is no metrics.jsonl in it")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """Every key of the recipe."""
        config: dict[str, Any] = self._results()["config"]
        return config

    @property
    def latest(self) -> Path:
        """The newest checkpoint."""
        return self.path / "checkpoints" / "latest"

    @property
    def baselines(self) -> list[Run]:
        """The runs of other methods that were trained beside it."""
        return [Run(file.parent) for file in sorted(self.path.glob("*/metrics.jsonl"))]

    def metrics(self) -> pandas.DataFrame:
        """A row an optimizer step and an evaluation: `step`, `epoch`, `stage`, `loss`, `lr`, `eval/acc`, …"""
        return _frame(_lines(self.path / "metrics.jsonl"))

    def results(self) -> pandas.DataFrame:
        """A row an evaluation: `stage`, `method`, `eval_acc` with its interval, tokens, latents, time, …"""
        return _frame(self._results()["rows"])

    def samples(self) -> pandas.DataFrame:
        """A row a question of each evaluation: what was asked, generated and judged."""
        return _frame(_lines(self.path / "samples.jsonl"))

    def _results(self) -> dict[str, Any]:
        results: dict[str, Any] = json.loads((self.path / "results.json").read_text("utf-8"))
        return results


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of JSON lines; a last one that a killed run cut short is left out, as the program does."""
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line.strip()]
