"""Images a second that reach the training process, with one loader worker and with two, ours beside torchvision's.

    python benchmarks/bench_input.py                                       drawn pictures of 500x375, JPEG quality 90
    python benchmarks/bench_input.py --pictures VOC2012/JPEGImages --json result.json
    python benchmarks/bench_input.py --workers 0 --pipelines ssd           in one process: the work alone

Ours is what the three scripts build with their default flags, torchvision's what its reference training does: Pillow
opens the file, transforms.v2 augments (each recipe on Pillow images or tensors, whichever is faster), pixels leave the worker
as float32. Batch sizes are the scripts' for both, and both keep their workers. So that the work is the same:

    fasterrcnn    decode, mirror; pictures of their own size; both models resize in the training process
    ssd           colours, zoom-out, IoU crop, mirror, resize to 300x300. torchvision's hands over pictures of their own size,
                  and its model resizes them as floats, without antialiasing: that step is added to its worker here
    yolov3        letterbox to 416x416, affine, colours, mirror; torchvision has no such recipe, these are its transforms
    mosaic        yolov3 with --mosaic, which reads four files for an image: beside for its own sake

The sides take turns, epoch by epoch; the first epoch of each warms up. Words: rate = images a second by the clock; processor
ms = milliseconds of processor time per image of the workers and of the process that receives, which other programs on the machine
disturb less (Linux only).
"""

import argparse
import functools
import importlib
import json
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from datasets.image_io import image_size  # noqa: E402
from datasets.yolo_augmentation import GREY  # noqa: E402

SSD_SIZE, SSD_FILL = 300, (123, 117, 104)  # of ssd300, and of torchvision's preset
YOLO_SIZE = 416
REQUIRED = {"fasterrcnn": 1.5, "ssd": 2.0, "yolov3": 1.5}  # ours / torchvision's
CPU = torch.device("cpu")


def draw_pictures(folder: Path, count: int) -> None:
    """JPEGs of 500x375 with structure of all scales: as slow to decode as photographs (about 90 kB)."""
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = np.full((375, 500, 3), 128.0)
        for side in (4, 16, 64, 250):
            grid = random.normal(128, 60, (side * 3 // 4, side, 3)).clip(0, 255).astype(np.uint8)
            pixels += (np.asarray(Image.fromarray(grid).resize((500, 375), Image.Resampling.BICUBIC)) - 128.0) * side**-0.2
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=90)


def write_voc(root: Path, count: int, pictures: Path | None) -> dict[str, torch.Tensor]:
    """A VOC folder of drawn or given JPEGs with three boxes each; returns the boxes [3, 4] by path."""
    images, annotations, lists = root / "JPEGImages", root / "Annotations", root / "ImageSets" / "Main"
    for folder in (images, annotations, lists):
        folder.mkdir(parents=True)
    if pictures is None:
        draw_pictures(images, count)
    for path in sorted(pictures.glob("*.jpg"))[:count] if pictures else []:
        shutil.copy(path, images)
    random, boxes = np.random.default_rng(0), {}
    for path in sorted(images.iterdir()):
        height, width = image_size(path)
        sides = 0.1 + 0.5 * random.random((3, 2))
        corner = random.random((3, 2)) * (1 - sides)
        boxes[str(path)] = torch.tensor((np.hstack([corner, corner + sides]) * [width, height, width, height]).round(),
                                        dtype=torch.float32)
        objects = "".join(
            f"<object><name>class{number}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>" for number, (x1, y1, x2, y2) in enumerate(boxes[str(path)].int().tolist()))
        (annotations / f"{path.stem}.xml").write_text(
            f"<annotation><filename>{path.name}</filename><size><width>{width}</width><height>{height}</height></size>"
            f"{objects}</annotation>")
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("".join(f"{Path(path).stem}\n" for path in boxes))
    return boxes


@functools.cache
def our_parts(script: str, root: Path, flags: tuple[str, ...]) -> tuple:
    """(module, args, training set, model, its settings) of a script; the model is built where its loader looks at it."""
    module = importlib.import_module(f"train_{script}")
    args = module.parse_args(["--dataset", "voc", "--data-path", str(root), *flags])
    args.device, args.rank, args.world_size = "cpu", 0, 1
    train_set, _ = module.open_data(args)
    names = train_set.class_names
    model_args = module.resolve_model_args(args, None, *([names] if script == "yolov3" else []))
    model = module.create_model(model_args, names) if script != "fasterrcnn" else None
    return module, args, train_set, model, model_args


def our_loader(script: str, root: Path, workers: int, flags: tuple[str, ...] = ()) -> DataLoader:
    """The loader that a script trains from."""
    module, args, train_set, model, model_args = our_parts(script, root, flags)
    args.workers = workers
    needed = {"fasterrcnn": (model_args,), "ssd": (model,), "yolov3": (model, model_args)}[script]
    return module.make_train_loader(args, train_set, *needed, CPU)


class ReferenceData(Dataset):
    """Pictures and boxes as torchvision's reference reads them, for its transforms."""

    def __init__(self, boxes: dict[str, torch.Tensor], transform: Callable):
        self.paths = list(boxes)
        self.boxes = list(boxes.values())
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple:
        with open(self.paths[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        boxes = tv_tensors.BoundingBoxes(self.boxes[index], format="XYXY", canvas_size=image.size[::-1])
        return self.transform(image, {"boxes": boxes, "labels": torch.arange(1, len(boxes) + 1), "image_id": index})


class PadToSquare(v2.Transform):
    """Grey bars around a picture, which torchvision's `Pad` draws of one width for all pictures."""

    def transform(self, inpt, params):
        """As v2 calls it, for the picture and for the boxes."""
        height, width = v2.functional.get_size(inpt)
        left, top = (YOLO_SIZE - width) // 2, (YOLO_SIZE - height) // 2
        return v2.functional.pad(inpt, [left, top, YOLO_SIZE - width - left, YOLO_SIZE - height - top], fill=GREY)


def reference_recipe(script: str) -> v2.Compose:
    """torchvision's transforms from a Pillow image to a float tensor [3, H, W]."""
    to_float = v2.ToDtype(torch.float32, scale=True)
    end = [v2.ConvertBoundingBoxFormat("XYXY"), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()]
    if script == "fasterrcnn":
        return v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip(), to_float, *end])
    if script == "ssd":
        return v2.Compose([
            v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=SSD_FILL), v2.RandomIoUCrop(), v2.RandomHorizontalFlip(),
            v2.PILToTensor(), to_float, v2.Resize((SSD_SIZE, SSD_SIZE), antialias=False), *end])
    hyp = importlib.import_module("train_yolov3").HYP
    degrees, shift, scale, shear = (hyp[key] for key in ("degrees", "translate", "scale", "shear"))
    return v2.Compose([
        v2.PILToTensor(), v2.Resize(None, max_size=YOLO_SIZE), PadToSquare(),
        v2.RandomAffine(degrees, (shift, shift), (1 - scale, 1 + scale), (-shear, shear, -shear, shear),
                        interpolation=v2.InterpolationMode.BILINEAR, fill=GREY),
        v2.ColorJitter(brightness=hyp["hsv_v"], saturation=hyp["hsv_s"], hue=hyp["hsv_h"]),
        v2.RandomHorizontalFlip(), to_float, *end])


def reference_collate(samples: list[tuple]) -> tuple:
    """torchvision's: tuples of images and of targets, each tensor by itself."""
    return tuple(zip(*samples))


def reference_loader(script: str, boxes: dict[str, torch.Tensor], workers: int, batch_size: int) -> DataLoader:
    """torchvision's loader, but that its workers stay from epoch to epoch as ours do."""
    data = ReferenceData(boxes, reference_recipe(script))
    batches = BatchSampler(RandomSampler(data), batch_size, drop_last=True)
    return DataLoader(data, batch_sampler=batches, num_workers=workers, collate_fn=reference_collate,
                      persistent_workers=workers > 0)


def processor_seconds() -> float:
    """Processor time of this process and its workers so far; NaN where the system does not tell that of workers."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return math.nan
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system time
    return total


def run_epoch(loader: DataLoader) -> dict:
    """One epoch of a loader: images a second, processor milliseconds per image, and what an image is."""
    begin, processor, images = time.perf_counter(), processor_seconds(), 0
    for batch, _ in loader:
        images += len(batch)
    seconds, used = time.perf_counter() - begin, processor_seconds() - processor
    return {"rate": images / seconds, "processor_ms": 1000 * used / images,
            "image": f"{str(batch[0].dtype).removeprefix('torch.')} {'x'.join(map(str, batch[0].shape))}"}


def alternate(loaders: dict[str, DataLoader], rounds: int) -> dict[str, list[dict]]:
    """Epochs of the sides in turn, without the first of each."""
    results = {side: [] for side in loaders}
    for number in range(rounds + 1):
        for side, loader in loaders.items():
            if hasattr(loader.batch_sampler, "set_epoch"):
                loader.batch_sampler.set_epoch(number)
            results[side].append(run_epoch(loader))
    return {side: epochs[1:] for side, epochs in results.items()}


def compare(pipeline: str, root: Path, boxes: dict[str, torch.Tensor], workers: int, rounds: int) -> dict:
    """One row of the table."""
    if pipeline == "mosaic":
        loaders = {"ours": our_loader("yolov3", root, workers, ("--mosaic",))}
    else:
        ours = our_loader(pipeline, root, workers)
        loaders = {"ours": ours, "torchvision": reference_loader(pipeline, boxes, workers, ours.batch_sampler.batch_size)}
    row = {"pipeline": pipeline, "workers": workers, **alternate(loaders, rounds)}
    if "torchvision" in row:
        ours, theirs = medians(row["ours"]), medians(row["torchvision"])
        row["ratio"], row["processor_ratio"] = ours["rate"] / theirs["rate"], theirs["processor_ms"] / ours["processor_ms"]
        row["required"] = REQUIRED[pipeline]
    return row


def medians(epochs: list[dict]) -> dict[str, float]:
    """The medians of the numbers of several epochs."""
    return {key: statistics.median(epoch[key] for epoch in epochs) for key in ("rate", "processor_ms")}


def print_table(rows: Iterable[dict]) -> None:
    """A line per pipeline, number of workers and side."""
    print(f"{'pipeline':11s} {'workers':>7s}  {'side':12s} {'images/s: min':>13s} {'median':>7s} {'max':>7s} "
          f"{'processor ms':>13s} {'ratio':>6s} {'of processor':>13s} {'wanted':>7s}  an image")
    for row in rows:
        for side in ("ours", "torchvision"):
            if side in row:
                rates = [epoch["rate"] for epoch in row[side]]
                middle = medians(row[side])
                ratios = (f"{row['ratio']:6.2f} {row['processor_ratio']:13.2f} {row['required']:7.1f}"
                          if side == "ours" and "ratio" in row else " " * 28)
                print(f"{row['pipeline']:11s} {row['workers']:7d}  {side:12s} {min(rates):13.0f} {middle['rate']:7.0f} "
                      f"{max(rates):7.0f} {middle['processor_ms']:13.2f} {ratios}  {row[side][0]['image']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="folder of .jpg files instead of drawn ones")
    parser.add_argument("--images", type=int, default=192, help="pictures in an epoch")
    parser.add_argument("--pipelines", nargs="+", choices=[*REQUIRED, "mosaic"], default=[*REQUIRED, "mosaic"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="loader processes; 0: none")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each side, after one to warm up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.pictures and len(list(args.pictures.glob("*.jpg"))) < args.images:
        sys.exit(f"--pictures {args.pictures}: fewer than {args.images} .jpg files here (--images)")
    with tempfile.TemporaryDirectory() as folder:
        boxes = write_voc(Path(folder), args.images, args.pictures)
        kilobytes = sum(os.path.getsize(path) for path in boxes) / len(boxes) / 1000
        print(f"{len(boxes)} images, {kilobytes:.0f} kB on average; torch {torch.__version__}, "
              f"torchvision {torchvision.__version__}")
        rows = [compare(pipeline, Path(folder), boxes, workers, args.rounds)
                for pipeline in args.pipelines for workers in args.workers]
    print_table(rows)
    if args.json:
        versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "cores": os.cpu_count()}
        args.json.write_text(json.dumps({**versions, "kilobytes": kilobytes, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
