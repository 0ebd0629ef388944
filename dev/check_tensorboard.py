"""Check that TensorBoard reads of a run's folder exactly what its metrics.jsonl holds.

    python dev/check_tensorboard.py RUN_FOLDER        (needs the `tensorboard` package)

`cargo test --release --test it tensorboard_reads -- --ignored` runs it on a run that was interrupted and resumed.
"""

import json
import math
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def single(value):
    """The value as TensorBoard keeps it, in 32 bits; None (not finite) becomes NaN."""
    return math.nan if value is None else struct.unpack("f", struct.pack("f", value))[0]


def expected(run):
    """{tag: [(step, value)]} of metrics.jsonl."""
    scalars = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        step = record.pop("step")
        place = {key: record.pop(key) for key in ("epoch", "stage")}
        if "loss" in record:
            record |= place
        for name, value in record.items():
            tag = name if "/" in name else f"train/{name}"
            scalars.setdefault(tag, []).append((step, single(value)))
    return scalars


def main(run):
    events = EventAccumulator(str(run / "tb"), size_guidance={SCALARS: 0})
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    # repr, so that NaN equals NaN.
    if repr(sorted(found.items())) != repr(sorted(expected(run).items())):
        sys.exit(f"TensorBoard reads\n{sorted(found.items())}\nbut metrics.jsonl holds\n{sorted(expected(run).items())}")
    print(f"{run}: TensorBoard reads the same {sum(map(len, found.values()))} values in {len(found)} charts")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
