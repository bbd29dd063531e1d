"""What PyTorch computes with the models of the zoo, for Marquee to be compared with.

    zoo_vectors.py full NAME DIR    random weights, inputs and results as safetensors files
    zoo_vectors.py small FILE       a few numbers of each model with weights from a formula, as JSON

`full` draws weights from a seed, with batch-norm statistics that are not 0 and 1, and says on stdout
how far PyTorch's own f32 is from its f64: the noise that no comparison can go below. `small` makes
trainer/tests/data/zoo.json; its weights come from a formula that the test knows too, so that no
weights have to be kept.
"""

import argparse
import json
import pathlib

import numpy
import timm
import torch
from safetensors.torch import save_file
from torch import nn

CLASSES = 5
SEED = 4
LR = 0.01
MODELS = [
    "simple-cnn", "efficientnet_lite0", "tf_efficientnet_lite0", "efficientnet_b0", "densenet121",
    "resnet18", "resnet34", "vit_small_patch16_224", "legacy_xception", "inception_v3", "resnet50",
    "convnext_tiny", "inception_resnet_v2", "vgg16", "vgg16_bn",
]
# (height, width) of x and of x_small.
FULL_SIZES = {299: ((299, 299), (139, 187))}
DEFAULT_FULL_SIZES = ((224, 224), (160, 96))
SMALL_SIZES = {299: ((96, 80), (75, 87))}
DEFAULT_SMALL_SIZES = ((64, 48), (32, 48))


class SimpleCnn(nn.Module):
    """Marquee's own network, written a second time."""

    default_cfg = {"input_size": (3, 224, 224)}

    def __init__(self, num_classes):
        super().__init__()
        sides = [3, 16, 32, 64, 96]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sides, sides[1:])
        )
        self.head = nn.Linear(2 * sides[-1], num_classes)

    def forward_features(self, x):
        for index, conv in enumerate(self.convs):
            x = conv(x).relu()
            if index + 1 < len(self.convs):
                x = nn.functional.max_pool2d(x, 2)
        return x

    def forward_head(self, x, pre_logits=False):
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return x if pre_logits else self.head(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def create(name):
    if name == "simple-cnn":
        return SimpleCnn(CLASSES)
    options = {"dynamic_img_size": True} if name.startswith("vit_") else {}
    return timm.create_model(name, num_classes=CLASSES, **options)


def sizes(model, table, default):
    return table.get(model.default_cfg["input_size"][1], default)


# ---- what is computed ----

def evaluate(model, x, x_small, target):
    """Features, logits and the gradient of the mean BCE, in eval mode."""
    model.eval()
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x), pre_logits=True)
        logits_small = model(x_small)
    x = x.clone().requires_grad_()
    logits = model(x)
    loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
    (grad_x,) = torch.autograd.grad(loss, x)
    return {
        "features": features.flatten(1),
        "logits": logits.detach(),
        "logits_small": logits_small,
        "grad_x": grad_x,
    }


def step(model, x, target):
    """All weights and statistics after one step of plain SGD in train mode.

    In the layout in which Marquee keeps pictures: rounding decides on which side of a ReLU's kink
    a value near it falls, and in train mode that alone moves some weights by 1 % between PyTorch's
    own two layouts.
    """
    model.train().to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    model.zero_grad()
    nn.functional.binary_cross_entropy_with_logits(model(x), target).backward()
    torch.optim.SGD(model.parameters(), lr=LR).step()
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def apart(a, b):
    return (a.double() - b.double()).abs().max().item()


def relative(a, b):
    """The largest difference of any tensor as a share of its largest number."""
    return max(
        apart(a[k], b[k]) / max(b[k].double().abs().max().item(), 1e-300)
        for k in b
        if not k.endswith("num_batches_tracked")
    )


# ---- full ----

def shake(model, x, generator):
    """Norms, biases, scales and statistics that differ from where they start, so that none of them
    can be left out or swapped unnoticed; yet near to those of `x`, so that numbers stay small."""
    def normal(tensor, mean, spread):
        tensor.copy_(mean + spread * torch.randn(tensor.shape, generator=generator))

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("gamma"):
                normal(tensor, 0.3, 0.1)
            elif name.endswith("bias"):
                normal(tensor, 0.0, 0.1)
            elif tensor.dim() == 1:
                # A norm that ends a residual branch starts at 0, and goes far only in large steps.
                at_end = tensor.abs().max() == 0
                normal(tensor, 0.3 if at_end else 1.0, 0.2)
            elif name in ("cls_token", "pos_embed"):
                normal(tensor, 0.0, 0.2)
        for norm in norms:
            norm.momentum = 1.0
        model.train()(x)
        for norm in norms:
            norm.momentum = 0.1
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.2 * spread * torch.randn(spread.shape, generator=generator)
            norm.running_var *= 0.6 + torch.rand(spread.shape, generator=generator)


def full(name, folder):
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = create(name)
    (height, width), (height_small, width_small) = sizes(model, FULL_SIZES, DEFAULT_FULL_SIZES)
    x = torch.randn(2, 3, height, width, generator=generator)
    shake(model, x, generator)
    x_small = torch.randn(2, 3, height_small, width_small, generator=generator)
    target = (torch.rand(2, CLASSES, generator=generator) < 0.4).float()
    weights = {k: v.clone() for k, v in model.state_dict().items()}

    single = evaluate(model, x, x_small, target)
    stepped = step(model, x, target)
    model.load_state_dict(weights)
    model.double()
    double = evaluate(model, x.double(), x_small.double(), target.double())

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    given = {"x": x, "x_small": x_small, "target": target, "lr": torch.tensor(LR), **single}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "weights.safetensors")
    save_file({k: v.contiguous() for k, v in given.items()}, folder / "io.safetensors")
    save_file({k: v.contiguous() for k, v in stepped.items()}, folder / "stepped.safetensors")
    print(json.dumps({
        "noise": {k: apart(single[k], double[k]) for k in single},
        "moved": relative(stepped, weights),
        "largest": {k: single[k].abs().max().item() for k in single},
    }))


# ---- small ----

TABLE = 65521  # a prime: rows of a weight start at different places of the table


def mix(z):
    z = (z + numpy.uint64(0x9E3779B97F4A7C15))
    z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return z ^ (z >> numpy.uint64(31))


def spread(name, count):
    """`count` numbers from -1 to below 1 that follow from the name alone."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    index = numpy.arange(min(count, TABLE), dtype=numpy.uint64)
    bits = mix(mix(numpy.array([key], dtype=numpy.uint64)) ^ index)
    table = (bits >> numpy.uint64(11)).astype(numpy.float64) / 2.0**52 - 1.0
    return numpy.resize(table, count)


def formula(name, shape):
    """A weight's numbers. trainer/src/models/vectors.rs has the same formula."""
    count = int(numpy.prod(shape))
    u = spread(name, count)
    if name.endswith("running_mean"):
        u = 0.1 * u
    elif name.endswith("running_var"):
        u = 1.0 + 0.5 * u
    elif name.endswith("gamma"):
        u = 0.3 + 0.2 * u
    elif name.endswith("bias"):
        u = 0.1 * u
    elif len(shape) == 1:
        u = 1.0 + 0.2 * u
    elif name in ("cls_token", "pos_embed"):
        u = 0.2 * u
    else:
        u = (6.0 / (count // shape[0])) ** 0.5 * u
    return torch.from_numpy(u.astype(numpy.float32)).reshape(shape)


def small_vectors(name):
    model = create(name)
    state = model.state_dict()
    model.load_state_dict({
        k: v if k.endswith("num_batches_tracked") else formula(k, tuple(v.shape))
        for k, v in state.items()
    })
    (height, width), (height_small, width_small) = sizes(model, SMALL_SIZES, DEFAULT_SMALL_SIZES)
    pictures = lambda key, *shape: torch.from_numpy(
        spread(key, int(numpy.prod(shape))).astype(numpy.float32)
    ).reshape(shape)
    x = pictures(f"x of {name}", 2, 3, height, width)
    x_small = pictures("x_small", 1, 3, height_small, width_small)
    target = (pictures("target", 2, CLASSES) > 0).float()
    single = evaluate(model, x, x_small, target)
    model.double()
    double = evaluate(model, x.double(), x_small.double(), target.double())

    def sample(tensor, count=24):
        flat = tensor.flatten()
        return [float(v) for v in flat[:: max(1, len(flat) // count)][:count]]

    return {
        "x": [height, width],
        "x_small": [height_small, width_small],
        "noise": {k: apart(single[k], double[k]) for k in single},
        # The f64 results: both sides' f32 is then as far from the truth as its own noise.
        **{k: sample(v) for k, v in double.items()},
    }


def small(path):
    vectors = {name: small_vectors(name) for name in MODELS}
    lines = ",\n".join(f'"{name}": {json.dumps(v)}' for name, v in vectors.items())
    pathlib.Path(path).write_text("{\n" + lines + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    one = tasks.add_parser("full")
    one.add_argument("name")
    one.add_argument("folder")
    tasks.add_parser("small").add_argument("path")
    options = parser.parse_args()
    if options.task == "full":
        full(options.name, options.folder)
    else:
        small(options.path)


if __name__ == "__main__":
    main()
