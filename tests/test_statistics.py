"""Numbers of a data set, each worked out by hand on three images."""

import numpy as np
import pytest

from datasets import InputError
from datasets.statistics import class_faults, class_table, count_split, fit_anchors, image_sizes


def ground_truth(*objects, sizes=((100, 50), (100, 50), (30, 60)), names=("cat", "dog", "bird")):
    """objects: (image, label, width, height, crowd, difficult); sizes: (width, height) of the images."""
    rows = np.array(objects, dtype=np.float64).reshape(-1, 6)
    return {
        "num_images": len(sizes), "widths": np.array([w for w, _ in sizes], dtype=np.int32),
        "heights": np.array([h for _, h in sizes], dtype=np.int32), "image_index": rows[:, 0].astype(np.int64),
        "labels": rows[:, 1].astype(np.int64), "boxes": np.column_stack([rows[:, :2] * 0 + 2, rows[:, 2:4] + 2]),
        "iscrowd": rows[:, 4] > 0, "difficult": rows[:, 5] > 0, "class_names": list(names)}


SAMPLE = ground_truth((0, 1, 4, 8, 0, 0), (0, 1, 6, 20, 0, 1), (1, 1, 10, 2, 0, 0), (1, 3, 5, 5, 0, 0), (0, 3, 90, 40, 1, 0))


def test_class_table():
    cat, dog, bird = class_table(SAMPLE)
    # Sides of cats: 2 4 6 8 10 20, the median between 6 and 8.
    assert cat == (1, "cat", 2, 3, 0.75, 2, 7, 20, 1, 0)
    assert dog == (2, "dog", 0, 0, 0, 0, 0, 0, 0, 0)
    assert bird == (3, "bird", 1, 1, 0.25, 5, 5, 5, 0, 1)  # the crowd region counts for nothing else


def test_counts_of_a_split():
    assert count_split(SAMPLE) == (3, 1, 4, 1, 1)
    assert count_split(ground_truth((2, 1, 5, 5, 1, 0))) == (3, 3, 0, 0, 1)  # a crowd region is no object to train on


def test_nothing_annotated():
    empty = ground_truth()
    assert [row[2:] for row in class_table(empty)] == [(0, 0, 0, 0, 0, 0, 0, 0)] * 3
    assert count_split(empty) == (3, 3, 0, 0, 0)
    with pytest.raises(InputError, match="anchors need boxes"):
        fit_anchors(empty, 416, 9)


def test_image_sizes():
    sizes = image_sizes(SAMPLE)
    assert sizes.most_frequent == [(100, 50, 2), (30, 60, 1)]
    assert sizes.widths == pytest.approx([30, 37, 65, 100, 100, 100, 100])  # quantiles between 30, 100, 100
    assert sizes.heights[0] == 50 and sizes.heights[-1] == 60
    assert sizes.aspect_ratios[0] == 0.5 and sizes.aspect_ratios[3] == sizes.aspect_ratios[-1] == 2


def test_anchors_are_those_of_the_letterboxed_image():
    truth = ground_truth((0, 1, 10, 20, 0, 0), (1, 1, 40, 10, 0, 0), (2, 1, 6, 6, 1, 0))
    found = fit_anchors(truth, 200, 2)  # images of 100 x 50 are doubled
    assert found.img_size == 200 and found.anchors == [(20, 40), (80, 20)]
    assert found.recall == found.mean_iou == 1


def test_classes_that_nothing_can_be_learnt_of():
    training = class_table(ground_truth((0, 1, 5, 5, 0, 0)))
    validation = class_table(ground_truth((0, 1, 5, 5, 0, 0), (0, 3, 5, 5, 0, 0), (1, 3, 5, 5, 0, 0)))
    faults = class_faults({"training": training, "validation": validation}, "training", "data/mine")
    assert [(fault.where, fault.kind, fault.action) for fault in faults] == [
        ("class 'dog'", "class without a box", "warn"), ("class 'bird'", "class not in training", "warn")]
    assert "2 in validation" in faults[1].detail and all(fault.file == "data/mine" for fault in faults)
    assert class_faults({"training": class_table(SAMPLE)}, "training", "")[0].where == "class 'dog'"
