"""The numbers of a data set, from its ground truth alone: classes, sizes of images and boxes, anchors.

Shapes: n images, K objects, C classes, A anchors. All functions take the dict of `DetectionDataset.ground_truth`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from datasets.annotations import WARN, Fault
from datasets.kmeans_anchors import anchor_recall, box_sizes, kmeans_anchors

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent
MOST_FREQUENT = 5  # sizes of images that are listed


class ClassRow(NamedTuple):
    """A class in numbers.

    label: 1..C; images: that hold a box of it; boxes: all but crowd regions, difficult ones included; share: of all boxes, 0..1;
    smallest, median, largest: of all sides, widths and heights together, in pixels, 0 without boxes; difficult, crowd: objects.
    """

    label: int
    name: str
    images: int
    boxes: int
    share: float
    smallest: float
    median: float
    largest: float
    difficult: int
    crowd: int


def class_table(truth: dict) -> list[ClassRow]:
    """A row for each class, in the order of the labels, those without a box included."""
    names, count = truth["class_names"], len(truth["class_names"]) + 1
    kept = ~truth["iscrowd"]
    labels = truth["labels"][kept]
    sides = truth["boxes"][kept, 2:] - truth["boxes"][kept, :2]  # [K, 2]
    boxes = np.bincount(labels, minlength=count)
    crowd = np.bincount(truth["labels"][~kept], minlength=count)
    difficult = np.bincount(labels[truth["difficult"][kept]], minlength=count)
    pairs = np.unique(labels * truth["num_images"] + truth["image_index"][kept])  # every label once for each image
    images = np.bincount(pairs // truth["num_images"], minlength=count)
    # Side by side what belongs together: [K, 2] -> one [., 2] for each label.
    by_label = np.split(sides[np.argsort(labels, kind="stable")], np.cumsum(boxes)[:-1])
    rows = []
    for label, name in enumerate(names, start=1):
        own = by_label[label]
        smallest, median, largest = (own.min(), np.median(own), own.max()) if len(own) else (0, 0, 0)
        rows.append(ClassRow(label, name, int(images[label]), int(boxes[label]), float(boxes[label] / max(1, len(labels))),
                             float(smallest), float(median), float(largest), int(difficult[label]), int(crowd[label])))
    return rows


class SplitCounts(NamedTuple):
    """images, and those without a box to train on; boxes: all but crowd regions; difficult: those among them; crowd: regions."""

    images: int
    without_objects: int
    boxes: int
    difficult: int
    crowd: int


def count_split(truth: dict) -> SplitCounts:
    """How much of everything there is."""
    kept = ~truth["iscrowd"]
    with_objects = len(np.unique(truth["image_index"][kept]))
    return SplitCounts(truth["num_images"], truth["num_images"] - with_objects, int(kept.sum()),
                       int((truth["difficult"] & kept).sum()), int((~kept).sum()))


class ImageSizes(NamedTuple):
    """As annotated. `QUANTILES` of widths, heights and aspect_ratios (width / height); most_frequent: (width, height, images)."""

    widths: list[float]
    heights: list[float]
    aspect_ratios: list[float]
    most_frequent: list[tuple[int, int, int]]


def image_sizes(truth: dict) -> ImageSizes:
    """How large the images are, and of which shape."""
    widths, heights = truth["widths"], truth["heights"]
    sizes, counts = np.unique(np.stack([widths, heights]), axis=1, return_counts=True)  # [2, .], [.]
    order = np.argsort(-counts, kind="stable")[:MOST_FREQUENT]
    frequent = [(int(sizes[0, k]), int(sizes[1, k]), int(counts[k])) for k in order]
    quantiles = [np.percentile(values, QUANTILES).tolist() for values in (widths, heights, widths / heights)]
    return ImageSizes(*quantiles, frequent)


class Anchors(NamedTuple):
    """anchors: (width, height) in pixels of the network's input, smallest area first; recall, mean_iou: see `anchor_recall`."""

    img_size: int
    anchors: list[tuple[float, float]]
    recall: float
    mean_iou: float


def fit_anchors(truth: dict, img_size: int, count: int) -> Anchors:
    """k-means anchors of the boxes, as they are in letterboxed images of a side of `img_size`.

    Raises:
        InputError: no box has 2 pixels or more there.
    """
    sizes = box_sizes(truth, img_size)
    anchors = kmeans_anchors(sizes, count)
    return Anchors(img_size, [(float(w), float(h)) for w, h in anchors], *anchor_recall(sizes, anchors))


def class_faults(tables: Mapping[str, list[ClassRow]], training: str, file: str) -> list[Fault]:
    """Classes that nothing can be learnt of.

    Args:
        tables: name of a split -> its classes, the same ones in the same order in each.
        training: the name of the split to train on.
        file: what to name as the place.
    """
    faults = []
    others = {name: table for name, table in tables.items() if name != training}
    for k, row in enumerate(tables[training]):
        if row.boxes:
            continue
        scored = [f"{table[k].boxes} in {name}" for name, table in others.items() if table[k].boxes]
        if scored:
            detail = f"there is no box of it in {training}, but {', '.join(scored)}; it cannot be found: divide the data anew"
            faults.append(Fault(file, f"class {row.name!r}", f"class not in {training}", detail, WARN))
        else:
            detail = "the class list has it, but there is no box of it; it cannot be learnt: add some, or leave it out"
            faults.append(Fault(file, f"class {row.name!r}", "class without a box", detail, WARN))
    return faults
