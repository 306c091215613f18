"""What samplers and evaluation need of a data set, also of one that has nothing but samples: a `Subset`, a list, somebody's own.

A sample is (image [3, H, W], target) with `boxes` [M, 4] xyxy pixels, `labels` [M] in 1..C and `image_id` in the target. A data
set that also has `get_height_and_width(index)`, `image_path(index)`, `class_names` or `ground_truth()` is asked for these; for
others the samples are read, which takes as long as decoding them.
"""

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset, Subset

PER_IMAGE = ("heights", "widths", "source_image_ids")  # keys of a ground truth
PER_OBJECT = ("boxes", "labels", "area", "iscrowd", "difficult")


def height_and_width(dataset: Dataset | Sequence, index: int) -> tuple[int, int]:
    """(height, width) of an image."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, dataset.indices[index]
    if hasattr(dataset, "get_height_and_width"):
        return dataset.get_height_and_width(index)
    return tuple(dataset[index][0].shape[-2:])


def image_path(dataset: Dataset | Sequence, index: int) -> str:
    """The path of an image, for messages; "image 7" where the data set knows no paths."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, dataset.indices[index]
    return dataset.image_path(index) if hasattr(dataset, "image_path") else f"image {index}"


def class_names_of(dataset: Dataset | Sequence, num_classes: int) -> list[str]:
    """Names without background; the numbers "1".. where nobody knows any."""
    base, _ = _unwrap(dataset)
    return list(getattr(base, "class_names", None) or map(str, range(1, num_classes + 1)))


def ground_truth_of(dataset: Dataset | Sequence) -> dict:
    """Arrays as of `ground_truth()`, for the scorers; of a `Subset` those of its images, in its order.

    Of a data set without that method they are made of the targets: `source_image_ids` are their `image_id`, and `iscrowd`,
    `difficult` and `area` count where they are there.
    """
    base, indices = _unwrap(dataset)
    if not has_annotations(dataset):
        return _from_targets(dataset)
    truth = base.ground_truth()
    return truth if base is dataset else _select_images(truth, indices)


def indices_of(dataset: Dataset | Sequence, image_ids: np.ndarray, ground_truth: dict) -> np.ndarray:
    """The index of every image of `image_ids` [K], which are indices already where the data set has the whole contract.

    Raises:
        ValueError: two images have the same `image_id`.
    """
    base, indices = _unwrap(dataset)
    if base is dataset and _has_ground_truth(base):
        return image_ids
    known = indices if _has_ground_truth(base) else ground_truth["source_image_ids"]  # a part has the ids of the whole
    order = np.argsort(known, kind="stable")
    if (np.diff(known[order]) == 0).any():
        raise ValueError("two images have the same target['image_id']: detections cannot be told apart; number the images")
    return order[np.searchsorted(known, image_ids, sorter=order)]


def _unwrap(dataset: Dataset | Sequence) -> tuple[Dataset | Sequence, np.ndarray]:
    """The data set below all `Subset`s, and its index of every image, int64 [n]."""
    parts = []
    while isinstance(dataset, Subset):
        parts.append(np.asarray(dataset.indices, dtype=np.int64))
        dataset = dataset.dataset
    indices = np.arange(len(dataset))
    for part in reversed(parts):
        indices = indices[part]  # negative ones count from the end, as a `Subset` takes them
    return dataset, indices


def has_annotations(dataset: Dataset | Sequence) -> bool:
    """Whether the ground truth can be had without reading the images."""
    base, _ = _unwrap(dataset)
    return _has_ground_truth(base)


def _has_ground_truth(dataset: Dataset | Sequence) -> bool:
    return getattr(dataset, "has_ground_truth", hasattr(dataset, "ground_truth"))  # wrappers know whether what they wrap has it


def _select_images(truth: dict, images: np.ndarray) -> dict:
    """Ground truth of some images [n] in the given order, renumbered from 0."""
    by_image = np.argsort(truth["image_index"], kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(truth["image_index"], minlength=truth["num_images"]))])
    rows = [by_image[ends[image] : ends[image + 1]] for image in images]
    order = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    return {
        **truth, **{key: truth[key][images] for key in PER_IMAGE}, **{key: truth[key][order] for key in PER_OBJECT},
        "num_images": len(images), "image_index": np.repeat(np.arange(len(images)), [len(own) for own in rows]),
    }


def _from_targets(dataset: Dataset | Sequence) -> dict:
    """The ground truth that the targets of all samples say."""
    sizes, targets = [], []
    for index in range(len(dataset)):
        image, target = dataset[index]
        sizes.append(tuple(image.shape[-2:]))
        targets.append(target)
    counts = [len(target["labels"]) for target in targets]
    boxes = _joined(targets, "boxes", np.float64, counts).reshape(-1, 4)
    labels = _joined(targets, "labels", np.int64, counts)
    names = class_names_of(dataset, int(labels.max(initial=1)))
    heights, widths = np.array(sizes, dtype=np.int32).reshape(-1, 2).T
    box_area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    has_area = all("area" in target for target in targets)
    return {
        "num_images": len(targets), "heights": heights, "widths": widths, "boxes": boxes, "labels": labels,
        "image_index": np.repeat(np.arange(len(targets)), counts),
        "area": _joined(targets, "area", np.float64, counts) if has_area else box_area,
        "iscrowd": _joined(targets, "iscrowd", bool, counts), "difficult": _joined(targets, "difficult", bool, counts),
        "source_image_ids": np.array([int(target["image_id"]) for target in targets], dtype=np.int64),
        "class_names": names, "category_ids": np.arange(1, len(names) + 1),
    }


def _joined(targets: Sequence[dict], key: str, dtype: type, counts: Sequence[int]) -> np.ndarray:
    """A field of all objects one after the other; zeros where a target lacks it."""
    parts = [np.asarray(target[key], dtype=dtype).reshape(count, -1) if key in target else np.zeros((count, 1), dtype=dtype)
             for target, count in zip(targets, counts) if count]
    joined = np.concatenate(parts) if parts else np.zeros((0, 1), dtype=dtype)
    return joined if key == "boxes" else joined[:, 0]
