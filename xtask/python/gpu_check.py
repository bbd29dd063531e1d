"""Marquee's trainer against PyTorch on this machine's GPU, as one table.

usage: python3 gpu_check.py [--device cuda|cpu] [--tiny] [--json] [--only NAME[,NAME]] [--keep]

Needs torch 2.11 (pip's), and nothing else: no Rust, no compiler. Names: nccl, parity, speed, stall.
--tiny takes small sizes, to see that everything works; its speeds mean nothing and are not judged.
Exit code 0 if every line holds, 1 if one does not.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
TRAINER = HERE / "bin" / "marquee-trainer"
PINNED = HERE / "inputs" / "pinned.json"
TORCH = "2.11."
# What the project promises.
PARITY = 1e-4
SPEED = 1.0
STALL = 0.02
MEMORY = 1.0
LR, MOMENTUM = 0.01, 0.9
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Steps of the parity run.
STEPS = 50
# A small network for it, without batch-norm: 50 steps of a network that amplifies rounding would say
# more about the network than about who computes it.
SMALL = dict(model="simple_cnn", classes=5, batch=8, width=32, height=48)


# ---- safetensors, without the package ----------------------------------------------------------

KINDS = {torch.float32: "F32", torch.uint8: "U8", torch.float64: "F64", torch.int64: "I64"}


def save(tensors, path):
    header, at = {}, 0
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in flat.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = dict(
            dtype=KINDS[tensor.dtype], shape=list(tensor.shape), data_offsets=[at, at + size])
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + at)
    if at:
        # Mapped, so that no array library is needed to get at the bytes.
        whole = torch.from_file(str(path), shared=True, size=8 + len(head) + at, dtype=torch.uint8)
        for name, tensor in flat.items():
            start, end = header[name]["data_offsets"]
            if end > start:
                whole[8 + len(head) + start:8 + len(head) + end] = tensor.view(-1).view(torch.uint8)


def load(path):
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
    size = os.path.getsize(path)
    whole = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    kinds = {name: kind for kind, name in KINDS.items()}
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + at for at in about["data_offsets"])
        raw = whole[start:end].clone()
        tensors[name] = raw.view(kinds[about["dtype"]]).view(about["shape"])
    return tensors


# ---- the networks, in plain PyTorch, with timm's names ------------------------------------------


class SimpleCnn(nn.Module):
    def __init__(self, classes):
        super().__init__()
        sides = [3, 16, 32, 64, 96]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sides, sides[1:]))
        self.head = nn.Linear(2 * sides[-1], classes)

    def forward(self, x):
        for index, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if index + 1 < len(self.convs):
                x = F.max_pool2d(x, 2)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


class Bottleneck(nn.Module):
    def __init__(self, start, width, stride):
        super().__init__()
        end = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(start, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, end, 1, bias=False), nn.BatchNorm2d(end)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or start != end:
            self.downsample = nn.Sequential(
                nn.Conv2d(start, end, 1, stride, bias=False), nn.BatchNorm2d(end))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


class ResNet50(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, start = nn.ReLU(inplace=True), 64
        for stage, (width, depth) in enumerate(zip((64, 128, 256, 512), (3, 4, 6, 3))):
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(start, width, 2 if stage and not index else 1))
                start = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(start, classes)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Vgg16(nn.Module):
    def __init__(self, classes):
        super().__init__()
        layers, start = [], 3
        for channels in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
            for end in channels:
                layers += [nn.Conv2d(start, end, 3, padding=1), nn.ReLU(inplace=True)]
                start = end
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pre_logits = nn.ModuleDict(
            dict(fc1=nn.Conv2d(start, 4096, 7), fc2=nn.Conv2d(4096, 4096, 1)))
        self.head = nn.ModuleDict(dict(fc=nn.Linear(4096, classes)))

    def forward(self, x):
        x = self.features(x)
        if min(x.shape[-2:]) < 7:
            x = F.adaptive_avg_pool2d(x, [max(7, side) for side in x.shape[-2:]])
        x = F.relu(self.pre_logits["fc1"](x), inplace=True)
        x = F.relu(self.pre_logits["fc2"](x), inplace=True)
        return self.head["fc"](x.mean((2, 3)))


NETWORKS = dict(simple_cnn=SimpleCnn, resnet50=ResNet50, vgg16=Vgg16)


def create(name, classes):
    torch.manual_seed(1)
    return NETWORKS[name](classes)


def weights_of(model):
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def batch_of(batch, width, height, classes):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(
        0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
    labels = torch.rand(batch, classes, generator=generator) < 0.3
    return pixels, labels.to(torch.uint8)


def normalise(pixels, device):
    mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(STD, device=device).view(3, 1, 1)
    return pixels.permute(0, 3, 1, 2).float().mul_(1 / (255 * std)).add_(-mean / std)


# ---- PyTorch's side, in a process of its own -----------------------------------------------------


def peer(options):
    """Takes N steps for each line "go N"; answers with one JSON line. "end FILE" writes the weights."""
    device = torch.device(options.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(options.threads)
    folder = pathlib.Path(options.folder)
    data = load(folder / "data.safetensors")
    model = create(options.network, data["labels"].shape[1])
    model.load_state_dict(load(folder / "weights.safetensors"), strict=False)
    model = model.to(device, memory_format=torch.channels_last).train()
    fused = dict(fused=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, **fused)
    pixels, labels = data["pixels"], data["labels"]
    if device.type == "cuda":
        pixels, labels = pixels.pin_memory(), labels.pin_memory()
        torch.cuda.reset_peak_memory_stats()
    bf16 = options.precision == "bf16"

    def step():
        x = normalise(pixels.to(device, non_blocking=True), device)
        target = labels.to(device, non_blocking=True).float()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = model(x)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    for line in sys.stdin:
        word, value = line.split(maxsplit=1)
        if word == "end":
            save(weights_of(model), value.strip())
            print("{}", flush=True)
            continue
        started = time.perf_counter()
        losses = [step() for _ in range(int(value))]
        losses = torch.stack(losses).double().tolist()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        print(json.dumps(dict(seconds=seconds, losses=losses, peak_bytes=peak)), flush=True)


# ---- Marquee's side ------------------------------------------------------------------------------


def environment():
    lib = pathlib.Path(torch.__file__).parent / "lib"
    paths = [str(lib), os.environ.get("LD_LIBRARY_PATH", "")]
    return dict(
        os.environ, LD_LIBRARY_PATH=":".join(path for path in paths if path), MARQUEE_LOG="warn")


class Side:
    """A process that takes steps when it is told to."""

    def __init__(self, argv, env=None):
        self.argv = [str(word) for word in argv]
        self.process = subprocess.Popen(
            self.argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.argv[0]} ended with {self.process.wait()}: {self.argv}")
        return json.loads(answer)

    def go(self, steps):
        return self.ask(f"go {steps}")

    def close(self):
        self.process.stdin.close()
        code = self.process.wait()
        if code:
            raise RuntimeError(f"{self.argv[0]} ended with {code}: {self.argv}")


class Ours(Side):
    def __init__(self, run, folder, network, precision, *more):
        super().__init__(
            [TRAINER, "bench-step", network.replace("_", "-") if network == "simple_cnn" else network,
             "--weights", folder / "weights.safetensors", "--data", folder / "data.safetensors",
             "--device", run.device, "--precision", precision, "--threads", str(run.threads),
             "--lr", str(LR), "--serve", *more],
            environment())

    def go(self, steps):
        answer = super().go(steps)
        return dict(seconds=sum(answer["wall_s"]), losses=answer["losses"],
                    peak_bytes=answer["peak_device_bytes"])


class Theirs(Side):
    def __init__(self, run, folder, network, precision):
        super().__init__(
            [sys.executable, __file__, "--peer", "--folder", folder, "--network", network,
             "--device", run.device, "--precision", precision, "--threads", str(run.threads)])


def files(folder, network, classes, batch, width, height):
    folder.mkdir(parents=True, exist_ok=True)
    save(weights_of(create(network, classes)), folder / "weights.safetensors")
    pixels, labels = batch_of(batch, width, height, classes)
    save(dict(pixels=pixels, labels=labels), folder / "data.safetensors")


# ---- the checks ----------------------------------------------------------------------------------


class Run:
    def __init__(self, options):
        self.device, self.tiny = options.device, options.tiny
        self.threads = options.threads
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="marquee-gpu-check-"))
        self.lines = []

    def line(self, name, value, bound, holds, note=""):
        self.lines.append(dict(name=name, value=value, bound=bound, holds=holds, note=note))
        word = {True: "ok", False: "FAILED", None: "-"}[holds]
        print(f"{word:<7} {name:<46} {value:<16} {bound:<12} {note}", file=sys.stderr, flush=True)

    def at_most(self, name, value, most, note="", judged=True):
        holds = value <= most if judged else None
        self.line(name, f"{value:.3g}", f"<= {most:g}", holds, note)


def relative(found, wanted):
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(found, wanted))


def nccl(run):
    """A group of one rank a GPU through the shim: connect, all-reduce, abort, and another."""
    done = subprocess.run(
        [TRAINER, "nccl-check", "--json"], env=environment(), stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    if run.device == "cuda":
        run.line("NCCL through the shim", report["stage"], "done", report["usable"],
                 report["reason"])
        return
    # A host without a GPU: as far as the driver, in order, with both libraries loaded.
    holds = report["stage"] in ("driver", "libtorch", "shim") and not report["usable"]
    run.line("NCCL through the shim (no GPU)", report["stage"], "no crash", holds, report["reason"])


def differences(a, b):
    """Of two sets of weights: the largest difference, as a share of the tensor's largest number."""
    return max(
        ((a[name].double() - b[name].double()).abs().max() / b[name].double().abs().max()
         .clamp_min(1e-30)).item() for name in b)


def parity(run):
    folder = run.folder / "parity"
    about = dict(SMALL)
    network = about.pop("model")
    files(folder, network, **about)
    ours = Ours(run, folder, network, "fp32", "--save", folder / "ours.safetensors")
    theirs = Theirs(run, folder, network, "fp32")
    a, b = ours.go(STEPS)["losses"], theirs.go(STEPS)["losses"]
    theirs.ask(f"end {folder / 'theirs.safetensors'}")
    ours.close()
    theirs.close()
    run.at_most(f"{STEPS} steps, losses, against PyTorch here", relative(a, b), PARITY, network)
    apart = differences(load(folder / "ours.safetensors"), load(folder / "theirs.safetensors"))
    run.at_most(f"{STEPS} steps, weights, against PyTorch here", apart, PARITY, network)
    pinned = json.loads(PINNED.read_text())
    run.at_most(
        f"{STEPS} steps, losses, against pinned CPU figures", relative(a, pinned["losses"]), PARITY,
        f"made with torch {pinned['torch']}")
    forward(run, "resnet50", 64 if run.tiny else 224)


def forward(run, network, side):
    """Logits and the gradient of the pictures in fp32, and one step of plain SGD in train mode."""
    folder = run.folder / network
    folder.mkdir()
    device = torch.device(run.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    generator = torch.Generator().manual_seed(2)
    model = create(network, 10).to(device)
    save(weights_of(model), folder / "weights.safetensors")
    x = torch.randn(4, 3, side, side, generator=generator).to(device).requires_grad_()
    target = (torch.rand(4, 10, generator=generator) < 0.3).float().to(device)
    model.eval()
    logits = model(x)
    (grad,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, target), x)
    save(dict(x=x, target=target, logits=logits, grad_x=grad), folder / "io.safetensors")
    found = check_model(run, network, folder, "io")
    scale = max(1.0, logits.abs().max().item())
    run.at_most("forward: logits", found["logits"] / scale, PARITY, network)
    run.at_most("gradient of the pictures, of its largest", found["grad_x"] /
                grad.abs().max().item(), PARITY, network)

    # In fp64: in fp32 PyTorch itself, channels_last against contiguous, differs by a tenth in biases that
    # have been zero until this step.
    model, x, target = model.double().train(), x.detach().double(), target.double()
    F.binary_cross_entropy_with_logits(model(x), target).backward()
    lr = torch.tensor(0.01, dtype=torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight -= lr.item() * weight.grad
    save(weights_of(model), folder / "stepped.safetensors")
    save(dict(x=x, target=target, lr=lr), folder / "step.safetensors")
    found = check_model(
        run, network, folder, "step", "--stepped", folder / "stepped.safetensors")
    run.at_most("weights after one step in train mode, fp64", found["step_relative"], PARITY, network)


def check_model(run, network, folder, io, *more):
    """How far the trainer is from what the file `io` holds."""
    done = subprocess.run(
        [TRAINER, "check-model", network, folder / "weights.safetensors",
         folder / f"{io}.safetensors", "--tolerance", "inf", "--device", run.device, *more],
        env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def speed(run):
    for network in ("resnet50", "vgg16"):
        batch = 4 if run.tiny else batch_for(network)
        side = 64 if run.tiny else 224
        folder = run.folder / f"speed-{network}"
        files(folder, network, 10 if run.tiny else 20, batch, side, side)
        ours = Ours(run, folder, network, "bf16")
        theirs = Theirs(run, folder, network, "bf16")
        rounds, steps = (2, 1) if run.tiny else (7, 20)
        for side_ in (ours, theirs):
            side_.go(1 if run.tiny else 10)
        times = dict(ours=[], theirs=[])
        for turn in range(rounds):
            # In turn, and each first as often as the other: clocks and heat favour nobody.
            order = [("ours", ours), ("theirs", theirs)]
            for name, which in order if turn % 2 else reversed(order):
                answer = which.go(steps)
                times[name].append(answer["seconds"] / steps)
                if name == "ours":
                    our_peak = answer["peak_bytes"]
                else:
                    their_peak = answer["peak_bytes"]
        ours.close()
        theirs.close()
        a, b = statistics.median(times["ours"]), statistics.median(times["theirs"])
        note = f"batch {batch}: {1e3 * a:.1f} ms against {1e3 * b:.1f} ms a step"
        # How many times as fast as PyTorch.
        holds = None if run.tiny else b / a >= SPEED
        run.line(f"{network}, bf16 + channels_last, speed", f"{b / a:.3f}x", f">= {SPEED:g}x",
                 holds, note)
        if our_peak and their_peak:
            note = f"{our_peak / 1e6:.0f} MB against {their_peak / 1e6:.0f} MB"
            run.at_most(f"{network}, peak memory", our_peak / their_peak, MEMORY, note,
                        judged=not run.tiny)


def batch_for(network):
    """As large as fits twice, for both programs hold theirs at once."""
    if not torch.cuda.is_available():
        return 4
    gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
    most = dict(resnet50=128, vgg16=64)[network]
    return max(8, min(most, int(most * gigabytes / 48) // 8 * 8))


def stall(run):
    """A train job from raw shards: the share of its steps that waits for pictures."""
    folder = run.folder / "stall"
    side, rows, batch = (64, 64, 8) if run.tiny else (224, 4096, batch_for("resnet50"))
    subprocess.run(
        [TRAINER, "make-shards", folder / "shards", "--rows", str(rows), "--side", str(side)],
        env=environment(), check=True, stdout=subprocess.DEVNULL)
    for name in ("output", "checkpoints"):
        (folder / name).mkdir()
    steps = 8 if run.tiny else 200
    settings = dict(
        model="simple-cnn" if run.tiny else "resnet50", epochs=1 + steps * batch // rows,
        batch_size=batch, optimizer=dict(name="sgd", lr=LR, momentum=MOMENTUM, nesterov=False,
                                         weight_decay=0.0),
        lr_schedule="constant", precision="bf16", channels_last=True, deterministic=False, seed=1,
        flip=True, checkpoint_every_steps=0, max_steps=steps, tensorboard=False,
        collective_timeout_s=60)
    device = dict(kind="gpu" if run.device == "cuda" else "cpu", index=0)
    spec = dict(
        job=1, job_name="train", attempt=1, work=dict(kind="train", settings=settings),
        inputs=dict(shards=str(folder / "shards")), output=str(folder / "output"),
        checkpoints=str(folder / "checkpoints"), resume=None, devices=[device], threads=run.threads)
    (folder / "spec.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [TRAINER, "run", folder / "spec.json"], env=environment(), stdout=subprocess.PIPE, text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    last = events[-1]
    if last["event"] != "finished":
        run.line("input stall from raw shards", "no result", f"<= {STALL:g}", False, str(last))
        return
    summary = last["summary"]
    phases = summary["phases"]
    note = (f"{summary['images_per_second']:.0f} images/s; forward {phases['forward_s']:.2f} s, backward "
            f"{phases['backward_s']:.2f} s of {phases['step_s']:.2f} s")
    run.at_most("input stall from raw shards", phases["input_s"] / phases["step_s"], STALL, note,
                judged=not run.tiny)


CHECKS = dict(nccl=nccl, parity=parity, speed=speed, stall=stall)


def about(run):
    gpu = torch.cuda.get_device_name(0) if run.device == "cuda" else "no GPU"
    version = subprocess.run(
        [TRAINER, "--version"], env=environment(), stdout=subprocess.PIPE, text=True)
    if version.returncode:
        sys.exit(f"{TRAINER} does not start with the libraries of torch {torch.__version__}")
    return dict(trainer=version.stdout.strip(), torch=torch.__version__, gpu=gpu, device=run.device)


def pin(path):
    """What the parity run comes to on this machine's CPU, by PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        about = dict(SMALL)
        network = about.pop("model")
        files(folder, network, **about)
        run = argparse.Namespace(device="cpu", threads=1)
        theirs = Theirs(run, folder, network, "fp32")
        losses = theirs.go(STEPS)["losses"]
        theirs.close()
    text = json.dumps(dict(torch=torch.__version__, steps=STEPS, losses=losses))
    pathlib.Path(path).write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default=",".join(CHECKS))
    parser.add_argument("--keep", action="store_true", help="leave the files of the run")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pin", help=argparse.SUPPRESS)
    for name in ("folder", "network"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.__version__.startswith(TORCH):
        sys.exit(f"this is torch {torch.__version__}, but the trainer is built for torch {TORCH}x")
    if options.peer:
        return peer(options)
    if options.pin:
        return pin(options.pin)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; nvidia-smi may say why. --device cpu --tiny only tries the script")
    run = Run(options)
    names = options.only.split(",")
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        sys.exit(f"there is no check {unknown[0]!r}; the checks are {', '.join(CHECKS)}")
    facts = about(run)
    print("  ".join(f"{key}: {value}" for key, value in facts.items()), file=sys.stderr)
    try:
        for name in names:
            try:
                CHECKS[name](run)
            except (RuntimeError, OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
                run.line(name, "broke off", "", False, f"{type(error).__name__}: {error}")
    finally:
        if not options.keep:
            shutil.rmtree(run.folder, ignore_errors=True)
    failed = [line["name"] for line in run.lines if line["holds"] is False]
    if options.json:
        for line in run.lines:
            print(json.dumps(dict(line, **facts)))
    print(f"{len(run.lines)} lines, {len(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
