"""Annotations of COCO's size: seconds to open them, megabytes in the parent and in each DataLoader worker.

    python benchmarks/bench_annotations.py                                      117,000 images, 860,000 boxes
    python benchmarks/bench_annotations.py --images 10000 --start-method spawn --json result.json

A made-up COCO file is opened as the training scripts do it (images are never decoded: their files are empty), and beside it the
usual way, a Python list with a dict per image. Workers then read the annotations of every image, in random order, for two epochs.

Words:  own = memory of a worker that no other process shares (Private_Clean + Private_Dirty); share = own and its part of what
        is shared (Pss). Python writes a reference count into every object it touches, so a worker that was forked gets a copy of
        its own, page by page, of every list and dict it reads; arrays stay shared.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

import datasets.coco  # noqa: E402
from datasets.open_dataset import open_dataset  # noqa: E402
from datasets.samples import TrainingSamples  # noqa: E402
from train_utils.group_by_aspect_ratio import create_aspect_ratio_groups  # noqa: E402

NUM_CLASSES = 80
BOXES_PER_IMAGE = 860_000 / 117_000
EMPTY_SHARE, CROWD_SHARE = 0.009, 0.012  # as in train2017
BATCH = 64
SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (500, 375), (612, 612))  # height, width
MIB = 2**20


def write_coco(root: Path, num_images: int, points: int) -> None:
    """annotations/train.json and empty files in train/, for `open_dataset`; points: corners of each object's polygon."""
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.choice(6 * num_images, num_images, replace=False) + 1)
    sizes = np.array(SIZES)[rng.integers(len(SIZES), size=num_images)]  # [n, 2]
    (root / "train").mkdir(parents=True)
    images = []
    for number, (height, width) in zip(numbers.tolist(), sizes.tolist()):
        name = f"{number:012d}.jpg"
        (root / "train" / name).touch()
        images.append({"license": 3, "file_name": name, "coco_url": f"http://images.example/train/{name}", "height": height,
                       "width": width, "date_captured": "2013-11-14 11:18:45", "id": number})
    owners = rng.choice(np.flatnonzero(rng.random(num_images) >= EMPTY_SHARE), round(BOXES_PER_IMAGE * num_images))
    limits = sizes[owners][:, ::-1]  # width, height
    extent = np.maximum(limits * rng.beta(1, 4, (len(owners), 2)), 2)
    corner = (limits - extent) * rng.random((len(owners), 2))
    boxes = np.concatenate([corner, extent], axis=1).round(2)
    polygons = (corner[:, None] + extent[:, None] * rng.random((len(owners), points, 2))).round(2).reshape(len(owners), -1)
    labels, crowd = rng.integers(NUM_CLASSES, size=len(owners)) + 1, rng.random(len(owners)) < CROWD_SHARE
    annotations = [
        {"segmentation": [polygons[k].tolist()] if points else [], "area": round(0.6 * boxes[k, 2] * boxes[k, 3], 4),
         "iscrowd": int(crowd[k]), "image_id": int(numbers[owners[k]]), "bbox": boxes[k].tolist(), "category_id": int(labels[k]),
         "id": 5 * k + 7} for k in range(len(owners))]
    categories = [{"supercategory": "thing", "id": k + 1, "name": f"class {k + 1}"} for k in range(NUM_CLASSES)]
    (root / "annotations").mkdir()
    with open(root / "annotations" / "train.json", "w") as file:
        file.write(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


class Annotations(Dataset):
    """What a script's data set knows of an image, without the image."""

    def __init__(self, samples: TrainingSamples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return self.samples.dataset.coco_index(index)[1]["boxes"]

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        return self.samples.get_height_and_width(index)


class DictPerImage(Dataset):
    """The usual way: a list with a dict for each image, which has a list with a dict for each object."""

    def __init__(self, root: Path):
        content = json.loads((root / "annotations" / "train.json").read_text())
        objects: dict[int, list[dict]] = {}
        for item in content["annotations"]:
            kept = {"bbox": item["bbox"], "category_id": item["category_id"], "area": item["area"], "iscrowd": item["iscrowd"]}
            objects.setdefault(item["image_id"], []).append(kept)
        self.images = [{"path": str(root / "train" / image["file_name"]), "height": image["height"], "width": image["width"],
                        "objects": objects.get(image["id"], [])} for image in content["images"]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        boxes = torch.tensor([item["bbox"] for item in self.images[index]["objects"]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        return self.images[index]["height"], self.images[index]["width"]


class RandomBatches:
    """Every index once, in batches of random order, after `shuffle`; before it a blank batch for each worker."""

    def __init__(self, num_images: int, workers: int):
        self.num_images = num_images
        self.batches: list[list[int]] = [[] for _ in range(workers)]

    def shuffle(self, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(self.num_images).tolist()
        self.batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def count_boxes(samples: list[Tensor]) -> int:
    """A worker's whole answer, so that hardly anything travels."""
    return sum(map(len, samples))


def memory_of(process: multiprocessing.Process) -> tuple[float, float]:
    """(own, share) of a process in MiB."""
    values = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, kilobytes, _ = line.split()
        values[key.rstrip(":")] = int(kilobytes) * 1024 / MIB
    return values["Private_Clean"] + values["Private_Dirty"], values["Pss"]


def resident() -> float:
    """MiB of this process that are in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MIB


def timed(function: Callable, seconds: list[float]) -> Callable:
    """The function, which notes the CPU seconds of each call."""
    def call(*args, **kwargs):
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.process_time() - start)

    return call


def open_ours(root: Path) -> tuple[Dataset, dict]:
    """As the scripts open it; CPU seconds of reading the JSON text and of cleaning."""
    parse: list[float] = []
    clean: list[float] = []
    with (mock.patch.object(json, "loads", timed(json.loads, parse)),
          mock.patch.object(datasets.coco, "build_table", timed(datasets.coco.build_table, clean))):
        samples = TrainingSamples(open_dataset("coco", root, "train"))
    return Annotations(samples), {"parse_cpu_s": sum(parse), "clean_cpu_s": sum(clean)}


def open_dicts(root: Path) -> tuple[Dataset, dict]:
    """The usual way; nothing is cleaned."""
    return DictPerImage(root), {}


SIDES = {"flat arrays (ours)": open_ours, "a dict per image": open_dicts}


def measure(side: str, root: Path, workers: int, start_method: str, answers: multiprocessing.Queue) -> None:
    """Runs in a process of its own, so that neither the writing nor the other side is counted."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="This DataLoader will create")  # more workers than cores: memory is the question
    before = resident()
    start, cpu_start = time.perf_counter(), time.process_time()
    data, result = SIDES[side](root)
    result |= {"open_s": time.perf_counter() - start, "open_cpu_s": time.process_time() - cpu_start,
               "before_mb": before, "resident_mb": resident(),
               "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB, "images": len(data)}
    start = time.perf_counter()
    groups = create_aspect_ratio_groups(data, 3)
    result |= {"groups_s": time.perf_counter() - start, "groups": len(set(groups))}
    del groups
    batches = RandomBatches(len(data), workers)
    loader = DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=count_boxes, persistent_workers=True,
                        multiprocessing_context=start_method)
    result |= {"own_mb": [], "share_mb": [], "epoch_s": []}
    for epoch in range(3):  # epoch 0 only starts the workers
        if epoch:
            batches.shuffle(epoch)
        start = time.perf_counter()
        boxes = sum(loader)
        result["epoch_s"].append(time.perf_counter() - start)
        memory = [memory_of(process) for process in multiprocessing.active_children()]
        result["own_mb"].append([own for own, _ in memory])
        result["share_mb"].append([share for _, share in memory])
    answers.put(result | {"boxes": boxes})


def report(side: str, result: dict) -> None:
    """A side's numbers in four lines."""
    parts = f": JSON {result['parse_cpu_s']:.1f}, cleaning {result['clean_cpu_s']:.1f}" if "parse_cpu_s" in result else ""
    print(f"{side}: {result['images']} images, {result['boxes']} boxes to train on")
    print(f"  opened in {result['open_s']:.1f} s (CPU {result['open_cpu_s']:.1f}{parts}); aspect ratio groups in "
          f"{result['groups_s']:.2f} s")
    print(f"  parent: {result['before_mb']:.0f} MB before, {result['resident_mb']:.0f} MB after opening, "
          f"{result['peak_mb']:.0f} MB at the peak")
    for when, own, share, seconds in zip(("at start", "after epoch 1", "after epoch 2"), result["own_mb"], result["share_mb"],
                                         result["epoch_s"]):
        print(f"  workers {when:13s} own {' '.join(f'{mb:5.0f}' for mb in own)} MB, share "
              f"{' '.join(f'{mb:5.0f}' for mb in share)} MB; {seconds:.1f} s")


def run(process: multiprocessing.Process) -> None:
    """Waits for the end of a process; ends this one too if it failed, which has said why."""
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=117_000, help="images of the file; 7.35 boxes each")
    parser.add_argument("--points", type=int, default=20, help="corners of a polygon, 0 for none; 20 make a file of COCO's size")
    parser.add_argument("--workers", type=int, default=4, help="worker processes")
    parser.add_argument("--start-method", choices=("fork", "spawn", "forkserver"), default="fork", help="of the workers")
    parser.add_argument("--json", type=Path, help="also write the numbers into this file")
    args = parser.parse_args()
    context, results = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        run(context.Process(target=write_coco, args=(root, args.images, args.points)))
        print(f"a file of {(root / 'annotations' / 'train.json').stat().st_size / MIB:.0f} MB; {args.workers} workers by "
              f"{args.start_method}")
        for side in SIDES:
            answers = context.Queue()
            run(context.Process(target=measure, args=(side, root, args.workers, args.start_method, answers)))
            results[side] = answers.get()
            report(side, results[side])
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"json": str(args.json), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
