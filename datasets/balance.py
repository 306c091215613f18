"""A balanced choice of images, where some classes are in nearly all pictures and others in a few.

Of every class as many images are drawn as the rarest class has. An image that is drawn for one class may hold others too,
so frequent companions stay more frequent; nothing is weighted or repeated.
"""

import numpy as np
from torch.utils.data import Dataset, Subset

from datasets.samples import TrainingSamples


def balance(data: Dataset | dict, seed: int) -> list[int]:
    """Indices of the images chosen, ascending; they depend on the ground truth and the seed only.

    m images are drawn of each class, m being the number of images of the rarest one, and the choices are united. Classes
    without an object are no matter; with fewer than two classes there is nothing to balance, and all images stay. Otherwise
    images without objects are left out: no class asks for them, and all of them might outweigh the rest. Crowd regions do not
    count.

    Args:
        data: a data set with `ground_truth()`, a `Subset` of one, or the ground truth itself.
        seed: not negative.
    """
    truth = _ground_truth(data)
    groups = _images_by_class(truth)
    present = {label: images for label, images in groups.items() if len(images)}
    if len(present) < 2:
        return list(range(truth["num_images"]))
    rarest = min(map(len, present.values()))
    chosen = [np.random.default_rng([seed, label]).choice(images, rarest, replace=False) for label, images in present.items()]
    return np.unique(np.concatenate(chosen)).tolist()


def balanced_subset(dataset: Dataset, seed: int) -> tuple[Subset, list[str]]:
    """The balanced part of a data set, and lines that say what became of each class."""
    truth = _ground_truth(dataset)
    chosen = balance(truth, seed)
    before = _images_by_class(truth)
    lines = [f"balanced: {len(chosen)} of {truth['num_images']} images"]
    if sum(len(images) > 0 for images in before.values()) < 2:
        lines = ["balanced: all images stay, since fewer than two classes have objects"]
    elif without := truth["num_images"] - len(np.unique(np.concatenate([*before.values()]))):
        lines[0] += f" ({without} without objects left out)"
    for images, name in zip(before.values(), truth["class_names"]):
        kept = int(np.isin(images, chosen).sum())
        lines.append(f"  {name}: {len(images)} -> {kept} images" if len(images) else f"  {name}: no object here, not counted")
    return Subset(dataset, chosen), lines


def _ground_truth(data: Dataset | dict) -> dict:
    return data if isinstance(data, dict) else TrainingSamples(data).ground_truth()


def _images_by_class(truth: dict) -> dict[int, np.ndarray]:
    """Label -> ascending indices of the images with an object of it."""
    counted = ~truth["iscrowd"]
    labels, images = truth["labels"][counted], truth["image_index"][counted]
    return {label: np.unique(images[labels == label]) for label in range(1, len(truth["class_names"]) + 1)}
