"""Reference values for the statistics of sweeps: scipy's and statsmodels' own, never ours.

    pip install scipy statsmodels
    python python/make_stats.py        # writes tests/fixtures/stats.json
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

rng = np.random.default_rng(5)


def one_seed(b, c):
    """b questions that only A answers, c that only B does."""
    table = [[50, b], [c, 30]]
    return {"b": b, "c": c, "p": float(mcnemar(table, exact=True).pvalue)}


def clustered(differences):
    """All sign changes of per-question differences, enumerated by scipy."""
    d = np.array(differences)
    found = stats.permutation_test(
        (d,), lambda x, axis: np.sum(x, axis=axis), permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    return {"differences": differences, "p": float(found.pvalue)}


def corrected(b, c):
    table = [[0, b], [c, 0]]
    return {"b": b, "c": c, "p": float(mcnemar(table, exact=False, correction=True).pvalue)}


def welch(a, b):
    return {"a": a, "b": b, "p": float(stats.ttest_ind(a, b, equal_var=False).pvalue)}


def holm(p):
    return {"p": p, "adjusted": multipletests(p, method="holm")[1].tolist()}


values = {
    "one_seed": [one_seed(b, c) for b, c in [(1, 0), (3, 3), (10, 2), (7, 15), (40, 12), (200, 150)]],
    "clustered": [
        clustered([int(x) for x in rng.integers(-3, 4, n)]) for n in (3, 8, 12, 15)
    ] + [clustered([3, 2, 3, 1, 2, 0, 3, -1, 2, 2])],
    "corrected": [corrected(b, c) for b, c in [(6000, 5700), (9000, 9050)]],
    "standard_errors": [
        {"values": v, "mean": float(np.mean(v)), "standard_error": float(stats.sem(v))}
        for v in ([0.902, 1.0, 1.0], [0.25, 0.75], [0.1, 0.2, 0.4, 0.3, 0.15])
    ],
    "welch": [
        welch([0.902, 1.0, 1.0], [0.295, 0.318, 0.31]),
        welch([0.338, 0.31, 0.36], [0.175, 0.25, 0.2]),
        welch([0.5, 0.52], [0.51, 0.49, 0.5, 0.53]),
        welch([0.7, 0.8, 0.9], [0.7, 0.8, 0.9]),
    ],
    "holm": [holm([0.01, 0.04, 0.03, 0.005]), holm([0.5, 0.9, 0.6]), holm([0.001, 0.001, 0.02, 0.02, 0.9])],
}
path = Path(__file__).parent.parent / "tests/fixtures/stats.json"
path.write_text(json.dumps(values, indent=1) + "\n")
