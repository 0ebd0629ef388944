"""The Python package around the program, on a run that it trains itself. `dev/wheel.sh` runs this on the wheel.

    COCONUT_RUN=runs/quickstart python -m pytest python/tests        (a run of one's own beside it)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import coconut_latent as coconut
import numpy
import pandas
import pytest

RECIPE = """
name: r
task: arithmetic
operands: [0, 9]
operations: [2, 2]
modulus: 10
value_steps: True
train_examples: 200
val_examples: 20
n_layer: 1
n_embd: 16
n_head: 2
c_thought: 2
max_latent_stage: 2
cot_epochs: 1
epochs_per_stage: 1
num_epochs: 5
batch_size_training: 20
baselines: [no_cot]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    (place / "recipe.yaml").write_text(RECIPE)
    results = coconut.run("train", "recipe.yaml", cwd=place, set={"lr": 1e-3, "betas": [0.9, 0.99]})
    assert [row["stage"] for row in results["rows"] if row["method"] == "coconut"] == [-1, 0, 1, 2, 3]
    coconut.run("data", "generate", "recipe.yaml", n=12, o="test.json", cwd=place)
    return place


def test_a_run_is_data_frames(place: Path) -> None:
    run = coconut.Run(place / "runs/r")
    assert (run.config["lr"], run.config["betas"], run.config["task"]) == (1e-3, [0.9, 0.99], "arithmetic")
    metrics = run.metrics()
    assert isinstance(metrics, pandas.DataFrame)
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == len(lines) == 5 * 10 + 5
    assert metrics["loss"].notna().sum() == 50
    assert list(metrics["loss"].dropna()) == [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]
    results = run.results()
    assert set(results["method"]) == {"coconut", "no_cot"}
    samples = run.samples()
    last = samples[samples["epoch"] == samples["epoch"].max()]
    assert last["correct"].mean() == results[results["method"] == "coconut"]["eval_acc"].iloc[-1]
    assert [baseline.path.name for baseline in run.baselines] == ["no_cot"]


def test_a_line_that_was_cut_short_is_left_out(place: Path, tmp_path: Path) -> None:
    text = (place / "runs/r/metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-9])
    assert len(coconut.Run(tmp_path).metrics()) == len(text.splitlines()) - 1
    with pytest.raises(FileNotFoundError, match="holds no run"):
        coconut.Run(tmp_path / "nowhere")


def test_answers_are_json(place: Path) -> None:
    checkpoint = coconut.Run(place / "runs/r").latest
    one = coconut.run("generate", checkpoint, prompt="1+2+3", thoughts=True, latents=3)
    assert (one["prompt"], one["latents"], len(one["thoughts"])) == ("1+2+3", 3, 3)
    several = coconut.run("generate", checkpoint, input="1+2+3\n4+5+6\n")
    assert [answer["prompt"] for answer in several] == ["1+2+3", "4+5+6"]
    curve = coconut.run("eval", checkpoint, data=place / "test.json", latents="0..2")
    assert curve
    assert "Commands" in coconut.run("--help")


def test_thoughts_are_arrays(place: Path) -> None:
    checkpoint = coconut.Run(place / "runs/r").latest
    found = coconut.thoughts(checkpoint, place / "test.json")
    # Two steps, two latents each; one block, 16 numbers wide.
    assert found.thoughts.shape == (12, 4, 16) and found.thoughts.dtype == numpy.float32
    assert found.hidden_states.shape == (12, 5, 2, 16)
    assert [question["latents"] for question in found.questions] == [4] * 12
    # What is fed is the last hidden state of the position before.
    numpy.testing.assert_array_equal(found.thoughts, found.hidden_states[:, :-1, -1])
    safetensors = pytest.importorskip("safetensors.numpy")
    folder = place / "audit"
    coconut.run("audit", checkpoint, data=place / "test.json", thoughts=True, o=folder, only="zero@all", shuffles=0)
    tensors = safetensors.load_file(folder / "thoughts.safetensors")
    for name, values in tensors.items():
        numpy.testing.assert_array_equal(values, getattr(coconut.read_thoughts(folder), name))


def test_mistakes_have_the_program_s_words(place: Path) -> None:
    with pytest.raises(coconut.CoconutError, match="did you mean `lr`") as raised:
        coconut.run("train", "recipe.yaml", cwd=place, set={"lrr": 1})
    assert raised.value.code == 2 and not str(raised.value).startswith("error")
    with pytest.raises(coconut.CoconutError, match="already holds a run"):
        coconut.run("train", "recipe.yaml", cwd=place)


def test_ctrl_c_saves(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    code = "import coconut_latent as c; c.run('train', 'recipe.yaml', set={'train_examples': 8000, 'num_epochs': 99})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs/r/metrics.jsonl"
    for _ in range(600):
        if child.poll() is not None or (metrics.exists() and metrics.stat().st_size > 1000):
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert "everything is saved" in said and "KeyboardInterrupt" in said, said
    assert (tmp_path / "runs/r/checkpoints/latest").exists()


@pytest.mark.skipif("COCONUT_RUN" not in os.environ, reason="no run of one's own is named")
def test_a_run_of_one_s_own() -> None:
    run = coconut.Run(os.environ["COCONUT_RUN"])
    for frame in (run.metrics(), run.results(), run.samples()):
        assert len(frame) > 0
    print(run.results()[["stage", "method", "eval_acc"]])
