"""Small data sets of drawn shapes in the two layouts of jetson's tutorials, for tests that train on them."""

import csv
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.shapes import MARKER, SHAPE_CLASSES, draw_picture, make_shapes

# The columns that jetson's open_images_downloader.py writes into sub-<split>-annotations-bbox.csv.
SUB_COLUMNS = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax", "IsOccluded", "IsTruncated",
               "IsGroupOf", "IsDepiction", "IsInside", "id", "ClassName")


def make_jetson_voc(folder: Path, num_train: int = 12, num_test: int = 6, default_only: bool = False) -> Path:
    """A VOC folder with labels.txt (no BACKGROUND) and the splits trainval and test, or CVAT's default alone; returns it."""
    root = make_shapes(folder, num_train=num_train, num_val=num_test)
    (root / MARKER).unlink()  # so that the layout alone says what this is
    sets = root / "ImageSets" / "Main"
    (sets / "train.txt").rename(sets / "trainval.txt")
    (sets / "val.txt").rename(sets / "test.txt")
    if default_only:
        (sets / "default.txt").write_text("".join((sets / f"{name}.txt").read_text() for name in ("trainval", "test")))
        (sets / "trainval.txt").unlink()
        (sets / "test.txt").unlink()
    (root / "labels.txt").write_text("\n".join(SHAPE_CLASSES))
    return root


def make_open_images(folder: Path, num_train: int = 12, num_test: int = 6, classes: Sequence[str] = SHAPE_CLASSES) -> Path:
    """An Open Images folder as jetson's downloader leaves it: sub-*.csv, train, validation, test; returns it.

    validation has as many images as test; objects of shapes outside `classes` are drawn but not annotated.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "class-descriptions-boxable.csv", "w", newline="") as file:
        csv.writer(file).writerows((label_name(name), name) for name in SHAPE_CLASSES)
    for number, (split, count) in enumerate([("train", num_train), ("validation", num_test), ("test", num_test)]):
        (root / split).mkdir()
        with open(root / f"sub-{split}-annotations-bbox.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, SUB_COLUMNS, restval=0)
            writer.writeheader()
            for k in range(count):
                _write_picture(root / split, f"{16 * number + 160 * k:016x}", [number, k], classes, writer)
    return root


def label_name(class_name: str) -> str:
    """The /m/... name of a drawn shape."""
    return f"/m/0{class_name[:2]}{len(class_name)}"


def _write_picture(folder: Path, image_id: str, seed: list[int], classes: Sequence[str], writer: csv.DictWriter) -> None:
    pixels, objects = draw_picture(np.random.default_rng(seed), empty=False)
    height, width = pixels.shape[:2]
    Image.fromarray(pixels).save(folder / f"{image_id}.jpg", quality=92, subsampling=0)
    for label, (x1, y1, x2, y2), hidden in objects:
        name = SHAPE_CLASSES[label]
        if name in classes:
            writer.writerow({"ImageID": image_id, "Source": "xclick", "LabelName": label_name(name), "Confidence": 1,
                             "XMin": x1 / width, "XMax": x2 / width, "YMin": y1 / height, "YMax": y2 / height,
                             "IsOccluded": int(hidden), "id": label_name(name), "ClassName": name})


def remove_objects(root: Path, class_name: str, split: str) -> None:
    """Takes all objects of one class out of the annotations of a split of `make_jetson_voc`."""
    for stem in (root / "ImageSets" / "Main" / f"{split}.txt").read_text().split():
        path = root / "Annotations" / f"{stem}.xml"
        tree = ElementTree.parse(path)
        for item in tree.getroot().findall("object"):
            if item.findtext("name") == class_name:
                tree.getroot().remove(item)
        tree.write(path, encoding="utf-8")
