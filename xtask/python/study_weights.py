"""Checkpoints such as the world publishes for the networks of the study, with random weights: each under
its publisher's names, for 1000 classes, as torch.save writes them.

    study_weights.py DIR

Prints a JSON list of {"model", "checkpoint"}. Batch-norm's statistics are those of random pictures, so
that features are numbers of a sane size. Needs the packages of zoo.txt.
"""

import json
import pathlib
import sys

import timm
import torch
import torchvision

from zoo_vectors import SEED, shake

# The zoo's name, who publishes its weights, side of the pictures that its statistics come from.
MODELS = [
    ("densenet121", torchvision, 224),
    ("inception_v3", torchvision, 299),
    ("inception_resnet_v2", timm, 299),
    ("legacy_xception", timm, 299),
]


def create(name, source):
    if source is timm:
        return timm.create_model(name)
    extra = {"init_weights": False} if name == "inception_v3" else {}
    return getattr(torchvision.models, name)(weights=None, **extra)


def main():
    torch.set_num_threads(1)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, source, side in MODELS:
        torch.manual_seed(SEED)
        generator = torch.Generator().manual_seed(SEED)
        model = create(name, source)
        shake(model, torch.randn(2, 3, side, side, generator=generator), generator)
        checkpoint = folder / f"{name}.pth"
        torch.save(model.state_dict(), checkpoint)
        cases.append({"model": name, "checkpoint": str(checkpoint)})
    print(json.dumps(cases))


main()
