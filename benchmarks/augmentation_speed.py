"""Images a second from one worker on one core: JPEG file -> SSD recipe -> uint8 300x300, ours beside torchvision's.

    python benchmarks/augmentation_speed.py                       drawn pictures of 500x375, JPEG quality 90
    python benchmarks/augmentation_speed.py --images VOC2012/JPEGImages --size 512

YOLO's warp and its mosaic, which reads four files for one image, have no counterpart there and stand beside for their
own sake (`--size 416`).

Both sides run in one process on one thread, round by round in turn, over the same files and three boxes an image.
Seconds are CPU seconds, so other work on the machine disturbs little; the median of the rounds counts. torchvision's
side is its own recipe for SSD (photometric distortion, zoom-out, IoU crop, flip) and the resize to the network's
square, fed by its own decoder.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torchvision import tv_tensors  # noqa: E402
from torchvision.io import ImageReadMode, decode_image  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from datasets.image_io import image_size, read_image  # noqa: E402
from datasets.mosaic import Mosaic  # noqa: E402
from datasets.samples import sample_generator  # noqa: E402
from datasets.ssd_augmentation import RECIPES  # noqa: E402
from datasets.yolo_augmentation import yolo_recipe  # noqa: E402
from network_files.boxes import area  # noqa: E402

MEAN = (0.48235, 0.45882, 0.40784)
YOLO_HYP = {"degrees": 5, "translate": 0.1, "scale": 0.1, "shear": 2, "hsv_h": 0.0138, "hsv_s": 0.678, "hsv_v": 0.36}


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """Pictures of 500x375 with structure of all scales: as slow to decode as photographs (about 90 kB)."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        pixels = np.full((375, 500, 3), 128.0)
        for side in (4, 16, 64, 250):
            grid = random.normal(128, 60, (side * 3 // 4, side, 3)).clip(0, 255).astype(np.uint8)
            pixels += (np.asarray(Image.fromarray(grid).resize((500, 375), Image.Resampling.BICUBIC)) - 128.0) * side**-0.2
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def draw_target(path: Path, index: int) -> dict:
    """Three boxes anywhere in the picture."""
    height, width = image_size(path)
    numbers = torch.rand(2, 3, 2, generator=sample_generator(0, 0, index))
    size = 0.1 + 0.5 * numbers[0]
    corners = torch.cat([numbers[1] * (1 - size), numbers[1] * (1 - size) + size], dim=1)
    boxes = corners * torch.tensor([width, height, width, height])
    return {"boxes": boxes, "labels": torch.tensor([1, 2, 3]), "area": area(boxes), "iscrowd": torch.zeros(3, dtype=torch.int64)}


def our_samples(recipe: str, size: int) -> Callable:
    """`sample(path, target, round, index)` with one of our recipes."""
    transform = RECIPES[recipe](size, MEAN, 0.5)
    return lambda path, target, number, index: transform(read_image(path), target, sample_generator(number, 0, index))


def yolo_samples(size: int) -> Callable:
    """The same with YOLO's recipe."""
    transform = yolo_recipe(size, YOLO_HYP)
    return lambda path, target, number, index: transform(read_image(path), target, sample_generator(number, 0, index))


def mosaic_samples(size: int, paths: list[Path]) -> Callable:
    """The same with mosaics of the files `paths`."""
    samples = Mosaic(_Files(paths), size, YOLO_HYP)
    return lambda path, target, number, index: samples[(number, index)]


class _Files:
    """The files as a data set."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.targets = [draw_target(path, index) for index, path in enumerate(paths)]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict]:
        return read_image(self.paths[index]), self.targets[index]


def torchvision_samples(size: int) -> Callable:
    """The same with torchvision's recipe."""
    transform = v2.Compose([
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill=[round(255 * value) for value in MEAN]),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(),
        v2.Resize((size, size), antialias=False),
    ])

    def sample(path, target, number, index):
        torch.manual_seed(1000 * number + index)
        image = tv_tensors.Image(decode_image(str(path), ImageReadMode.RGB))
        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[1:])
        return transform(image, {"boxes": boxes, "labels": target["labels"]})

    return sample


def measure(sides: dict[str, Callable], paths: list[Path], rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds per image of each round; the sides take turns, so that both meet the same disturbances."""
    targets = [draw_target(path, index) for index, path in enumerate(paths)]
    times = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, sample in sides.items():
            start = time.process_time()
            for index, (path, target) in enumerate(zip(paths, targets)):
                sample(path, target, number, index)
            times[name].append(1000 * (time.process_time() - start) / len(paths))
    return {name: values[1:] for name, values in times.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEG files instead of drawn ones (the first 60 are used)")
    parser.add_argument("--size", type=int, default=300, help="sides of the network's input in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions over all images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(args.images.glob("*.jpg"))[:60] if args.images else draw_pictures(Path(folder), 40)
        if not paths:
            sys.exit(f"--images {args.images}: no .jpg files here")
        print(f"{len(paths)} images, {sum(path.stat().st_size for path in paths) / len(paths) / 1000:.0f} kB on average")
        sides = {f"ours, {name}": our_samples(name, args.size) for name in RECIPES}
        sides |= {"ours, yolo": yolo_samples(args.size), "ours, yolo mosaic": mosaic_samples(args.size, paths)}
        times = measure(sides | {"torchvision, ssd": torchvision_samples(args.size)}, paths, args.rounds)
    reference = statistics.median(times["torchvision, ssd"])
    print(f"{'recipe':18s} {'ms median':>9s} {'ms min':>7s} {'images/s':>9s} {'x torchvision':>14s}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:18s} {median:9.2f} {min(values):7.2f} {1000 / median:9.0f} {reference / median:14.1f}")


if __name__ == "__main__":
    main()
