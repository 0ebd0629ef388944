"""How often a weighing of trivial rules is right on graphs, where each rule alone is not.

    venv/bin/python python/compare/rules_weighed.py FILE [FILE …]

FILE are generated `graph` or `prosqa` examples, such as an ordinary set and those of `coconut data generate --misled-by
nearer` and `--misled-by ancestors`. A candidate's score weighs its distance from the root with edges taken both ways, its
number of ancestors and its number of edges, none of which follows the direction of edges from the root; the weights are
fitted to all questions of the files together (logistic regression), so that what is printed is the most that such a rule
can do, not what it does on questions that it has not seen. Half a point for a tie.
"""

import json
import sys
from collections import deque
from pathlib import Path

import numpy as np

NAMES = ["distance", "ancestors", "edges"]


def reached(neighbours, start):
    """How many edges lead to each node that can be reached."""
    steps, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for other in neighbours.get(node, []):
            if other not in steps:
                steps[other] = steps[node] + 1
                queue.append(other)
    return steps


def scores(example):
    """Of the target less of the other candidate, a number a rule."""
    both, parents = {}, {}
    for start, end in example["edges"]:
        both.setdefault(start, []).append(end)
        both.setdefault(end, []).append(start)
        parents.setdefault(end, []).append(start)
    distance = reached(both, example["root"])
    # Farther than any node that is connected, and not so far that the one case decides the weights.
    farther = max(distance.values()) + 1

    def of(node):
        return distance.get(node, farther), len(reached(parents, node)) - 1, len(both[node])

    return np.subtract(of(example["target"]), of(example["neg_target"])).astype(float)


def fit(rows):
    """Weights that make the target's score the higher one, by gradient ascent of the log likelihood."""
    weights = np.zeros(rows.shape[1])
    for _ in range(20_000):
        wrong = 1 / (1 + np.exp(np.clip(rows @ weights, -30, 30)))
        weights += 0.02 * (rows * wrong[:, None]).mean(0)
    return weights


def right(rows, weights):
    found = rows @ weights
    return 100 * np.mean((found > 1e-9) + 0.5 * (np.abs(found) <= 1e-9))


def main():
    files = [Path(name) for name in sys.argv[1:]]
    sets = [np.array([scores(example) for example in json.loads(file.read_text())]) for file in files]
    print("files:", *files)
    for columns in ([0], [1], [0, 1], [0, 1, 2]):
        weights = fit(np.vstack(sets)[:, columns]) if len(columns) > 1 else np.array([-1.0 if columns == [0] else 1.0])
        told = " ".join(f"{weight:+.2f} {NAMES[column]}" for weight, column in zip(weights, columns))
        print(f"{told}: right on", *(f"{right(rows[:, columns], weights):.1f} %" for rows in sets))


if __name__ == "__main__":
    main()
