"""VOC average precision: hand-worked curves, the difficult rule, published figures."""

import json

import numpy as np
import pytest

from train_utils import voc_eval
from train_utils.voc_eval import average_precision, best_matches, box_ious, rows_per_image, score_voc, score_voc_both


def truth(rows, num_images=2, classes=("a", "b")):
    """Ground truth from (image, label, box, difficult) rows."""
    boxes = np.array([row[2] for row in rows], dtype=np.float64).reshape(-1, 4)
    return {
        "num_images": num_images,
        "heights": np.full(num_images, 100, np.int32),
        "widths": np.full(num_images, 100, np.int32),
        "image_index": np.array([row[0] for row in rows], np.int64),
        "labels": np.array([row[1] for row in rows], np.int64),
        "boxes": boxes,
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        "iscrowd": np.zeros(len(rows), bool),
        "difficult": np.array([row[3] for row in rows], bool),
        "class_names": list(classes),
        "source_image_ids": np.arange(1, num_images + 1),
        "category_ids": np.arange(1, len(classes) + 1),
    }


def found(rows):
    """Detections from (image, label, score, box) rows."""
    return {
        "image_index": np.array([row[0] for row in rows], np.int64),
        "labels": np.array([row[1] for row in rows], np.int64),
        "scores": np.array([row[2] for row in rows], np.float32),
        "boxes": np.array([row[3] for row in rows], np.float32).reshape(-1, 4),
    }


BOX, FAR = [10, 10, 30, 30], [60, 60, 90, 90]


def test_average_precision_by_hand():
    # right, wrong, right of 2 objects: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    hits = np.array([True, False, True])
    assert average_precision(hits, 2, use_07_metric=False) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision(hits, 2, use_07_metric=True) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(np.zeros(0, bool), 2, use_07_metric=True) == 0.0
    # 2 of 10 found reaches the points 0, .1 and .2
    assert average_precision(np.ones(2, bool), 10, use_07_metric=True) == pytest.approx(3 / 11)


def test_one_hit_and_one_missed_image():
    """An image without detections keeps its ground truth."""
    result = score_voc(truth([(0, 1, BOX, False), (1, 1, BOX, False)]), found([(0, 1, 0.9, BOX)]), use_07_metric=True)
    assert result["mAP"] == pytest.approx(6 / 11)
    assert result["per_class"] == [
        {"name": "a", "AP": pytest.approx(6 / 11), "num_gt": 2},
        {"name": "b", "AP": -1.0, "num_gt": 0},
    ]
    assert "11-point" in result["protocol"]


def test_second_detection_of_an_object_is_wrong():
    gt = truth([(0, 1, BOX, False), (1, 1, BOX, False)])
    dets = found([(0, 1, 0.7, BOX), (0, 1, 0.9, BOX), (1, 1, 0.5, BOX)])  # hit .9, double .7, hit .5
    assert score_voc(gt, dets)["mAP"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_difficult_object_counts_neither_way():
    gt = truth([(0, 1, BOX, False), (0, 1, FAR, True)])
    dets = found([(0, 1, 0.9, FAR), (0, 1, 0.8, FAR), (0, 1, 0.7, BOX)])
    assert score_voc(gt, dets)["mAP"] == 1.0
    assert score_voc(gt, found([(0, 1, 0.9, FAR)]))["mAP"] == 0.0
    only_difficult = score_voc(truth([(0, 1, FAR, True)]), dets)
    assert only_difficult["mAP"] == -1.0 and only_difficult["per_class"][0]["num_gt"] == 0


def test_classes_and_images_are_kept_apart():
    gt = truth([(0, 1, BOX, False), (1, 2, BOX, False)])
    assert score_voc(gt, found([(0, 2, 0.9, BOX), (1, 1, 0.9, BOX)]))["mAP"] == 0.0
    assert score_voc(gt, found([(1, 2, 0.9, BOX)]))["mAP"] == 0.5


def test_pixel_counting_widths():
    ten, nine = np.array([[0.0, 0, 9, 9]]), np.array([[0.0, 0, 9, 8]])
    assert box_ious(ten, nine, plus_one=True)[0, 0] == pytest.approx(90 / 100)
    assert box_ious(ten, nine)[0, 0] == pytest.approx(72 / 81)
    assert box_ious(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0.0
    # touching boxes share a column of pixels only when pixels are counted
    assert box_ious(np.array([[0.0, 0, 5, 9]]), np.array([[5.0, 0, 9, 9]]))[0, 0] == 0.0


def crowded(seed=0, objects=60, detections=150):
    """Three images of many objects of three classes and as many detections near them, scores with ties."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (objects, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 30, (objects, 2))])
    images, labels = rng.integers(0, 3, objects), rng.integers(1, 4, objects)
    gt = truth([*zip(images, labels, boxes, rng.random(objects) < 0.1)], 3, "abc")
    near = rng.integers(0, objects, detections)
    scores, moved = rng.random(detections).round(1), boxes[near] + rng.normal(0, 2, (detections, 4))
    return gt, found([*zip(images[near], labels[near], scores, moved)])


def test_ious_are_those_of_the_formula_to_the_last_bit():
    gt, dets = crowded()
    a, b = dets["boxes"].astype(np.float64), gt["boxes"]
    a[0] = [30, 30, 20, 20]  # inside out
    for one in (0.0, 1.0):
        sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]) + one
        both = sides.clip(min=0).prod(axis=2)
        union = (a[:, 2:] - a[:, :2] + one).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2] + one).prod(axis=1)[None] - both
        assert (box_ious(a, b, plus_one=bool(one)) == np.where(union > 0, both / union, 0)).all() and both.any()


def test_an_image_of_many_objects_comes_in_parts(monkeypatch):
    gt, dets = crowded()
    whole = [best_matches(gt, dets, same_class) for same_class in (True, False)]
    monkeypatch.setattr(voc_eval, "MAX_PAIRS", 100)
    parts = [*rows_per_image(dets["image_index"], gt["image_index"])]
    assert len(parts) > 9 and max(len(rows) * len(objects) for rows, objects in parts) <= 100
    assert sorted(np.concatenate([rows for rows, _ in parts])) == [*range(150)]
    for same_class, expected in zip((True, False), whole):
        for now, before in zip(best_matches(gt, dets, same_class), expected):
            assert (now == before).all()
    monkeypatch.setattr(voc_eval, "MAX_PAIRS", 1)  # fewer than the objects of an image
    assert (best_matches(gt, dets, False)[1] == whole[1][1]).all()


@pytest.mark.parametrize("plus_one", [True, False])
def test_both_metrics_at_once(plus_one):
    for gt, dets in (crowded(), (truth([]), found([])), (truth([(0, 1, BOX, False)]), found([]))):
        both = score_voc_both(gt, dets, 0.6, plus_one)
        assert both == {"voc07": score_voc(gt, dets, 0.6, True, plus_one), "voc12": score_voc(gt, dets, 0.6, False, plus_one)}
    both = score_voc_both(*crowded())
    assert 0.3 < both["voc07"]["mAP"] != both["voc12"]["mAP"] > 0.3


def test_nothing_detected_and_nothing_to_detect():
    assert score_voc(truth([(0, 1, BOX, False)]), found([]))["mAP"] == 0.0
    assert score_voc(truth([]), found([(0, 1, 0.9, BOX)]))["mAP"] == -1.0
    assert score_voc(truth([]), found([]))["mAP"] == -1.0


@pytest.mark.parametrize(
    "row, word",
    [
        ((5, 1, 0.9, BOX), "image index 5"),
        ((0, 3, 0.9, BOX), "label 3"),
        ((0, 0, 0.9, BOX), "label 0"),
        ((0, 1, np.nan, BOX), "score"),
        ((0, 1, 0.9, [0, 0, np.inf, 1]), "box"),
    ],
)
def test_bad_detections_are_refused(row, word):
    with pytest.raises(ValueError, match=word):
        score_voc(truth([(0, 1, BOX, False)]), found([row]))


def read_padilla(folder):
    """Boxes of the sample case: `class [score] x y width height` per line, files in name order."""
    gts, dets = [], []
    for number, path in enumerate(sorted((folder / "gts").glob("*.txt"))):
        for line in path.read_text().splitlines():
            x, y, w, h = map(float, line.split()[1:])
            gts.append((number, 1, [x, y, x + w, y + h], False))
        for line in (folder / "dets" / path.name).read_text().splitlines():
            score, x, y, w, h = map(float, line.split()[1:])
            dets.append((number, 1, score, [x, y, x + w, y + h]))
    return truth(gts, num_images=7, classes=["object"]), found(dets)


def test_published_figures(shared_data):
    expected = json.loads((shared_data / "eval_refs/EXPECTED.json").read_text())["padilla_test_case_1"]["expected"]
    gt, dets = read_padilla(shared_data / "eval_refs/padilla_test_case_1")
    assert len(gt["labels"]) == 15 and len(dets["labels"]) == 24
    for key, use_07 in (("every_point", False), ("eleven_point", True)):
        for threshold, value in expected[key].items():
            result = score_voc(gt, dets, float(threshold), use_07_metric=use_07)
            assert result["mAP"] == pytest.approx(value, abs=1e-8), (key, threshold)
    without = [score_voc(gt, dets, t, plus_one=False)["mAP"] for t in (0.1, 0.3, 0.5, 0.75)]
    assert without == pytest.approx([0.280133, 0.225397, 0.022222, 0.0], abs=1e-6)
