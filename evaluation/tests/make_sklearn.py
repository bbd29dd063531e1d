"""Makes sklearn.json: scikit-learn's figures for cases that the Rust tests rebuild from a seed.

Development only; nothing at run time or in CI needs Python. To make the file again:

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install scikit-learn==1.9.1
    /tmp/venv/bin/python evaluation/tests/make_sklearn.py > evaluation/tests/sklearn.json

A case is a function of its number alone (`make_case`, written a second time in
`evaluation/src/sklearn_parity.rs`), so that only the expected figures are committed. The cases
have ties, absent classes, classes that are always true, pictures without any label, -0.0 and
denormal scores.
"""

import json
import sys
import warnings

import numpy as np
import sklearn
from sklearn import metrics

CASES = 1000
DECIMALS = 11
MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def draw(case, stream, count):
    """SplitMix64 numbers 0..count of one stream of one case."""
    start = ((case + 1) * 0xD1342543DE82EF95 + stream * 0x2545F4914F6CDD1D) & MASK
    with np.errstate(over="ignore"):
        z = np.uint64(start) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def make_case(case):
    """Truth (n x C of 0 and 1), scores (n x C of float32) and one threshold for each class."""
    shape = [int(x) for x in draw(case, 0, 4)]
    rows = 1 + shape[1] % [8, 60, 400, 2000][shape[0] % 4]
    # From 2: a single column is a binary problem to scikit-learn, whose averages mean other things.
    classes = 2 + shape[2] % [4, 39][shape[0] >> 8 & 1]
    mode = shape[3] % 4
    cells = rows * classes

    # By class: 0 absent, 1 always true, else a chance of up to 63/64.
    chance = (draw(case, 1, classes) >> np.uint64(58)).astype(np.int64)
    chance[chance == 1] = 64
    uniform = (draw(case, 2, cells) >> np.uint64(58)).astype(np.int64).reshape(rows, classes)
    truth = (uniform < chance).astype(np.uint8)
    truth[draw(case, 3, rows) % np.uint64(8) == 0] = 0

    raw = draw(case, 4, cells).reshape(rows, classes)
    if mode == 0:  # related to the truth, hardly any ties
        scores = ((raw >> np.uint64(41)) + (truth.astype(np.uint64) << np.uint64(22))).astype(np.float32)
        scores = scores / np.float32(1 << 24)
    elif mode == 1:  # nine values only
        scores = (raw % np.uint64(9)).astype(np.float32) / np.float32(8)
    elif mode == 2:  # denormals
        scores = (raw & np.uint64(0x7FFFFF)).astype(np.uint32).view(np.float32)
    else:  # mostly zeros of both signs
        scores = np.array([0.0, -0.0, 0.5, 1e-45], dtype=np.float32)[(raw % np.uint64(4)).astype(np.int64)]
    thresholds = (draw(case, 5, classes) % np.uint64(9)).astype(np.float64) / 8
    return truth, scores, thresholds


def rule_figures(truth, predicted):
    f1 = [metrics.f1_score(truth, predicted, average=a, zero_division=0) for a in ("micro", "macro", "weighted", "samples")]
    return f1 + [
        metrics.precision_score(truth, predicted, average="micro", zero_division=0),
        metrics.recall_score(truth, predicted, average="micro", zero_division=0),
        metrics.accuracy_score(truth, predicted),
        metrics.hamming_loss(truth, predicted),
    ]


def class_figures(truth, scores):
    auc, average_precision = [], []
    for column in range(truth.shape[1]):
        y, s = truth[:, column], scores[:, column].astype(np.float64)
        auc.append(None if y.min() == y.max() else metrics.roc_auc_score(y, s))
        average_precision.append(None if y.max() == 0 else metrics.average_precision_score(y, s))
    return auc, average_precision


def best_f1(y, s):
    """The best F1 that any threshold gives under score >= threshold; 0 without positives."""
    if y.max() == 0:
        return 0.0
    precision, recall, _ = metrics.precision_recall_curve(y, s.astype(np.float64))
    whole = precision + recall
    return float(np.max(np.where(whole > 0, 2 * precision * recall / np.where(whole > 0, whole, 1), 0)))


def rounded(values):
    return [None if v is None else round(float(v), DECIMALS) for v in values]


def known_mean(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def expected(truth, scores, thresholds):
    auc, average_precision = class_figures(truth, scores)
    figures = []
    for rule in (np.full(truth.shape[1], 0.5), thresholds):
        predicted = (scores.astype(np.float64) >= rule).astype(np.uint8)
        figures.append(rounded(rule_figures(truth, predicted)))
    return {
        "half": figures[0],
        "thresholds": figures[1],
        "auc": rounded([known_mean(auc)] + auc[:2]),
        "ap": rounded([known_mean(average_precision)] + average_precision[:2]),
        # One threshold for all cells, then one for each of the first two classes.
        "best": rounded([best_f1(truth.ravel(), scores.ravel())] + [best_f1(truth[:, c], scores[:, c]) for c in (0, 1)]),
    }


def pinned():
    """Small cases that a reader can check by hand."""
    example = {"truth": [0, 0, 1, 1, 1, 0], "scores": [0.1, 0.4, 0.4, 0.8, 0.8, 0.8]}
    fpr, tpr, _ = metrics.roc_curve(example["truth"], np.float32(example["scores"]), drop_intermediate=False)
    example["fpr"], example["tpr"] = rounded(fpr), rounded(tpr)
    example["auc"] = round(metrics.roc_auc_score(example["truth"], np.float32(example["scores"])), DECIMALS)
    example["ap"] = round(metrics.average_precision_score(example["truth"], np.float32(example["scores"])), DECIMALS)
    return example


def main():
    warnings.simplefilter("ignore")
    print(f'{{"sklearn": "{sklearn.__version__}",')
    print(f'"pinned": {json.dumps(pinned())},')
    print('"cases": [')
    for case in range(CASES):
        truth, scores, thresholds = make_case(case)
        line = json.dumps(expected(truth, scores, thresholds), separators=(",", ":"))
        print(line + ("," if case + 1 < CASES else ""))
        if case % 100 == 0:
            print(case, file=sys.stderr)
    print("]}")


main()
