"""Drawn shapes on textured grounds, written to disk as a VOC folder: data for a first run, with nothing to download.

Pictures of several sizes, both upright and lying, hold one to eight circles, squares, triangles and stars of random
colour, size and tilt, some hiding parts of others; a few pictures hold nothing. A box encloses the visible part of
its object. Every picture depends only on the seed, the split and its number.

    python -m datasets.shapes data/shapes --num-train 320 --num-val 64
"""

import argparse
import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from datasets.errors import InputError

SHAPE_CLASSES = ("circle", "square", "triangle", "star")
IMAGE_SIZES = ((320, 240), (240, 320), (320, 320), (288, 216), (216, 288), (240, 180), (180, 240))  # width, height
MARKER = "shapes.json"  # written last; says how the folder was made
FORMAT = 1  # to be raised when the drawing changes, so that older folders are not taken for new ones
MAX_OBJECTS = 8
EMPTY_FRACTION = 0.04
MIN_SIDE, MAX_SIDE = 0.08, 0.60  # sides of a box, as fractions of the sides of the image
MAX_TILT = math.radians(20)  # objects stand roughly upright, as most things in photographs do
MIN_VISIBLE = 0.75  # no object loses more than a quarter of its area to those drawn over it
MIN_CONTRAST = 110  # RGB distance of an object's colour from the ground's mean colour
MIN_COLOUR_GAP = 60  # RGB distance between the colours of two objects
SUPERSAMPLING = 4
INSIDE = 0.25  # a pixel belongs to an object when at least this part of it is covered


class DrawnObject(NamedTuple):
    """label: index into SHAPE_CLASSES; coverage: float32 [H, W] in 0..1, hidden parts included; colour: RGB 0..255."""

    label: int
    coverage: np.ndarray
    colour: np.ndarray


def make_shapes(root: str | os.PathLike, seed: int = 0, num_train: int = 320, num_val: int = 64) -> Path:
    """Writes the data set (Annotations, ImageSets/Main, JPEGImages) unless it is there; returns `root`.

    The folder appears at once and complete, also when several processes ask for it at the same time.

    Raises:
        InputError: `root` holds something else, or shapes made with other numbers.
    """
    root = Path(root)
    recipe = {"format": FORMAT, "seed": seed, "num_train": num_train, "num_val": num_val}
    if not _is_free(root, recipe):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (temporary / folder).mkdir(parents=True)
        for split, count in (("train", num_train), ("val", num_val)):
            _write_split(temporary, split, count, seed)
        (temporary / MARKER).write_text(json.dumps(recipe) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes folders that only their owner may read
        if root.is_dir() and not os.listdir(root):
            root.rmdir()
        temporary.rename(root)
    except OSError:
        if _is_free(root, recipe):  # else another process was faster, with the same result
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already if all went well
    return root


def is_shapes_folder(root: str | os.PathLike) -> bool:
    """Whether `root` holds a complete set, made with whatever numbers."""
    return Path(root, MARKER).is_file()


def draw_picture(rng: np.random.Generator, empty: bool) -> tuple[np.ndarray, list[tuple[int, list[int], bool]]]:
    """One picture.

    Returns:
        pixels: uint8 [H, W, 3] RGB.
        objects: (label from 0, box [x1, y1, x2, y2] in whole pixels, whether partly hidden).
    """
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    pixels = _ground(rng, width, height)  # float32 [H, W, 3]
    mean_colour = pixels.mean(axis=(0, 1))
    drawn: list[DrawnObject] = []
    for _ in range(0 if empty else int(rng.integers(1, MAX_OBJECTS + 1))):
        colour = _object_colour(rng, mean_colour, [item.colour for item in drawn])
        drawn = _try_to_add(rng, drawn, colour, width, height)
    objects = []
    for item, visible in zip(drawn, _visible(drawn)):
        shade = rng.uniform(-12, 12) * np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
        pixels += item.coverage[..., None] * (item.colour + shade - pixels)
        hidden = bool(visible.sum() < 0.99 * item.coverage.sum())
        objects.append((item.label, _tight_box(visible), hidden))
    pixels += rng.normal(0, 5, pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), objects


def _is_free(root: Path, recipe: dict) -> bool:
    """True: to be made; False: there already. Anything else in the place is an error."""
    if not root.exists() or (root.is_dir() and not os.listdir(root)):
        return True
    if not is_shapes_folder(root):
        raise InputError(f"{root} exists and is not a set of drawn shapes; choose another folder for it")
    found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    if found != recipe:
        raise InputError(f"{root} holds shapes made with {found}, not {recipe}; choose another folder or delete it")
    return False


def _write_split(root: Path, split: str, count: int, seed: int) -> None:
    split_number = ("train", "val").index(split)
    num_empty = math.ceil(count * EMPTY_FRACTION) if count >= 10 else 0
    empty = set(np.random.default_rng([seed, split_number]).permutation(count)[:num_empty].tolist())
    stems = [f"{split}_{k:05d}" for k in range(count)]
    for k, stem in enumerate(stems):
        pixels, objects = draw_picture(np.random.default_rng([seed, split_number, k]), empty=k in empty)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{stem}.jpg", quality=92, subsampling=0)
        (root / "Annotations" / f"{stem}.xml").write_text(_xml(stem, pixels.shape, objects), encoding="utf-8")
    lines = "".join(f"{stem}\n" for stem in stems)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(lines, encoding="utf-8")


def _xml(stem: str, shape: tuple[int, int, int], objects: list[tuple[int, list[int], bool]]) -> str:
    height, width, depth = shape
    lines = ["<annotation>", f"  <filename>{stem}.jpg</filename>",
             f"  <size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>"]
    for label, (x1, y1, x2, y2), hidden in objects:
        lines += ["  <object>", f"    <name>{SHAPE_CLASSES[label]}</name>", "    <truncated>0</truncated>",
                  f"    <occluded>{int(hidden)}</occluded>", "    <difficult>0</difficult>",
                  f"    <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
                  "  </object>"]
    return "\n".join([*lines, "</annotation>", ""])


def _ground(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A muted colour with soft blotches of two sizes and, in half of the pictures, stripes; float32 [H, W, 3]."""
    ground = np.empty((height, width, 3), dtype=np.float32)
    ground[:] = rng.uniform(60, 195) + rng.uniform(-30, 30, 3)
    for cells, strength in ((4, 14), (16, 8)):
        noise = rng.normal(0, strength, (3, cells, cells)).astype(np.float32)
        layers = [np.asarray(Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC))
                  for layer in noise]
        ground += np.stack(layers, axis=-1)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, math.pi), rng.uniform(6, 40)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        wave = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period))
        ground += wave[..., None] * rng.uniform(-14, 14, 3).astype(np.float32)
    return ground


def _object_colour(rng: np.random.Generator, ground: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """An RGB colour well apart from the ground and, where possible, from the other objects' colours."""
    candidates = rng.uniform(0, 255, (200, 3))
    candidates = candidates[np.linalg.norm(candidates - ground, axis=1) >= MIN_CONTRAST]
    gaps = np.array([np.linalg.norm(candidates - other, axis=1) for other in others] or [np.full(len(candidates), 999)])
    nearest = gaps.min(axis=0)
    return candidates[np.argmax(nearest >= MIN_COLOUR_GAP) if nearest.max() >= MIN_COLOUR_GAP else nearest.argmax()]


def _try_to_add(rng: np.random.Generator, drawn: list[DrawnObject], colour: np.ndarray, width: int,
                height: int) -> list[DrawnObject]:
    """The list with one object more on top, or as it was if no place is found where all stay visible enough."""
    short_side = min(width, height)
    for _ in range(30):
        label = int(rng.integers(len(SHAPE_CLASSES)))
        radius = short_side * rng.uniform(0.06, 0.32)
        centre = (rng.uniform(0, width), rng.uniform(0, height))
        coverage = _coverage(label, centre, radius, rng.uniform(-MAX_TILT, MAX_TILT), width, height)
        if coverage is None:
            continue
        tried = [*drawn, DrawnObject(label, coverage, colour)]
        if all(_is_good(item.coverage, visible) for item, visible in zip(tried, _visible(tried))):
            return tried
    return drawn


def _is_good(coverage: np.ndarray, visible: np.ndarray) -> bool:
    height, width = coverage.shape
    if visible.sum() < MIN_VISIBLE * coverage.sum():
        return False
    x1, y1, x2, y2 = _tight_box(visible)
    return (MIN_SIDE <= (x2 - x1) / width <= MAX_SIDE) and (MIN_SIDE <= (y2 - y1) / height <= MAX_SIDE)


def _coverage(label: int, centre: tuple[float, float], radius: float, angle: float, width: int,
              height: int) -> np.ndarray | None:
    """How much of each pixel a shape covers, float32 [H, W] in 0..1; None if it does not lie within the picture."""
    scale = SUPERSAMPLING
    reach = math.ceil(radius) + 2
    left, top = math.floor(centre[0]) - reach, math.floor(centre[1]) - reach
    side = 2 * reach + 1
    x, y = (centre[0] - left) * scale, (centre[1] - top) * scale
    patch = Image.new("L", (side * scale, side * scale))
    if SHAPE_CLASSES[label] == "circle":
        r = radius * scale
        ImageDraw.Draw(patch).ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        corners = [(x + r * radius * scale * math.cos(a + angle), y + r * radius * scale * math.sin(a + angle))
                   for r, a in _corners(SHAPE_CLASSES[label])]
        ImageDraw.Draw(patch).polygon(corners, fill=255)
    patch = np.asarray(patch.reduce(scale), dtype=np.float32) / 255
    x1, y1, x2, y2 = _tight_box(patch, threshold=0)
    if left + x1 < 0 or top + y1 < 0 or left + x2 > width or top + y2 > height:
        return None
    coverage = np.zeros((height, width), dtype=np.float32)
    coverage[top + y1 : top + y2, left + x1 : left + x2] = patch[y1:y2, x1:x2]
    return coverage


def _corners(name: str) -> list[tuple[float, float]]:
    """Corners as (distance from the centre, angle) of the upright shape, for an enclosing circle of radius 1."""
    if name == "star":
        return [(1.0 if k % 2 == 0 else 0.42, k * math.pi / 5 - math.pi / 2) for k in range(10)]
    count, first = {"triangle": (3, -math.pi / 2), "square": (4, math.pi / 4)}[name]
    return [(1.0, first + k * 2 * math.pi / count) for k in range(count)]


def _visible(drawn: list[DrawnObject]) -> list[np.ndarray]:
    """What later objects leave of each object's coverage."""
    visible, free = [], np.float32(1)
    for item in reversed(drawn):
        visible.append(item.coverage * free)
        free = free * (1 - item.coverage)
    return visible[::-1]


def _tight_box(coverage: np.ndarray, threshold: float = INSIDE) -> list[int]:
    """Smallest box of whole pixels around all pixels covered by more than `threshold`."""
    mask = coverage > threshold
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def main(arguments: list[str] | None = None) -> None:
    """The command line at the head of this file."""
    parser = argparse.ArgumentParser(description="write a data set of drawn shapes in VOC layout", allow_abbrev=False)
    parser.add_argument("root", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other pictures")
    parser.add_argument("--num-train", type=int, default=320, help="training images")
    parser.add_argument("--num-val", type=int, default=64, help="validation images")
    args = parser.parse_args(arguments)
    root = make_shapes(args.root, args.seed, args.num_train, args.num_val)
    print(f"{args.num_train} + {args.num_val} images in {root}")


if __name__ == "__main__":
    main()
