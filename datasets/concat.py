"""Several data sets as one, as if their images lay in one folder."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.annotations import Fault
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError

PER_IMAGE = ("heights", "widths", "source_image_ids")  # keys of the ground truth
PER_OBJECT = ("boxes", "area", "iscrowd", "difficult")


class JoinedDataset(Dataset):
    """The images of several data sets, one after the other, with the contract of `DetectionDataset`.

    `target["image_id"]` and the indices of the ground truth count through all of them; labels are those of the common
    class list, which is the first part's. Targets have `difficult` if those of any part have it.

    Args:
        datasets: at least one, in order.
        names: of the parts, for messages; by default "data set 1", ...
        merge_classes: the common list has the classes of all parts, new ones behind those before. Mind that objects of a class
            which one part does not annotate are background in its pictures.

    Raises:
        InputError: the parts do not have the same classes (their order may differ), with what differs; or they spell one
            differently.
    """

    def __init__(self, datasets: Sequence[DetectionDataset], names: Sequence[str] | None = None, merge_classes: bool = False):
        self.datasets = list(datasets)
        names = names or [f"data set {k + 1}" for k in range(len(self.datasets))]
        self.class_names = list(self.datasets[0].class_names)
        for name, dataset in zip(names, self.datasets):
            own, common = set(dataset.class_names), set(self.class_names)
            _check_case(name, dataset.class_names, names[0], self.class_names)
            if merge_classes:
                self.class_names += [new for new in dataset.class_names if new not in common]
            else:
                _check_classes(name, names[0], sorted(common - own), sorted(own - common))
        self.label_maps = [_label_map(dataset.class_names, self.class_names) for dataset in self.datasets]
        self.ends = list(accumulate(map(len, self.datasets)))
        self.has_difficult = any(dataset.has_difficult for dataset in self.datasets)
        self.faults: list[Fault] = [fault for dataset in self.datasets for fault in dataset.faults]

    @property
    def decode_side(self) -> int | None:
        """That of the parts, see `DetectionDataset`."""
        return self.datasets[0].decode_side

    @decode_side.setter
    def decode_side(self, side: int | None) -> None:
        for dataset in self.datasets:
            dataset.decode_side = side

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """One sample; raises `UnreadableImage` as its part does."""
        index = range(len(self))[index]
        part, inner = self._locate(index)
        image, target = self.datasets[part][inner]
        return image, self._adapt(target, part, index)

    def coco_index(self, index: int) -> tuple[tuple[int, int], dict]:
        """((height, width), target) without reading the image."""
        index = range(len(self))[index]
        part, inner = self._locate(index)
        size, target = self.datasets[part].coco_index(inner)
        return size, self._adapt(target, part, index)

    def get_height_and_width(self, index: int) -> tuple[int, int]:
        """(height, width) as annotated, without touching the image."""
        part, inner = self._locate(range(len(self))[index])
        return self.datasets[part].get_height_and_width(inner)

    def image_path(self, index: int) -> str:
        """Path of the image, for messages."""
        part, inner = self._locate(range(len(self))[index])
        return self.datasets[part].image_path(inner)

    def ground_truth(self) -> dict:
        """As of `DetectionDataset`, of all parts together.

        Images are numbered 1.. where the parts' own numbers are not distinct; category ids are those of the first part, and
        unused ones for classes that it lacks.
        """
        truths = [dataset.ground_truth() for dataset in self.datasets]
        joined = {key: np.concatenate([truth[key] for truth in truths]) for key in (*PER_IMAGE, *PER_OBJECT)}
        starts = [0, *self.ends[:-1]]
        joined["image_index"] = np.concatenate([truth["image_index"] + start for truth, start in zip(truths, starts)])
        labels = [label_map.numpy()[truth["labels"]] for truth, label_map in zip(truths, self.label_maps)]
        joined["labels"] = np.concatenate(labels)
        if len(np.unique(joined["source_image_ids"])) < len(self):
            joined["source_image_ids"] = np.arange(1, len(self) + 1)
        ids = truths[0]["category_ids"]
        added = len(self.class_names) - len(ids)
        ids = np.concatenate([ids, max(ids.max(), len(ids)) + np.arange(1, added + 1)])
        return {**joined, "num_images": len(self), "class_names": list(self.class_names), "category_ids": ids}

    def _locate(self, index: int) -> tuple[int, int]:
        """(which part, index there)."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return part, index - (self.ends[part - 1] if part else 0)

    def _adapt(self, target: dict, part: int, index: int) -> dict:
        target = {**target, "labels": self.label_maps[part][target["labels"]], "image_id": index}
        if self.has_difficult:
            target.setdefault("difficult", torch.zeros_like(target["labels"]))
        return target


def _check_case(name: str, own: Sequence[str], first: str, common: Sequence[str]) -> None:
    """Refuses names that differ in upper and lower case only: they are meant as one class."""
    spelling = {other.casefold(): other for other in common}
    for new in own:
        known = spelling.get(new.casefold(), new)
        if new != known and new not in common:
            raise InputError(f'{name} calls a class "{new}" that {first} calls "{known}"; write them alike')


def _check_classes(name: str, first: str, missing: list[str], unknown: list[str]) -> None:
    problems = [f"{what} {', '.join(classes)}" for what, classes in (("lacks", missing), ("also has", unknown)) if classes]
    if problems:
        raise InputError(f"the classes of {name} and {first} differ: {name} {' and '.join(problems)}; give one class list for "
                         "all (--classes), make them agree, or join them (--merge-classes)")


def _label_map(own: Sequence[str], common: Sequence[str]) -> Tensor:
    """int64 [1 + C]: common label of every own label; 0, the background, stays 0."""
    if list(own) == list(common):  # also where a placeholder stands there several times
        return torch.arange(len(own) + 1)
    label = {name: k + 1 for k, name in enumerate(common)}
    return torch.tensor([0, *(label[name] for name in own)])
