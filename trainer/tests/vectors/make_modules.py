"""Writes TorchScript modules for tests, and module_steps.json: 20 steps of one as PyTorch takes them.

For development, with PyTorch 2.11: python make_modules.py ../data/modules > module_steps.json
Pictures and labels are those of make_steps.py, with three classes.
"""

import json
import sys
import zipfile
from pathlib import Path

import torch
from torch import nn

import make_steps

CLASSES, STEPS = 3, 20
make_steps.CLASSES = CLASSES


class Net(nn.Module):
    """Any size; a norm of choice, so that what ranks exchange can be tried with and without."""

    def __init__(self, norm, dropout=0.0, outputs=CLASSES, channels=3):
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = norm
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(32, outputs)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        x = torch.relu(self.second(x))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return self.classifier(self.dropout(x))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(nn.Identity())

    def forward(self, x):
        return self.net(x), x


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(nn.Identity())
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.net(x)


def save(module, path):
    """Without what is only there for debuggers, and packed: the files lie in the repository."""
    module.save(str(path))
    with zipfile.ZipFile(path) as whole:
        records = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            if not name.endswith(".debug_pkl"):
                packed.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    torch.jit.load(str(path))


def steps(file):
    net = torch.jit.load(str(file))
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses = []
    for step in range(STEPS):
        pictures, labels = make_steps.batch(step)
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(pictures), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = {name: tensor.double() for name, tensor in net.state_dict().items()}
    sums = {name: [t.sum().item(), t.abs().sum().item()] for name, t in state.items()}
    return {"losses": losses, "sums": sums}


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    group, batch = nn.GroupNorm(2, 8), nn.BatchNorm2d(8)
    save(torch.jit.script(Net(group)), folder / "group.pt")
    save(torch.jit.script(Net(batch)), folder / "batch.pt")
    save(torch.jit.script(Net(nn.BatchNorm2d(8), dropout=0.3)), folder / "dropout.pt")
    # What cannot be trained.
    plain = torch.jit.script(Net(nn.Identity()))
    save(torch.jit.freeze(plain.eval()), folder / "frozen.pt")
    traced = torch.jit.trace(Net(nn.BatchNorm2d(8)).eval(), torch.zeros(1, 3, 16, 24))
    save(traced, folder / "traced.pt")
    save(torch.jit.script(Net(nn.Identity()).half()), folder / "half.pt")
    save(torch.jit.script(Net(nn.Identity(), outputs=5)), folder / "five.pt")
    save(torch.jit.script(Net(nn.Identity(), channels=1)), folder / "grey.pt")
    save(torch.jit.script(Two()), folder / "two.pt")
    save(torch.jit.script(Unused()), folder / "unused.pt")
    json.dump(steps(folder / "batch.pt"), sys.stdout, indent=1)
    print()


main(Path(sys.argv[1]))
