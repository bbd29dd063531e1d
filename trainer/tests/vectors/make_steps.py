"""Writes steps.json: 50 training steps as PyTorch 2.11 takes them, for src/train/vectors.rs.

Weights, pictures and labels come from a hash of their place, which both sides compute; so only losses,
learning rates and a few sums are kept. For development: python make_steps.py > steps.json
"""

import json
import math

import numpy
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS, BATCH, WIDTH, HEIGHT, CLASSES = 50, 8, 16, 24, 5
STEPS_PER_EPOCH = 10
MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)


def mix(x):
    """The finaliser of splitmix64, over an array of uint64."""
    with numpy.errstate(over="ignore"):
        x = x + numpy.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return x ^ (x >> numpy.uint64(31))


def hashes(stream, count):
    start = mix(numpy.array([stream], dtype=numpy.uint64))
    return mix(start ^ numpy.arange(count, dtype=numpy.uint64))


def uniform(stream, shape, bound):
    count = math.prod(shape)
    share = (hashes(stream, count) >> numpy.uint64(40)).astype(numpy.float64) / 2.0**24
    return torch.from_numpy((2.0 * share - 1.0) * bound).view(shape)


class SimpleCnn(nn.Module):
    def __init__(self):
        super().__init__()
        sides = [3, 16, 32, 64, 96]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sides, sides[1:])
        )
        self.head = nn.Linear(2 * sides[-1], CLASSES)

    def forward(self, x):
        for index, conv in enumerate(self.convs):
            x = conv(x).relu()
            if index + 1 < len(self.convs):
                x = nn.functional.max_pool2d(x, 2)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


def model():
    net = SimpleCnn()
    with torch.no_grad():
        for place, (name, weight) in enumerate(net.named_parameters()):
            bound = 0.1 if name.endswith("bias") else math.sqrt(6.0 / weight[0].numel())
            weight.copy_(uniform(1_000 + place, tuple(weight.shape), bound))
    return net.to(memory_format=torch.channels_last)


def batch(step):
    pixels = hashes(2_000 + step, BATCH * HEIGHT * WIDTH * 3) & numpy.uint64(255)
    pixels = torch.from_numpy(pixels.astype(numpy.uint8)).view(BATCH, HEIGHT, WIDTH, 3)
    labels = (hashes(3_000 + step, BATCH * CLASSES) & numpy.uint64(3)) == 0
    scale, offset = (1.0 / (255.0 * STD)).float(), (-MEAN / STD).float()
    pictures = pixels.permute(0, 3, 1, 2).float() * scale + offset
    return pictures, torch.from_numpy(labels.astype(numpy.float32)).view(BATCH, CLASSES)


def warmed_up(optimizer, steps, after):
    rise = schedules.LinearLR(optimizer, 1.0 / steps, 1.0, total_iters=steps - 1)
    return schedules.SequentialLR(optimizer, [rise, after], milestones=[steps])


CASES = {
    "sgd_nesterov_warmup_cosine_clip": {
        "optimizer": lambda p: torch.optim.SGD(
            p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-3
        ),
        "schedule": lambda o: warmed_up(o, 5, schedules.CosineAnnealingLR(o, STEPS - 5)),
        "clip": 0.5,
    },
    "adamw_onecycle_ema": {
        "optimizer": lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.05),
        "schedule": lambda o: schedules.OneCycleLR(
            o, 2e-3, total_steps=STEPS, cycle_momentum=False
        ),
        "ema": 0.9,
    },
    "sgd_step_accumulate": {
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        "schedule": lambda o: schedules.StepLR(o, 2 * STEPS_PER_EPOCH, 0.5),
        "accumulate": 3,
    },
}


def run(case):
    net = model()
    optimizer = case["optimizer"](net.parameters())
    schedule = case["schedule"](optimizer)
    mean = (
        AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(case["ema"]))
        if "ema" in case
        else None
    )
    losses, rates = [], []
    for step in range(STEPS):
        pictures, labels = batch(step)
        optimizer.zero_grad()
        parts = case.get("accumulate", 1)
        bounds = [BATCH * part // parts for part in range(parts + 1)]
        total = 0.0
        for start, end in zip(bounds, bounds[1:]):
            loss = nn.functional.binary_cross_entropy_with_logits(
                net(pictures[start:end]), labels[start:end], reduction="sum"
            )
            (loss / (BATCH * CLASSES)).backward()
            total += loss.item()
        if "clip" in case:
            nn.utils.clip_grad_norm_(net.parameters(), case["clip"])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        if mean is not None:
            mean.update_parameters(net)
        losses.append(total / (BATCH * CLASSES))
    final = mean.module if mean is not None else net
    sums = {
        name: [weight.double().sum().item(), weight.double().abs().sum().item()]
        for name, weight in final.named_parameters()
    }
    return {"losses": losses, "rates": rates, "sums": sums}


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = {name: run(case) for name, case in CASES.items()}
    print(json.dumps({"torch": torch.__version__.split("+")[0], "cases": cases}, indent=1))
