"""The other side of `cargo xtask bench train`: the same training as Marquee's, as a good PyTorch script
does it.

    train_peer.py init NAME DIR --batch N --width W --height H --classes C
        random weights and a batch, as safetensors files for both sides
    train_peer.py step DIR --precision P --layout L [--compile] --threads T
        takes N steps for each line "go N" of stdin; answers with one JSON line. With RANK and the like in
        the environment, as torchrun sets them: DistributedDataParallel over Gloo, each on its share
    train_peer.py pictures DIR --count N
        JPEG files of 500x750, about 70 KB each, with labels.csv beside them
    train_peer.py files DIR --model NAME --size S --batch N --workers K --epochs E --threads T
        trains from JPEG files in a folder (labels.csv beside them) through a DataLoader

The optimizer is the fused SGD, gradients are set to None, the loss of each step is read: as Marquee
does it.
"""

import argparse
import csv
import json
import os
import pathlib
import resource
import sys
import time

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zoo_vectors

SEED = 1
LR = 0.01
MOMENTUM = 0.9
# Of ImageNet, and what timm says of Inception.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


def cpu_s(who=resource.RUSAGE_SELF):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def peak_memory_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def say(**values):
    print(json.dumps(values), flush=True)


def create(name, classes):
    zoo_vectors.CLASSES = classes
    return zoo_vectors.create(name)


def init(options):
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = create(options.name, options.classes)
    folder = pathlib.Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    size = (options.batch, options.height, options.width, 3)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = (torch.rand(options.batch, options.classes, generator=generator) < 0.3).to(torch.uint8)
    save_file({"pixels": pixels, "labels": labels}, folder / "data.safetensors")
    (folder / "model.txt").write_text(f"{options.name} {options.classes}")


class Normalise:
    """uint8 [N, height, width, 3] as the models take it: no copy of the bytes, one of the floats."""

    def __init__(self, name):
        mean, std = (HALF, HALF) if name == "inception_v3" else (MEAN, STD)
        mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        self.scale, self.offset = 1 / (255 * std), -mean / std

    def __call__(self, pixels):
        return pixels.permute(0, 3, 1, 2).float().mul_(self.scale).add_(self.offset)


class Trainer:
    def __init__(self, name, model, precision, layout, compiled=False):
        self.normalise = Normalise(name)
        self.channels_last = layout == "channels_last"
        self.autocast = precision == "bf16"
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self.model = model.train()
        self.run = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, fused=True)

    def step(self, pixels, labels):
        x = self.normalise(pixels)
        if not self.channels_last:
            x = x.contiguous()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            logits = self.run(x)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


def given(folder):
    folder = pathlib.Path(folder)
    name, classes = (folder / "model.txt").read_text().split()
    model = create(name, int(classes))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    data = load_file(folder / "data.safetensors")
    return name, model, data["pixels"], data["labels"]


def step(options):
    torch.set_num_threads(options.threads)
    name, model, pixels, labels = given(options.folder)
    trainer = Trainer(name, model, options.precision, options.layout, options.compile)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        trainer.run = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        share = len(pixels) // world
        pixels, labels = (t[rank * share:(rank + 1) * share] for t in (pixels, labels))
    for line in sys.stdin:
        wall, cpu, losses = [], [], []
        for _ in range(int(line.removeprefix("go "))):
            started, before = time.perf_counter(), cpu_s()
            losses.append(trainer.step(pixels, labels))
            wall.append(time.perf_counter() - started)
            cpu.append(cpu_s() - before)
        say(wall_s=wall, cpu_s=cpu, losses=losses, peak_memory_bytes=peak_memory_bytes())


def pictures(options):
    """Blurred patches of colour under noise of three sizes: as many bytes as real posters have."""
    from torchvision.io import encode_jpeg

    generator = torch.Generator().manual_seed(SEED)
    folder = pathlib.Path(options.folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for at in range(options.count):
        labels = (torch.rand(options.classes, generator=generator) < 0.15).nonzero().flatten().tolist()
        labels = labels or [at % options.classes]
        picture = torch.zeros(1, 3, 750, 500)
        for sides, strength in [((6, 4), 90.0), ((75, 50), 25.0), ((375, 250), 13.0), ((750, 500), 4.0)]:
            noise = strength * torch.randn((1, 3, *sides), generator=generator)
            picture += nn.functional.interpolate(noise, (750, 500), mode="bilinear")
        jpeg = encode_jpeg((picture[0] + 128).clamp(0, 255).to(torch.uint8), quality=85)
        name = f"images/{at:05}.jpg"
        (folder / name).write_bytes(jpeg.numpy().tobytes())
        rows.append([name, "|".join(f"label {label:02}" for label in labels)])
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "labels"], *rows])


class Posters(torch.utils.data.Dataset):
    """JPEG files, decoded and brought to size as torchvision does it fastest."""

    def __init__(self, folder, size):
        from torchvision.io import ImageReadMode, decode_jpeg, read_file
        from torchvision.transforms import v2

        self.folder = pathlib.Path(folder)
        with open(self.folder / "labels.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        names = sorted({label for row in rows for label in row["labels"].split("|")})
        self.rows = [row["path"] for row in rows]
        self.labels = torch.zeros(len(rows), len(names), dtype=torch.uint8)
        for at, row in enumerate(rows):
            for label in row["labels"].split("|"):
                self.labels[at, names.index(label)] = 1
        self.read = lambda path: decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)
        self.resize = v2.Resize((size, size), antialias=True)
        self.flip = v2.RandomHorizontalFlip()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        picture = self.flip(self.resize(self.read(self.folder / self.rows[at])))
        return picture.permute(1, 2, 0), self.labels[at]


def loader_of(options):
    posters = Posters(options.folder, options.size)
    return posters, torch.utils.data.DataLoader(
        posters,
        batch_size=options.batch,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        drop_last=True,
    )


def epochs(options, loader, use):
    """The first epoch starts the workers, and is not counted."""
    for _ in loader:
        break
    for _ in range(options.epochs):
        started, pictures, waited = time.perf_counter(), 0, 0.0
        before = cpu_s() + cpu_s(resource.RUSAGE_CHILDREN)
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            use(*batch)
            pictures += len(batch[0])
        wall = time.perf_counter() - started
        say(pictures=pictures, wall_s=wall, waited_s=waited,
            cpu_s=cpu_s() + cpu_s(resource.RUSAGE_CHILDREN) - before)


def files(options):
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    posters, batches = loader_of(options)
    model = create(options.model, posters.labels.shape[1])
    trainer = Trainer(options.model, model, options.precision, "channels_last")
    epochs(options, batches, trainer.step)


def main():
    parser = argparse.ArgumentParser()
    tasks = parser.add_subparsers(required=True)

    def task(run, *more):
        sub = tasks.add_parser(run.__name__)
        sub.set_defaults(run=run)
        for name in more:
            sub.add_argument(name)
        sub.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
        sub.add_argument("--threads", type=int, default=1)
        sub.add_argument("--classes", type=int, default=20)
        for name, default in [("batch", 32), ("width", 224), ("height", 224), ("size", 224),
                              ("workers", 1), ("epochs", 1), ("count", 512)]:
            sub.add_argument(f"--{name}", type=int, default=default)
        sub.add_argument("--layout", choices=["channels_first", "channels_last"], default="channels_last")
        sub.add_argument("--compile", action="store_true")
        sub.add_argument("--model", default="simple-cnn")

    task(init, "name", "folder")
    for run in (step, pictures, files):
        task(run, "folder")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
