"""Small data sets of drawn shapes with YOLO's text labels, for tests that read them or train on them."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

GROUNDS = ((40, 60, 80), (90, 80, 60), (60, 90, 70))
COLOURS = {"circle": (230, 200, 40), "square": (60, 200, 230), "triangle": (230, 90, 200)}  # one per class: easy to learn
FOLDER_OF = {"train": "train", "valid": "val"}


def make_yolo(folder: Path, images: int = 8, size: tuple[int, int] = (96, 64), classes: tuple[str, ...] = ("circle", "square"),
              style: str = "data") -> Path:
    """Writes `images` training pictures and half as many for validation; returns the path that opens them.

    In images/train and images/val (every third a PNG, the others JPEG) stand one to three shapes without touching; labels lie in
    labels/. The last training picture is empty and has no label file.

    Args:
        size: (width, height), lying pictures; every other one is upright.
        classes: out of COLOURS.
        style: "data" (obj.data, obj.names and the lists train.txt, valid.txt), "yaml" (data.yaml) or "folder" (classes.txt).
    """
    folder = Path(folder)
    lists = {split: [_write(folder, split, k, size, classes, empty=split == "train" and k == images - 1) for k in range(count)]
             for split, count in (("train", images), ("valid", max(1, images // 2)))}
    names = "".join(f"{name}\n" for name in classes)
    if style == "folder":
        (folder / "classes.txt").write_text(names)
        return folder
    if style == "yaml":
        file = folder / "data.yaml"
        file.write_text(f"path: .\ntrain: images/train\nval: images/val\nnc: {len(classes)}\nnames: [{', '.join(classes)}]\n")
        return file
    for split, lines in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"./{line}\n" for line in lines))
    (folder / "obj.names").write_text(names)
    file = folder / "obj.data"
    file.write_text(f"classes = {len(classes)}\ntrain = train.txt\nvalid = valid.txt\nnames = obj.names\nbackup = backup/\n")
    return file


def _write(folder: Path, split: str, number: int, size: tuple[int, int], classes: tuple[str, ...], empty: bool) -> str:
    """One picture and its label file; returns the picture's path below the folder."""
    rng = random.Random(f"{split} {number}")
    width, height = size if number % 2 == 0 else size[::-1]
    picture = Image.new("RGB", (width, height), rng.choice(GROUNDS))
    lines = []
    for k in range(0 if empty else rng.randint(1, 3)):
        index = (number + k) % len(classes)
        box = _place(rng, k, width, height)
        _draw(ImageDraw.Draw(picture), classes[index], box)
        x1, y1, x2, y2 = box
        lines.append(f"{index} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} "
                     f"{(y2 - y1) / height:.6f}\n")
    path = f"images/{FOLDER_OF[split]}/{split}_{number:03d}.{'png' if number % 3 == 2 else 'jpg'}"
    for place in (folder / path, folder / path.replace("images", "labels")):
        place.parent.mkdir(parents=True, exist_ok=True)
    picture.save(folder / path)
    if not empty:
        (folder / path.replace("images", "labels")).with_suffix(".txt").write_text("".join(lines))
    return path


def _place(rng: random.Random, number: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels of a square in the given third of the picture's longer side."""
    third = max(width, height) // 3
    side = rng.randint(round(0.6 * min(third, width, height)), min(third, width, height) - 2)
    along, across = number * third + rng.randint(1, third - side - 1), rng.randint(1, min(width, height) - side - 1)
    x, y = (along, across) if width >= height else (across, along)
    return x, y, x + side, y + side


def _draw(canvas: ImageDraw.ImageDraw, name: str, box: tuple[int, int, int, int]) -> None:
    x1, y1, x2, y2 = box
    inside = (x1, y1, x2 - 1, y2 - 1)  # Pillow's last pixel belongs to the shape
    if name == "circle":
        canvas.ellipse(inside, fill=COLOURS[name])
    elif name == "square":
        canvas.rectangle(inside, fill=COLOURS[name])
    else:
        canvas.polygon([((x1 + x2) / 2, y1), (x1, y2 - 1), (x2 - 1, y2 - 1)], fill=COLOURS[name])
