"""Curves over the confidence and precision-recall curves by hand, against precision_recall, nothing there."""

import numpy as np
import pytest
from test_coco_eval import make_detections, make_truth, nothing, random_case

from train_utils.coco_eval import CocoScorer
from train_utils.precision_recall import precision_recall
from train_utils.score_curves import score_curves


def square(x):
    return [x, 0, x + 10, 10]


def case():
    """Class 1: hit .9, miss .8, hit .5 of 4 objects. Class 2: hit .7 of 1 object. Class 3: a miss, no object."""
    truth = make_truth([0] * 5, [square(50 * k) for k in range(5)], [1, 1, 1, 1, 2], 2, [1, 2, 3])
    found = make_detections([0, 1, 0, 0, 0], [square(0), square(0), square(50), square(200), square(0)], [1, 1, 1, 2, 3],
                            [0.9, 0.8, 0.5, 0.7, 0.6])
    return truth, found


def test_curves_over_the_confidence_by_hand():
    curves = score_curves(*case())
    for confidence, precision, recall, f1 in (
        (0.5, 2 / 3, 2 / 4, 4 / 7), (0.501, 1 / 2, 1 / 4, 2 / 6), (0.8, 1 / 2, 1 / 4, 2 / 6),
        (0.801, 1, 1 / 4, 2 / 5), (0.9, 1, 1 / 4, 2 / 5), (0.901, 0, 0, 0),
    ):
        k = round(1000 * confidence)
        assert (curves.precision[0, k], curves.recall[0, k], curves.f1[0, k]) == pytest.approx((precision, recall, f1))
    assert curves.f1[1, [0, 700, 701, 1000]].tolist() == [1, 1, 0, 0]
    assert curves.f1[2].max() == 0 and curves.f1.shape == (3, 1001)
    assert curves.mean(curves.recall)[500] == pytest.approx((2 / 4 + 1) / 2)  # the class without objects is left out
    assert curves.best_confidences[:2] == pytest.approx([0.5, 0.7]) and np.isnan(curves.best_confidences[2])
    assert curves.best_f1.tolist() == pytest.approx([4 / 7, 1, 0])


def test_precision_recall_curve_by_hand():
    curves = score_curves(*case())
    # class 1: precision 1 up to recall 1/4 (26 of the 101 recalls), 2/3 up to 2/4 (25 more), then 0
    assert curves.pr[0].tolist() == pytest.approx([1] * 26 + [2 / 3] * 25 + [0] * 50)
    assert curves.ap.tolist() == pytest.approx([(26 + 25 * 2 / 3) / 101, 1, -1])
    assert score_curves(*case(), 1.0).ap[1] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_come_in_the_order_of_the_image_ids_as_cocos(seed):
    truth, found = random_case(seed)  # scores are whole tenths, ids are not in the order of the images
    found = {name: values[130:] for name, values in found.items()}  # up to 100 of a class in an image
    ap50 = [entry["AP50"] for entry in CocoScorer(truth).score(found).per_class]
    assert score_curves(truth, found).ap.tolist() == pytest.approx(ap50, abs=1e-12)


def test_equal_scores_by_hand():
    truth = make_truth([1], [square(0)], [1], 2, [1], ids=[20, 10])
    found = make_detections([0, 1], [square(0), square(0)], [1, 1], [0.5, 0.5])
    assert score_curves(truth, found).ap.tolist() == [1]  # image 1 has the lower id, so the hit comes first
    truth["source_image_ids"] = np.array([10, 20])
    assert score_curves(truth, found).ap.tolist() == [0.5]


def test_at_a_confidence():
    truth, found = case()
    curves = score_curves(truth, found)
    assert curves.at(0.8) == {
        "precision": pytest.approx(0.25), "recall": pytest.approx(1 / 8), "f1": pytest.approx(1 / 6),
        "per_class": {"class 1": {"precision": 0.5, "recall": 0.25, "f1": pytest.approx(1 / 3)},
                      "class 2": {"precision": 0, "recall": 0, "f1": 0},
                      "class 3": {"precision": None, "recall": None, "f1": None}},
    }
    assert curves.best == precision_recall(found, truth)
    assert curves.best == {"precision": pytest.approx(5 / 6), "recall": 0.75, "f1": pytest.approx(11 / 14), "confidence": 0.5}


@pytest.mark.parametrize("seed", range(3))
def test_the_grid_says_the_same_as_one_confidence(seed):
    truth, found = random_case(seed)
    curves = score_curves(truth, found)
    for k in (0, 1, 250, 300, 301, 700, 999, 1000):  # scores are whole tenths: .3 and .7 in float32 are not below .3 and .7
        means = precision_recall(found, truth, confidence=k / 1000)
        for name in ("precision", "recall", "f1"):
            assert curves.mean(getattr(curves, name))[k] == pytest.approx(means[name]), (k, name)
    assert (np.diff(curves.recall) <= 0).all() and (np.diff(curves.pr) <= 0).all()
    assert (curves.best_f1 >= curves.f1.max(axis=1) - 1e-12).all()
    for k, confidence in enumerate(curves.best_confidences):
        name = truth["class_names"][k]
        assert curves.at(confidence)["per_class"][name]["f1"] == pytest.approx(curves.best_f1[k])


def test_nothing_there():
    truth, found = case()
    empty = make_truth([], [], [], 2, [1, 2, 3])
    none = score_curves(truth, nothing())
    assert none.ap.tolist() == [0, 0, -1] and none.f1.max() == 0 and np.isnan(none.best_confidences).all()
    assert none.at(0.5)["f1"] == 0 and none.best == {"precision": 0, "recall": 0, "f1": 0, "confidence": 0}
    for detections in (found, nothing()):
        nowhere = score_curves(empty, detections)
        assert nowhere.ap.tolist() == [-1] * 3 and nowhere.mean(nowhere.pr).tolist() == [0] * 101
        assert nowhere.at(0.5) == {"precision": 0, "recall": 0, "f1": 0, "per_class": dict.fromkeys(
            truth["class_names"], {"precision": None, "recall": None, "f1": None})}
