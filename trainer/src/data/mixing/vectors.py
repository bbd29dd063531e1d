"""Mixed pictures and targets by the formulas of mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix
(Yun et al. 2019, arXiv:1905.04899), and by the chance that docs/training.md describes, written down
with plain Python numbers.

    python3 trainer/src/data/mixing/vectors.py > trainer/src/data/mixing/vectors.json

No package is needed, and nothing here runs when Marquee is built or tested.
"""

import json
from math import exp, floor, log, sqrt

MASK = (1 << 64) - 1
WIDTH, HEIGHT, CLASSES = 7, 5, 4
ONE = 1 << 16
# What the numbers of one picture's stream are for.
WHICH, PARTNER, CENTRE_X, CENTRE_Y, FIRST_OF_BETA = 0, 1, 2, 3, 4


def scramble(x):
    """The finaliser of splitmix64."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def dice_of(seed, epoch, position):
    return scramble(scramble(scramble(seed) ^ (epoch << 8 | 5)) ^ position)


def roll(dice, index):
    return (scramble(dice ^ scramble(index)) >> 11) / (1 << 53)


def beta(alpha, dice):
    """Joehnk 1964: two powers of even numbers, taken once they add up to 1 at most."""
    for k in range(10_000):
        u = 1 - roll(dice, FIRST_OF_BETA + 2 * k)
        v = 1 - roll(dice, FIRST_OF_BETA + 2 * k + 1)
        x, y = log(u) / alpha, log(v) / alpha
        if exp(x) + exp(y) <= 1:
            return 1 / (1 + exp(y - x))
    raise AssertionError("no draw was taken")


def picture(which):
    """Any bytes will do."""
    cells = HEIGHT * WIDTH * 3
    return [(which * 91 + 37 * i + (i * i) % 17 * which) % 256 for i in range(cells)]


def blend(own, other, kept):
    kept = floor(kept * ONE + 0.5)
    return [(a * kept + b * (ONE - kept) + ONE // 2) >> 16 for a, b in zip(own, other)], kept / ONE


def paste(own, other, kept, dice):
    """Algorithm A1, with sides rounded to whole pixels; what is kept is counted, not drawn."""
    centre_x, centre_y = roll(dice, CENTRE_X) * WIDTH, roll(dice, CENTRE_Y) * HEIGHT
    side = sqrt(1 - kept)
    left = floor(max(centre_x - side * WIDTH / 2, 0) + 0.5)
    right = floor(min(centre_x + side * WIDTH / 2, WIDTH) + 0.5)
    top = floor(max(centre_y - side * HEIGHT / 2, 0) + 0.5)
    bottom = floor(min(centre_y + side * HEIGHT / 2, HEIGHT) + 0.5)
    out = list(own)
    for y in range(top, bottom):
        for x in range(left, right):
            for channel in range(3):
                at = (y * WIDTH + x) * 3 + channel
                out[at] = other[at]
    return out, 1 - (right - left) * (bottom - top) / (WIDTH * HEIGHT)


def case(seed, epoch, position, rows, mixup, cutmix):
    dice = dice_of(seed, epoch, position)
    which = roll(dice, WHICH)
    share = lambda mix: mix["share"] if mix else 0
    told = {"seed": seed, "epoch": epoch, "position": position, "rows": rows}
    told.update({"mixup": mixup, "cutmix": cutmix})
    if which >= share(mixup) + share(cutmix):
        return {**told, "way": "none"}
    told["partner"] = scramble(dice ^ scramble(PARTNER)) * rows >> 64
    own, other = picture(1), picture(2)
    if which < share(mixup):
        told["way"] = "mixup"
        pixels, kept = blend(own, other, beta(mixup["alpha"], dice))
    else:
        told["way"] = "cutmix"
        pixels, kept = paste(own, other, beta(cutmix["alpha"], dice), dice)
    labels = [1, 0, 0, 1], [1, 1, 0, 0]
    targets = [kept * a + (1 - kept) * b for a, b in zip(*labels)]
    return {**told, "kept": kept, "targets": targets, "pixels": pixels}


def main():
    both = {"alpha": 0.2, "share": 0.5}, {"alpha": 1.0, "share": 0.3}
    cases = [case(7, epoch, at, 1000, *both) for epoch in (0, 3) for at in range(8)]
    for alpha in (0.01, 0.4, 1.0, 4.0):
        every = {"alpha": alpha, "share": 1.0}
        cases += [case(2**53 - 1, 1, at, 2**40, every, None) for at in (0, 999_999_999_999)]
        cases += [case(0, 1, at, 1, None, every) for at in range(3)]
    assert {c["way"] for c in cases} == {"none", "mixup", "cutmix"}
    inputs = {"width": WIDTH, "height": HEIGHT, "own": picture(1), "other": picture(2)}
    inputs["labels"] = [[1, 0, 0, 1], [1, 1, 0, 0]]
    lines = ",\n".join(json.dumps(c) for c in cases)
    print(json.dumps(inputs)[:-1] + ', "cases": [\n' + lines + "\n]}")


main()
