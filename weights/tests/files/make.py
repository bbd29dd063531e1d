"""Writes the small checkpoints beside it, with PyTorch's own torch.save, and what is in them.

    python3 weights/tests/files/make.py     (torch 2.11.0, safetensors 0.8.0)

evil.pth and evil_legacy.pth would run a command if anything unpickled them carelessly: they touch a
file of the name marquee-was-here. Nothing here runs when Marquee is built or tested.
"""

import collections
import os
import pathlib

import torch
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent


def content():
    g = torch.Generator().manual_seed(7)
    base = torch.randn(4, 6, generator=g)
    conv = torch.randn(2, 3, 2, 2, generator=g)
    return collections.OrderedDict(
        [
            ("plain", base),
            ("turned", base.t()),
            ("part", base[1:3, ::2]),
            ("channels_last", conv.contiguous(memory_format=torch.channels_last)),
            ("half", torch.randn(5, generator=g).half()),
            ("bfloat", torch.randn(3, generator=g).bfloat16()),
            ("double", torch.tensor([1 / 3, -0.0, 5e-324], dtype=torch.float64)),
            ("long", torch.tensor(-7)),
            ("bool", torch.tensor([True, False, True])),
            ("empty", torch.zeros(0, 3)),
            ("one", torch.randn(1, 4, 1, generator=g)),
            ("expanded", torch.tensor([2.5]).expand(3, 2)),
            ("parameter", torch.nn.Parameter(torch.randn(2, generator=g))),
        ]
    )


class Evil:
    def __reduce__(self):
        return (os.system, ("touch marquee-was-here",))


def main():
    state = content()
    save_file(
        {k: v.detach().clone().contiguous() for k, v in state.items()},
        here / "expected.safetensors",
    )
    torch.save(state, here / "zip.pth")
    torch.save(state, here / "legacy.pth", _use_new_zipfile_serialization=False)
    inside = {"epoch": 3, "lr": 0.1, "best": None, "state_dict": state, "notes": ["a", (1, 2**70)]}
    torch.save(inside, here / "training.pth")
    evil = {"weight": torch.zeros(2), "extra": Evil()}
    torch.save(evil, here / "evil.pth")
    torch.save(evil, here / "evil_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), here / "model.pth")
    norm = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    torch.save(norm.state_dict(), here / "norm.pth")


main()
