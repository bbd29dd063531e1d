"""What `cargo xtask bench data` measures Marquee's data path beside.

Usage: bench_data.py TASK FOLDER

Like `marquee-catalogue bench rounds`: a line of stdin is a number of items, the answer one JSON object a
line with what the round cost: CPU seconds of all threads and worker processes, and wall seconds. The
first answer comes before any line and names the versions. All decode, bring to 299x299 and normalise
into float32, three planes, with one thread but for the loaders, which have two worker processes.
"""

import glob
import itertools
import json
import os
import resource
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

SIDE = 299
BATCH = 64
WORKERS = 2
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def files(folder):
    return sorted(glob.glob(os.path.join(folder, "pictures", "*.jpg")))


def pil(folder):
    import numpy as np
    import PIL
    from PIL import Image

    scale = np.array([1 / (255 * s) for s in STD], np.float32)
    offset = np.array([-m / s for m, s in zip(MEAN, STD)], np.float32)
    names = itertools.cycle(files(folder))

    def one(name):
        with Image.open(name) as picture:
            pixels = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return np.ascontiguousarray((np.asarray(pixels) * scale + offset).transpose(2, 0, 1))

    def work(items):
        return items, sum(float(one(name)[1, 150, 150]) for name in itertools.islice(names, items))

    return f"Pillow {PIL.__version__}, numpy {np.__version__}", work


def torch_transform(is_pil):
    import torch
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    resize = v2.Resize((SIDE, SIDE), antialias=True)
    normalise = v2.Normalize(MEAN, STD)
    if is_pil:
        from PIL import Image
        from torchvision import transforms

        # As ImageFolder's users write it.
        steps = transforms.Compose([
            transforms.Resize((SIDE, SIDE)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

        def one(name):
            with Image.open(name) as picture:
                return steps(picture.convert("RGB"))

        return one

    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    to_float = v2.ToDtype(torch.float32, scale=True)

    def one(name):
        return normalise(to_float(resize(decode_jpeg(read_file(name), mode=ImageReadMode.RGB))))

    return one


def versions_of_torch():
    import PIL
    import torch
    import torchvision

    return f"torch {torch.__version__}, torchvision {torchvision.__version__}, Pillow {PIL.__version__}"


def torchvision_io(folder):
    names, one = itertools.cycle(files(folder)), torch_transform(False)

    def work(items):
        return items, sum(float(one(name)[1, 150, 150]) for name in itertools.islice(names, items))

    return versions_of_torch(), work


class Pictures:
    """A map-style dataset."""

    def __init__(self, names, one):
        self.names, self.one = names, one

    def __len__(self):
        return len(self.names)

    def __getitem__(self, at):
        return self.one(self.names[at])


def loader(is_pil):
    def start(folder):
        from torch.utils.data import DataLoader

        names, one = itertools.cycle(files(folder)), torch_transform(is_pil)

        def work(items):
            pictures = Pictures(list(itertools.islice(names, items)), one)
            batches = DataLoader(pictures, batch_size=BATCH, num_workers=WORKERS)
            return items, sum(float(batch[0, 1, 150, 150]) for batch in batches)

        return versions_of_torch(), work

    return start


def tf_data(folder):
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    mean, std = tf.constant(MEAN) * 255, tf.constant(STD) * 255

    def one(name):
        pixels = tf.io.decode_jpeg(tf.io.read_file(name), channels=3)
        # Its default: bilinear without antialiasing.
        pixels = tf.image.resize(pixels, (SIDE, SIDE))
        return tf.transpose((pixels - mean) / std, (2, 0, 1))

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    data = tf.data.Dataset.from_tensor_slices(files(folder)).repeat().map(one).with_options(options)
    pictures = data.as_numpy_iterator()

    def work(items):
        return items, sum(float(next(pictures)[1, 150, 150]) for _ in range(items))

    return f"tensorflow {tf.__version__}", work


def parquet(as_rows):
    def start(folder):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        name = os.path.join(folder, "examples.parquet")

        def work(items):
            rows = 0
            for _ in range(items):
                table = pq.read_table(name, use_threads=False)
                rows += len(table.to_pylist()) if as_rows else table.num_rows
            return items, rows

        return f"pyarrow {pa.__version__}", work

    return start


TASKS = {
    "pil": pil,
    "torchvision": torchvision_io,
    "loader-pil": loader(True),
    "loader-torchvision": loader(False),
    "tf": tf_data,
    "table": parquet(False),
    "rows": parquet(True),
}


def cpu_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def main():
    what, work = TASKS[sys.argv[1]](sys.argv[2])
    print(json.dumps({"what": what}), flush=True)
    for line in sys.stdin:
        cpu, wall = cpu_s(), time.perf_counter()
        items, check = work(int(line))
        cost = {"items": items, "cpu_s": cpu_s() - cpu, "wall_s": time.perf_counter() - wall, "check": check}
        print(json.dumps(cost), flush=True)


main()
