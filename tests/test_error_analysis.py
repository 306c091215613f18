"""Errors by kind: one of each by hand, what comes first, ignored objects, sums, nothing there."""

import numpy as np
import pytest
from test_coco_eval import make_detections, make_truth, nothing, random_case

from train_utils.error_analysis import KINDS, classify_errors
from train_utils.errors import InputError
from train_utils.precision_recall import precision_recall


def square(x, y=0, side=10):
    return [x, y, x + side, y + side]


def kinds_of(report):
    return {int(row): KINDS[kind] for row, kind in zip(report.rows, report.kinds)}


def test_one_of_each_kind():
    truth = make_truth([0, 0, 1, 1], [square(0), square(50), square(0), square(50)], [1, 2, 1, 2], 3, [1, 2])
    found = make_detections(
        [0, 0, 0, 1, 1, 1, 2, 0],
        [square(0), square(1), square(50), square(6), square(96), square(52), square(0), square(0)],
        [1, 1, 1, 1, 2, 2, 2, 1],
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    report = classify_errors(truth, found)
    # by row: on the object; on the same one again; class 1 on an object of class 2; IoU 4 / 16; far from all; IoU 8 / 12;
    # an image without objects; below the score
    expected = ["correct", "duplicate", "wrong class", "badly placed", "background", "correct", "background"]
    assert kinds_of(report) == dict(enumerate(expected))
    assert report.objects.tolist() == [0, 0, 1, 2, -1, 3, -1]
    assert report.missed.tolist() == [1, 2]  # class 2 of image 0, class 1 of image 1
    assert report.counts == {"correct": 2, "duplicate": 1, "wrong class": 1, "badly placed": 1, "background": 2, "missed": 2}
    assert report.per_class == {
        "class 1": {"correct": 1, "duplicate": 1, "wrong class": 1, "badly placed": 1, "background": 0, "missed": 1},
        "class 2": {"correct": 1, "duplicate": 0, "wrong class": 0, "badly placed": 0, "background": 2, "missed": 1},
    }
    assert report.by_image.tolist() == [[1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0]]
    assert report.worst_images(9) == [0, 1, 2] and report.worst_images(1) == [0]
    assert report.lines == [
        "errors of the detections of score 0.25 or more (IoU 0.5)",
        "class    objects  correct  missed  duplicate  wrong class  badly placed  background",
        "class 1        2        1       1          1            1             1           0",
        "class 2        2        1       1          0            0             0           2",
        "all            4        2       2          1            1             1           2",
    ]


def test_thresholds():
    truth = make_truth([0, 0], [square(0), square(50)], [1, 2], 1, [1, 2])
    shifted = make_detections([0] * 4, [square(3), square(6), square(9), square(56)], [1] * 4, [0.9, 0.8, 0.7, 0.6])
    # IoU with the object of class 1: 7/13, 4/16, 1/19; the last one 4/16 with an object of class 2 only
    assert list(kinds_of(classify_errors(truth, shifted)).values()) == ["correct", "badly placed", "background", "background"]
    strict = classify_errors(truth, shifted, iou_threshold=0.6, background_iou=0.05)
    assert list(kinds_of(strict).values()) == ["badly placed", "badly placed", "badly placed", "background"]
    loose = classify_errors(truth, shifted, iou_threshold=0.2)
    assert list(kinds_of(loose).values()) == ["correct", "duplicate", "background", "wrong class"]
    assert classify_errors(truth, shifted, 0.8).rows.tolist() == [0, 1]  # .8 in float32 is not below .8
    assert classify_errors(truth, shifted, np.float64(0.7)).rows.tolist() == [0, 1, 2]


def test_the_first_kind_that_fits_counts():
    both = make_truth([0, 0], [square(0), square(4)], [1, 2], 1, [1, 2])
    # IoU 6/14 with its class, 10/10 with the other: wrong class; IoU 8/12 with both: correct
    report = classify_errors(both, make_detections([0, 0], [square(4), square(2)], [1, 1], [0.9, 0.8]))
    assert list(kinds_of(report).values()) == ["wrong class", "correct"]
    # an object of the other class that has been found is no less the reason
    report = classify_errors(both, make_detections([0, 0], [square(4), square(4)], [2, 1], [0.9, 0.8]))
    assert list(kinds_of(report).values()) == ["correct", "wrong class"]
    # the better detection has it, wherever it stands in the arrays; of two objects the free one is taken
    report = classify_errors(both, make_detections([0, 0], [square(0), square(1)], [1, 1], [0.5, 0.6]))
    assert kinds_of(report) == {0: "duplicate", 1: "correct"}
    twins = make_truth([0, 0], [square(0), square(1)], [1, 1], 1, [1, 2])
    report = classify_errors(twins, make_detections([0, 0], [square(0), square(0)], [1, 1], [0.5, 0.6]))
    assert kinds_of(report) == {0: "correct", 1: "correct"} and not report.missed.size


def test_crowd_and_difficult_objects_are_neither_missed_nor_a_mistake():
    boxes = [square(0, side=100), square(200), square(300)]
    truth = make_truth([0, 0, 0], boxes, [1, 1, 2], 1, [1, 2], iscrowd=[1, 0, 0], difficult=[0, 0, 1])
    found = make_detections([0] * 5, [square(40), square(40), square(300), square(300), square(200)], [1, 2, 2, 1, 1],
                            [0.9, 0.8, 0.7, 0.6, 0.5])
    report = classify_errors(truth, found)  # what is of the class of the crowd or the difficult object is left out
    assert kinds_of(report) == {1: "background", 3: "wrong class", 4: "correct"}
    assert report.counts["missed"] == 0
    assert classify_errors(truth, nothing()).missed.tolist() == [1]


def test_nothing_there():
    truth = make_truth([0], [square(0)], [1], 2, [1, 2])
    empty = make_truth([], [], [], 2, [1, 2])
    report = classify_errors(truth, nothing())
    assert report.counts == {**dict.fromkeys(KINDS, 0), "missed": 1} and report.worst_images(5) == [0]
    assert [line.split()[0] for line in report.lines[1:]] == ["class", "class", "all"]  # the class without anything is left out
    report = classify_errors(empty, make_detections([1], [square(0)], [2], [0.5]))
    assert report.counts == {**dict.fromkeys(KINDS, 0), "background": 1} and report.worst_images(5) == [1]
    report = classify_errors(empty, nothing())
    assert report.lines[-1].split() == ["all"] + ["0"] * 7 and report.worst_images(5) == [] and len(report.rows) == 0
    with pytest.raises(InputError, match="label 3"):
        classify_errors(truth, make_detections([0], [square(0)], [3], [0.5]))


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_add_up(seed):
    truth, found = random_case(seed)
    report = classify_errors(truth, found, 0.3)
    objects = np.bincount(truth["labels"][~truth["iscrowd"]], minlength=4)[1:]
    assert (report.by_class[:, 0] + report.by_class[:, 5] == objects).all()
    assert report.by_class[:, :5].sum() == len(report.rows) <= (found["scores"] >= np.float32(0.3)).sum()
    assert (report.by_image.sum(axis=0) == report.by_class.sum(axis=0)).all()
    assert report.counts["correct"] > 0 < report.counts["duplicate"]
    means = precision_recall(found, truth, confidence=0.3)
    kept = report.by_class[:, :5].sum(axis=1)
    assert means["precision"] == pytest.approx((report.by_class[:, 0] / kept).mean())
    assert means["recall"] == pytest.approx((report.by_class[:, 0] / objects).mean())
