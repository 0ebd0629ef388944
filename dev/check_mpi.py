"""Train with several processes, and hold what comes of it against one process.

    dev/check_mpi.sh [--time]                      installs and builds what it needs
    python3 dev/check_mpi.py PROGRAM [--time]      with a program that has the feature `mpi`; MPIRUN names its mpirun

Losses of 1, 2 and 4 processes agree to 1e-6 and gradients' norms to 1e-5, also where a run is stopped and goes on with another number of
them; one that is killed ends all; ones that differ are refused before anything is written; only the first writes. With
--time it measures steps a second too, one thread each: of one process, and of two with twice the rows.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gate import SMALL, llama, yaml

PROGRAM = Path(sys.argv[1]).resolve()
MPIRUN = os.environ.get("MPIRUN", "mpirun")
# Of Open MPI, and of MPICH.
RANK = re.compile(rb"\0(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)")
ENVIRONMENT = os.environ | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "RUST_BACKTRACE": "0", "RAYON_NUM_THREADS": "1",
}
SHAPE = {"n_layer": 2, "n_embd": 32, "n_head": 2}
# Over hundreds of steps, or at a higher rate, what the order of additions changes grows: at a rate of 1e-3 from about step 110,
# at this one from about step 600.
SHORT = {key: x for key, x in SMALL.items() if key != "coconut"} | {"method": "coconut", "lr": 1e-4, "train_examples": 300, "resume": 0, "num_epochs": 4, "cot_epochs": 1, "batch_size_training": 8, "val_examples": 20}
CASES = {
    "GPT-2": SHORT | SHAPE,
    "GPT-2, accumulation": SHORT | SHAPE | {"batch_size_training": 4, "gradient_accumulation_steps": 3},
    "GPT-2, dropout, whole batches": SHORT | SHAPE
    | {"dropout": 0.1, "batch_size_training": 5, "gradient_accumulation_steps": 4},
    "Llama, LoRA": SHORT | {"model_id": "llama", "lora_rank": 4, "lora_target_modules": "all-linear"},
    "LOTUS": SHORT | SHAPE | {"method": "lotus"},
    "step decoder, Seq-VCR": SHORT | SHAPE
    | {"batch_size_training": 4, "gradient_accumulation_steps": 4, "step_decoder": "coconut", "loss_seq_vcr": True},
    "gated": SHORT | SHAPE | {"schedule": "gated", "gate_accuracy": 0.05, "epochs_per_stage": 2, "num_epochs": 6},
    "pause beside it": SHORT | SHAPE | {"baselines": ["pause"], "num_epochs": 2},
}
# Of losses, and of gradients' norms.
CLOSE, NEAR = 1e-6, 1e-5


def command(n, *arguments, program=PROGRAM):
    return [MPIRUN, "-n", str(n), str(program), "train", *map(str, arguments)]


def ended(command, **more):
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, **more)


def steps(run):
    """Of each step of a run: its loss, its gradient's norm and its other figures; each is there once."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    found = [line for line in lines if "loss" in line]
    numbers = [line["step"] for line in found]
    assert numbers == list(range(1, len(found) + 1)), "a step is there twice, or missing"
    apart = {"step", "epoch", "stage", "lr", "tokens_per_s", "resident_mb", "seconds"}
    return [{key: x for key, x in line.items() if key not in apart and isinstance(x, float)} for line in found]


def furthest(run, other):
    """The largest difference of losses and of gradients' norms, relative to the larger of the value and 1, in words."""
    a, b = steps(run), steps(other)
    assert len(a) == len(b) and all(x.keys() == y.keys() for x, y in zip(a, b)), "other steps, or other figures"
    apart = lambda keys: max(abs(x[key] - y[key]) / max(1, abs(x[key])) for x, y in zip(a, b) for key in keys)
    losses, norms = apart([key for key in a[0] if key != "grad_norm"]), apart(["grad_norm"])
    assert losses < CLOSE and norms < NEAR, (losses, norms)
    return f"losses off by {losses:.0e}, norms by {norms:.0e}"


def write(name, recipe):
    Path(f"{name}.yaml").write_text(yaml(recipe | {"save_path": "runs", "name": name}))
    return f"{name}.yaml"


def trained(n, name, recipe):
    found = ended(command(n, write(name, recipe)))
    assert found.returncode == 0, found.stderr
    return Path("runs") / name


def check_cases():
    for title, recipe in CASES.items():
        alone, told = trained(1, "alone", recipe), []
        for n in (2, 4):
            together = trained(n, f"n{n}", recipe)
            told.append(furthest(alone, together))
            rows = [json.loads((run / "results.json").read_text())["rows"] for run in (alone, together)]
            of = [[(row["method"], row["stage"], row["epoch"], row["eval_acc"]) for row in of] for of in rows]
            assert [row[:3] for row in of[0]] == [row[:3] for row in of[1]], of
        print(f"{title}: {len(steps(alone))} steps; 2 processes: {told[0]}; 4: {told[1]}")
        for name in ("alone", "n2", "n4"):
            shutil.rmtree(Path("runs") / name)


def begun(n, name, recipe, until):
    """Processes that train, once so many steps are logged."""
    process = subprocess.Popen(
        command(n, write(name, recipe)), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = Path("runs") / name / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < until:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    return process


def members(mpirun):
    """The processes that mpirun started, by rank; it may have others between."""
    found, parents = {}, [mpirun.pid]
    while parents:
        children = subprocess.run(["pgrep", "-P", ",".join(map(str, parents))], capture_output=True, text=True)
        parents = children.stdout.split()
        for pid in parents:
            rank = RANK.search(b"\0" + Path(f"/proc/{pid}/environ").read_bytes())
            if rank and Path(f"/proc/{pid}/exe").resolve() == PROGRAM:
                found[int(rank[1])] = int(pid)
    return found


# Long enough to be stopped, since Open MPI passes a Ctrl-C on after a second; the rate is such that rounding stays what it is.
LONG = CASES["GPT-2"] | {"n_layer": 4, "n_embd": 96, "n_head": 4, "lr": 1e-5, "train_examples": 1000, "save_steps": 50}


def check_stops():
    alone = trained(1, "whole", LONG)
    # mpirun may pass on nothing that is said after its Ctrl-C.
    process = begun(2, "stopped", LONG, 150)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    done = len(steps(Path("runs/stopped")))
    assert done < len(steps(alone)), "ended before it was stopped"
    shutil.copytree("runs/stopped", "again", symlinks=True)
    found = ended(command(4, "runs/stopped", "--resume"))
    assert found.returncode == 0, found.stderr
    print(f"Ctrl-C, saved at step {done}; 4 processes go on to the end: {furthest(alone, Path('runs/stopped'))}")
    together = trained(2, "together", LONG)
    shutil.rmtree("runs/stopped")
    shutil.move("again", "runs/stopped")
    found = ended(command(2, "runs/stopped", "--resume"))
    assert found.returncode == 0, found.stderr
    assert steps(together) == steps(Path("runs/stopped")), "two processes, stopped, are not bit by bit what they are unstopped"
    print("Ctrl-C, and the same two processes go on: equal to the last bit")

    process = begun(2, "asked", LONG, 150)
    os.kill(members(process)[1], signal.SIGTERM)
    told = process.communicate(timeout=60)[0]
    done = len(steps(Path("runs/asked")))
    line = next((line for line in told.splitlines() if f"Stopped after optimizer step {done};" in line), None)
    assert line, told
    print(f"SIGTERM to the second process: {line}")

    process = begun(2, "killed", LONG, 150)
    os.kill(members(process)[1], signal.SIGKILL)
    start = time.time()
    told = process.stdout.read()
    process.wait(60)
    took = time.time() - start
    line = next((line for line in told.splitlines() if "signal 9" in line or "SIGNAL: 9" in line), None)
    assert process.returncode != 0 and took < 10 and line, (took, told)
    found = ended(command(1, "runs/killed", "--resume"))
    assert found.returncode == 0, found.stderr
    off = furthest(alone, Path("runs/killed"))
    print(f"process 1 killed: all ended in {took:.1f} s: {line.strip()}; one process goes on: {off}")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check_refusals():
    recipe = write("other", CASES["GPT-2"])
    subprocess.run([PROGRAM, "data", "generate", recipe, "-n", "60", "-o", "some.json"], capture_output=True, check=True)
    examples = json.loads(Path("some.json").read_text())
    Path("fewer.json").write_text(json.dumps(examples[:59]))
    of = {"val_path": "some.json", "train_path": "some.json", "task": None}
    text = {key: x for key, x in (CASES["GPT-2"] | of).items() if x is not None and key not in ("operations", "train_examples", "val_examples")}
    text = write("text", text)
    pair = lambda recipe, one, two: [MPIRUN, "-n", "1", PROGRAM, "train", recipe, *one, ":", "-n", "1", PROGRAM, "train", recipe, *two]
    plain = PROGRAM.with_name("coconut-without-mpi")
    cases = [
        (pair(recipe, [], ["-s", "lr=1e-5"]), "a recipe other than process 0"),
        (command(2, recipe, "-s", "c_tought=2"), "did you mean `c_thought`"),
        ([MPIRUN, "-n", "2", PROGRAM, "sweep", recipe, "--seeds", "0,1"], "a sweep starts its runs itself"),
        (command(4, write("batches", CASES["step decoder, Seq-VCR"] | {"gradient_accumulation_steps": 2})), "Start at most 2"),
    ]
    # The same recipe where another machine's files hold other examples, or other weights; the run that would be replaced
    # stays.
    before = contents(trained(1, "adapters", CASES["Llama, LoRA"] | {"num_epochs": 1}))
    adapters = "adapters.yaml"
    Path("elsewhere").mkdir()
    for own in (text, adapters):
        shutil.copy(own, "elsewhere")
    shutil.copy("fewer.json", "elsewhere/some.json")
    shutil.copytree("llama", "elsewhere/llama")
    weights = Path("elsewhere/llama/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + bytes([1, 2, 3, 60]))
    place = 'test ${OMPI_COMM_WORLD_RANK:-$PMI_RANK} = 0 || cd elsewhere; exec "$0" train "$@"'
    apart = lambda *arguments: [MPIRUN, "-n", "2", "sh", "-c", place, PROGRAM, *arguments]
    cases.append((apart(text), "training examples other than process 0"))
    cases.append((apart(adapters, "--overwrite"), "starting weights other than process 0"))
    cases.append((command(2, adapters, "--overwrite", "-s", "loss_seq_vcr=True"), "Start at most 1"))
    others = [shutil.which(name) for name in ("mpirun.openmpi", "mpirun.mpich")]
    others = [other for other in others if other and Path(other).resolve() != Path(shutil.which(MPIRUN)).resolve()]
    cases.extend(([other, "-n", "2", PROGRAM, "train", recipe], "MPI finds no other") for other in others)
    if not others:
        print("not shown: what the mpirun of another MPI starts (Debian: apt-get install mpich)")
    if plain.exists():
        cases.append((command(2, recipe, program=plain), "--features coconut-cli/mpi"))
    else:
        print(f"not shown: what a program without MPI says ({plain} is not there; dev/check_mpi.sh makes it)")
    for asked, expected in cases:
        found = ended([str(part) for part in asked])
        assert found.returncode != 0 and expected in found.stderr, (asked, found.stderr)
        said = next(line for line in found.stderr.splitlines() if expected in line)
        print(f"refused: {said[:150]}")
        for name in ("other", "batches", "text"):
            left = Path("runs") / name
            assert not left.exists(), f"{left} was written"
    assert contents(Path("runs/adapters")) == before, "the run that was to be replaced was touched"


def check_writes():
    recipe = write("traced", CASES["GPT-2"])
    calls = "trace=openat,open,creat,mkdir,rename,renameat,renameat2,unlink,unlinkat"
    script = f'if [ ${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}} = 1 ]; then exec strace -f -e {calls} -o trace "$0" train {recipe}; else exec "$0" train {recipe}; fi'
    found = ended([MPIRUN, "-n", "2", "sh", "-c", script, str(PROGRAM)])
    assert found.returncode == 0, found.stderr
    lines = [line for line in Path("trace").read_text().splitlines() if "runs/" in line]
    wrote = [line for line in lines if not re.search(r"open(at)?\(", line) or re.search(r"O_WRONLY|O_RDWR|O_CREAT", line)]
    print(f"only the first writes: the second looked {len(lines)} times into the run's folder and wrote {len(wrote)} times")
    assert not wrote, wrote


def check_time():
    """Steps a second, in turns: the same model alone, and with twice the rows in two processes."""
    shape = SHORT | {"resume": 0, "cot_epochs": 0, "n_layer": 4, "n_embd": 128, "n_head": 4, "num_epochs": 1, "eval_at": "end", "train_examples": 1600}
    alone, both = shape | {"batch_size_training": 16}, shape | {"batch_size_training": 32, "train_examples": 3200}
    ratios = []
    for turn in range(5):
        took = []
        for n, recipe in ((1, alone), (2, both)):
            run = trained(n, f"t{turn}-{n}", recipe)
            lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            seconds = [line["seconds"] for line in lines if "loss" in line]
            apart = [b - a for a, b in zip(seconds, seconds[1:])]
            took.append(statistics.median(apart))
        ratios.append(took[0] / took[1])
        print(f"weak scaling: a step of 16 rows {1e3 * took[0]:.1f} ms, of 32 in two processes {1e3 * took[1]:.1f} ms: {ratios[-1]:.2f}")
    print(f"weak scaling: {statistics.median(ratios):.2f} at the median")


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        (Path(folder) / "seed").mkdir()
        first = trained(1, "first", SHORT | SHAPE | {"num_epochs": 1, "train_examples": 40})
        llama(Path("llama"), next((first / "checkpoints").glob("[-0-9]*")))
        if "--time" in sys.argv:
            return check_time()
        check_cases()
        check_refusals()
        check_writes()
        check_stops()
        print("several processes: as expected")


main()
