"""The confusion matrix by hand, its sums, ignored objects, nothing there."""

import numpy as np
import pytest
from test_coco_eval import make_detections, make_truth, nothing, random_case

from train_utils.confusion_matrix import confusion_matrix
from train_utils.errors import InputError


def square(x, side=10):
    return [x, 0, x + side, side]


def test_by_hand():
    truth = make_truth([0, 0, 1, 1], [square(0), square(50), square(0), square(50)], [1, 2, 1, 2], 3, [1, 2])
    found = make_detections(
        [0, 0, 0, 1, 1, 2, 1],
        [square(0), square(1), square(50), square(6), square(52), square(0), square(0)],
        [1, 1, 1, 1, 2, 2, 1],
        [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2])
    # hit; the same object again; an object of class 2 taken for 1; IoU 4 / 16; hit; an image without objects; below the score
    assert confusion_matrix(truth, found).tolist() == [[1, 0, 1], [1, 1, 0], [2, 1, 0]]
    assert confusion_matrix(truth, found, iou_threshold=0.2).tolist() == [[2, 0, 0], [1, 1, 0], [1, 1, 0]]
    assert confusion_matrix(truth, found, 0.2).tolist() == [[2, 0, 0], [1, 1, 0], [2, 1, 0]]  # scores are float32
    assert confusion_matrix(truth, found, np.float64(0.7)).tolist() == [[1, 0, 1], [1, 0, 1], [1, 0, 0]]  # .7 is less in float32
    assert confusion_matrix(truth, found, 0.95).tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]


def test_the_higher_score_takes_the_object_whatever_its_class():
    truth = make_truth([0], [square(0)], [1], 1, [1, 2])
    found = make_detections([0, 0], [square(1), square(0)], [2, 1], [0.9, 0.8])
    assert confusion_matrix(truth, found).tolist() == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    twins = make_truth([0, 0], [square(0), square(0)], [1, 2], 1, [1, 2])  # equal boxes: its own class first
    found = make_detections([0, 0], [square(0), square(0)], [2, 1], [0.9, 0.8])
    assert confusion_matrix(twins, found).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_crowd_and_difficult_objects_are_left_out():
    truth = make_truth([0, 0], [square(0, 100), square(200)], [1, 2], 1, [1, 2], iscrowd=[1, 0], difficult=[0, 1])
    found = make_detections([0] * 4, [square(40), square(40), square(200), square(200)], [1, 2, 2, 1], [0.9] * 4)
    assert confusion_matrix(truth, found).tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_nothing_there():
    truth, empty = make_truth([0], [square(0)], [2], 1, [1, 2]), make_truth([], [], [], 1, [1, 2])
    assert confusion_matrix(truth, nothing()).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert confusion_matrix(empty, make_detections([0], [square(0)], [1], [0.5])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    matrix = confusion_matrix(empty, nothing())
    assert matrix.tolist() == [[0] * 3] * 3 and matrix.dtype == np.int64
    with pytest.raises(InputError, match="label 3"):
        confusion_matrix(truth, make_detections([0], [square(0)], [3], [0.5]))


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_the_objects_and_columns_the_detections(seed):
    truth, found = random_case(seed)
    truth["iscrowd"][:] = False
    matrix = confusion_matrix(truth, found, 0.3)
    assert matrix[:3].sum(axis=1).tolist() == np.bincount(truth["labels"], minlength=4)[1:].tolist()
    kept = found["labels"][found["scores"] >= np.float32(0.3)]
    assert matrix[:, :3].sum(axis=0).tolist() == np.bincount(kept, minlength=4)[1:].tolist()
    assert matrix[3, 3] == 0 and matrix.trace() > 10 and (matrix[:3, :3] - np.diag(matrix.diagonal()[:3])).sum() > 0
