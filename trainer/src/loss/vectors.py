"""Values and gradients of the losses in f64, written down from their papers' formulas with plain
Python floats; the gradients are central differences of Richardson's kind, good to about 1e-11.

    python3 trainer/src/loss/vectors.py > trainer/src/loss/vectors.json

No package is needed, and nothing here runs when Marquee is built or tested.
"""

import json
from math import exp, fabs, log, log1p

CLASSES = 4
LOGITS = [-7.5, -2.0, -0.3, 0.0, 0.4, 1.5, 3.0, 8.0, -1.0, 2.2, -4.0, 0.9]
TARGETS = [0, 1, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1]
POS_WEIGHT = [0.5, 1.0, 3.0, 10.0]


def log_sigmoid(x):
    return -log1p(exp(-x)) if x > 0 else x - log1p(exp(x))


def sigmoid(x):
    return exp(log_sigmoid(x))


def power(base, exponent):
    return 1.0 if exponent == 0 else base**exponent


def bce(x, t, column, weight=False):
    w = POS_WEIGHT[column] if weight else 1.0
    return -(w * t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x))


def focal(x, t, column, gamma, alpha):
    """Lin et al. 2017, equation 5, with p_t of a soft target as in its reference code."""
    p = sigmoid(x)
    p_t = p * t + (1 - p) * (1 - t)
    weight = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    return weight * power(1 - p_t, gamma) * bce(x, t, column)


def asl(x, t, column, gamma_pos, gamma_neg, clip):
    """Ridnik et al. 2021, equations 4 to 7."""
    p = sigmoid(x)
    shifted = max(p - clip, 0.0)
    positive = power(1 - p, gamma_pos) * log_sigmoid(x)
    negative = power(shifted, gamma_neg) * (log(1 - shifted) if clip else log_sigmoid(-x))
    return -(t * positive + (1 - t) * negative)


def slope(f, x):
    h = 1e-3
    d = [(f(x + h / 2**k) - f(x - h / 2**k)) / (2 * h / 2**k) for k in range(3)]
    once = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
    return (16 * once[1] - once[0]) / 15


def case(settings, smoothing, f):
    values, gradients = [], []
    for i, (x, t) in enumerate(zip(LOGITS, TARGETS)):
        t = t * (1 - smoothing) + smoothing / 2
        cell = lambda x: f(x, t, i % CLASSES)
        values.append(cell(x))
        gradients.append(slope(cell, x))
    assert all(fabs(v) < 1e3 for v in values)
    return {"loss": settings, "smoothing": smoothing, "values": values, "gradients": gradients}


def main():
    cases = []
    # 0.6: targets far from 0 and 1, as of mixed pictures.
    for smoothing in (0.0, 0.1, 0.6):
        cases.append(case({"name": "bce"}, smoothing, bce))
        weighted = lambda x, t, c: bce(x, t, c, True)
        cases.append(case({"name": "weighted-bce", "cap": 10.0}, smoothing, weighted))
        for gamma, alpha in ((2.0, None), (2.0, 0.25), (0.0, 0.7), (1.5, 0.4)):
            f = lambda x, t, c: focal(x, t, c, gamma, alpha)
            cases.append(case({"name": "focal", "gamma": gamma, "alpha": alpha}, smoothing, f))
        for gp, gn, clip in ((1.0, 4.0, 0.05), (0.0, 4.0, 0.05), (0.0, 0.0, 0.0), (2.0, 3.0, 0.0)):
            f = lambda x, t, c: asl(x, t, c, gp, gn, clip)
            settings = {"name": "asl", "gamma_pos": gp, "gamma_neg": gn, "clip": clip}
            cases.append(case(settings, smoothing, f))
    inputs = {"classes": CLASSES, "logits": LOGITS, "targets": TARGETS, "pos_weight": POS_WEIGHT}
    print(json.dumps({**inputs, "cases": cases}, indent=1))


main()
