"""All classes of a data set as one: a detector that only finds objects."""

import copy
import dataclasses

import numpy as np

from datasets.concat import JoinedDataset
from datasets.detection_dataset import DetectionDataset

ONE_CLASS = "object"


def as_single_class(dataset: DetectionDataset | JoinedDataset) -> DetectionDataset | JoinedDataset:
    """The data set with label 1 for every object, in targets and ground truth, and ["object"] for class names.

    The data set given keeps its labels; images and boxes are shared with it. Boxes that differ in their class only stay both.
    """
    if isinstance(dataset, JoinedDataset):
        return JoinedDataset([as_single_class(part) for part in dataset.datasets])
    table = dataset.table
    merged = copy.copy(dataset)
    merged.table = dataclasses.replace(table, class_names=[ONE_CLASS], category_ids=np.ones(1, dtype=np.int64),
                                       labels=np.ones_like(table.labels))
    return merged
