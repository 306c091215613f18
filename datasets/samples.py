"""Augmented samples that depend on (seed, epoch, index) only: not on workers, processes, restarts or order."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from torch import Generator, Tensor
from torch.utils.data import Dataset, Subset

from datasets.image_io import UnreadableImage

MAX_SUBSTITUTES = 20  # so many unreadable images in a row mean that something larger is wrong


def sample_generator(seed: int, epoch: int, index: int) -> Generator:
    """A generator whose stream is set by the three numbers; neighbours have unrelated streams."""
    mixed = np.random.SeedSequence([seed, epoch, index]).generate_state(1, np.uint32)
    return Generator().manual_seed(int(mixed[0]))


class TrainingSamples(Dataset):
    """A data set with augmentation and a substitute for every image that cannot be read.

    `samples[(epoch, index)]`, or `samples[index]` for epoch 0, is `(image, target)` of the data set after `transform`.
    `target["image_id"]` is the index of the image returned. In place of an unreadable image comes another, chosen from
    the index; only then the target has `unreadable`, the path (evaluation must leave such samples out).

    Args:
        dataset: anything with the contract of `DetectionDataset`, a `Subset` of it, or a list of (image, target).
        transform: optional `(image, target, generator) -> (image, target)`, see transforms.py.
        seed: not negative.
    """

    def __init__(self, dataset: Dataset | Sequence, transform: Callable | None = None, seed: int = 0):
        self.dataset = dataset
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, dict]:
        """One sample.

        Raises:
            UnreadableImage: the image and all its substitutes cannot be read.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image, target = self._read(index)
        if self.transform is not None:
            image, target = self.transform(image, target, sample_generator(self.seed, epoch, index))
        return image, target

    def _read(self, index: int) -> tuple[Tensor, dict]:
        try:
            image, target = self.dataset[index]
            return image, _complete(target, index)
        except UnreadableImage as error:
            last_error = error
        substitutes = self._substitutes(index)
        for substitute in substitutes:
            try:
                image, target = self.dataset[substitute]
            except UnreadableImage as error:
                last_error = error
                continue
            return image, {**_complete(target, substitute), "unreadable": self.image_path(index)}
        raise UnreadableImage(f"{last_error}; {1 + len(substitutes)} images in a row cannot be read") from last_error

    def _substitutes(self, index: int) -> list[int]:
        """Other indices in an order set by `index` alone."""
        order = np.random.default_rng([index]).permutation(min(len(self), 4 * MAX_SUBSTITUTES))
        shifted = (order + index) % len(self)
        return [int(other) for other in shifted if other != index][:MAX_SUBSTITUTES]

    @cached_property
    def class_names(self) -> list[str]:
        """As of the data set; where it has no names, "1", "2", ... up to the largest label: all samples are read for it."""
        names = getattr(_base(self.dataset), "class_names", None)
        if names is not None:
            return names
        labels = [int(label) for index in range(len(self)) for label in self.dataset[index][1]["labels"]]
        return [str(label) for label in range(1, max(labels, default=1) + 1)]

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """(height, width), from the annotations where there are any, else from the image."""
        dataset, index = _unwrap(self.dataset, index)
        if hasattr(dataset, "get_height_and_width"):
            return dataset.get_height_and_width(index)
        return tuple(dataset[index][0].shape[-2:])

    def image_path(self, index: int) -> str:
        """Path of the image for messages; "sample 7" where the data set knows no paths."""
        dataset, index = _unwrap(self.dataset, index)
        return dataset.image_path(index) if hasattr(dataset, "image_path") else f"sample {index}"

    @property
    def has_ground_truth(self) -> bool:
        """Whether `ground_truth` can be asked for; a list of samples, for instance, has none of its own."""
        return hasattr(_base(self.dataset), "ground_truth")

    @property
    def decode_side(self) -> int | None:
        """As of the data set, see `DetectionDataset`; setting it does nothing where the data set does not know it."""
        return getattr(_base(self.dataset), "decode_side", None)

    @decode_side.setter
    def decode_side(self, side: int | None) -> None:
        dataset = _base(self.dataset)
        if hasattr(dataset, "decode_side"):
            dataset.decode_side = side

    def ground_truth(self) -> dict:
        """As of the data set; of a `Subset`, that of its images only, in its order."""
        dataset, indices = self.dataset, range(len(self))
        while isinstance(dataset, Subset):
            indices = [dataset.indices[i] for i in indices]
            dataset = dataset.dataset
        truth = dataset.ground_truth()
        return truth if dataset is self.dataset else _select_images(truth, np.asarray(indices, dtype=np.int64))


def _complete(target: dict, index: int) -> dict:
    """The target with the index for `image_id`, and with `area`, which augmentations follow, if only that of the boxes."""
    sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
    return {"area": sides.prod(dim=1), **target, "image_id": index}


def _base(dataset: Dataset | Sequence) -> Dataset | Sequence:
    """The data set below all `Subset`s."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _unwrap(dataset: Dataset | Sequence, index: int) -> tuple[Dataset | Sequence, int]:
    """The data set below all `Subset`s, and the index there."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, dataset.indices[index]
    return dataset, index


def _select_images(truth: dict, images: np.ndarray) -> dict:
    """Ground truth of some images in the given order, renumbered from 0."""
    by_image = np.argsort(truth["image_index"], kind="stable")
    images = np.arange(truth["num_images"])[images]  # a `Subset` takes negative indices too
    ends = np.cumsum(np.bincount(truth["image_index"], minlength=truth["num_images"]))
    rows = [by_image[ends[image - 1] if image > 0 else 0 : ends[image]] for image in images]
    order = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    selected = dict(truth, num_images=len(images))
    for key in ("heights", "widths", "source_image_ids"):
        selected[key] = truth[key][images]
    for key in ("boxes", "labels", "area", "iscrowd", "difficult"):
        selected[key] = truth[key][order]
    selected["image_index"] = np.repeat(np.arange(len(images)), [len(r) for r in rows])
    return selected
