"""P, R, F1 at the best confidence: by hand, against a plain loop, ignored objects, nothing to find."""

import time

import numpy as np
import pytest

from train_utils.errors import InputError
from train_utils.precision_recall import format_line, precision_recall

NOTHING = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "confidence": 0.0}


def truth(objects, classes=2, images=4):
    """objects: (image, label, x) of boxes 10 wide; "crowd" or "difficult" as a fourth entry."""
    return {
        "num_images": images,
        "class_names": [f"c{k}" for k in range(classes)],
        "image_index": np.array([o[0] for o in objects], dtype=np.int64),
        "labels": np.array([o[1] for o in objects], dtype=np.int64),
        "boxes": np.array([[o[2], 0, o[2] + 10, 10] for o in objects], dtype=np.float64).reshape(-1, 4),
        "iscrowd": np.array(["crowd" in o for o in objects], dtype=bool),
        "difficult": np.array(["difficult" in o for o in objects], dtype=bool),
    }


def found(rows):
    """rows: (image, label, x, score) of boxes 10 wide."""
    return {
        "image_index": np.array([r[0] for r in rows], dtype=np.int64),
        "labels": np.array([r[1] for r in rows], dtype=np.int64),
        "boxes": np.array([[r[2], 0, r[2] + 10, 10] for r in rows], dtype=np.float32).reshape(-1, 4),
        "scores": np.array([r[3] for r in rows], dtype=np.float64),
    }


def test_one_class_by_hand():
    objects = truth([(0, 1, 0), (0, 1, 50), (1, 1, 0), (2, 1, 0)], classes=1)
    detections = found([
        (0, 1, 1, 0.5),  # right, third by score
        (0, 1, 0, 0.9),  # right
        (0, 1, 2, 0.4),  # the object at 0 is taken: wrong
        (1, 1, 6, 0.8),  # IoU 4 / 16: wrong
        (0, 1, 50, 0.7),  # right
        (2, 1, 3, 0.3),  # IoU 7 / 13 = .54: right
        (3, 1, 0, 0.2),  # an image without objects: wrong
    ])
    # the one at 1 with .5 is on the object at 0, which .9 has: wrong. So: hit, miss, hit, miss, miss, hit, miss
    # F1 = 2t / (n + 4): 2/5, 2/6, 4/7, 4/8, 4/9, 6/10, 6/11
    assert precision_recall(detections, objects) == pytest.approx(
        {"precision": 3 / 6, "recall": 3 / 4, "f1": 0.6, "confidence": 0.3})
    # at IoU .6 the last hit is one no more: the best is 4/7, after three
    assert precision_recall(detections, objects, 0.6) == pytest.approx(
        {"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7, "confidence": 0.7})


def test_two_classes_share_one_confidence():
    objects = truth([(0, 1, 0), (1, 1, 0), (0, 2, 30)], classes=3)
    detections = found([
        (0, 1, 0, 0.9),  # class 1: right            F1 of class 1: 2/3, of class 2: 0
        (1, 2, 0, 0.8),  # class 2: wrong class here          2/3, 0
        (1, 1, 0, 0.6),  # class 1: right                     1,   0
        (0, 2, 30, 0.4),  # class 2: right                    1,   2/3
        (2, 3, 0, 0.3),  # class 3 has no object: does not matter
        (3, 2, 0, 0.2),  # class 2: wrong                     1,   2/4
    ])
    expected = {"precision": (1 + 1 / 2) / 2, "recall": 1.0, "f1": (1 + 2 / 3) / 2, "confidence": 0.4}
    assert precision_recall(detections, objects) == pytest.approx(expected)


def test_equal_scores_are_kept_together_and_ties_take_the_highest():
    objects = truth([(0, 1, 0), (1, 1, 0)], classes=1)
    both = found([(0, 1, 0, 0.5), (1, 1, 50, 0.5), (2, 1, 0, 0.5)])  # right, wrong, wrong: cutting after the first is impossible
    assert precision_recall(both, objects) == pytest.approx({"precision": 1 / 3, "recall": 0.5, "f1": 0.4, "confidence": 0.5})
    objects = truth([(0, 1, 0), (1, 1, 0)], classes=1)
    # hit, miss, miss, hit: F1 2/3, 1/2, 2/5, 2/3: the first of the two best
    rows = [(0, 1, 0, 0.9), (2, 1, 0, 0.8), (3, 1, 0, 0.7), (1, 1, 0, 0.6)]
    assert precision_recall(found(rows), objects)["confidence"] == 0.9
    # after .5 and after .2 the F1 add up to 4/3: in floating point the second sum is a hair larger
    objects = truth([(0, 1, 50 * k) for k in range(4)] + [(0, 2, 50 * k) for k in range(3)])
    rows = [(0, 1, 0, 0.9), (0, 2, 0, 0.8), (1, 2, 0, 0.7), (0, 1, 50, 0.6), (0, 2, 50, 0.5), (1, 1, 0, 0.4), (1, 1, 0, 0.3),
            (0, 1, 100, 0.2)]
    assert precision_recall(found(rows), objects) == pytest.approx(
        {"precision": (1 + 2 / 3) / 2, "recall": (2 / 4 + 2 / 3) / 2, "f1": 2 / 3, "confidence": 0.5})


def test_crowd_and_difficult_objects_count_neither_way():
    objects = truth([(0, 1, 0), (0, 1, 50, "difficult"), (1, 1, 0, "crowd"), (2, 2, 0, "crowd")])
    objects["boxes"][2, 2:] = 100  # detections lie in the crowd, with an IoU of .01
    detections = found([(0, 1, 50, 0.9), (1, 1, 0, 0.8), (1, 1, 1, 0.7), (0, 1, 0, 0.6), (2, 2, 0, 0.9)])
    assert precision_recall(detections, objects) == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "confidence": 0.6}


def test_a_chosen_confidence():
    objects = truth([(0, 1, 0), (1, 1, 0), (0, 2, 30)], classes=3)
    detections = found([(0, 1, 0, 0.9), (1, 2, 0, 0.8), (1, 1, 50, 0.6), (0, 2, 30, 0.4), (2, 3, 0, 0.3)])
    detections["scores"] = detections["scores"].astype(np.float32)
    # at .4 class 1 has 2 kept, 1 right of 2; class 2 has 2 kept, 1 right of 1; class 3 has no object
    expected = {"precision": 0.5, "recall": 0.75, "f1": (2 / 4 + 2 / 3) / 2, "confidence": 0.4}
    assert precision_recall(detections, objects, confidence=0.4) == pytest.approx(expected)
    for asked in (0.4, np.float64(0.4), np.float32(0.4)):  # .4 in float32 is above .4, .8 and .9 are below
        assert precision_recall(detections, objects, confidence=asked)["recall"] == 0.75
    assert precision_recall(detections, objects, confidence=np.float64(0.9))["recall"] == 0.25
    assert precision_recall(detections, objects, confidence=0.95) == {**NOTHING, "confidence": 0.95}
    assert precision_recall(detections, objects, confidence=0)["precision"] == 0.5
    assert precision_recall(found([]), truth([]), confidence=0.5) == {**NOTHING, "confidence": 0.5}


def test_nothing():
    some = truth([(0, 1, 0)])
    assert precision_recall(found([]), some) == NOTHING
    assert precision_recall(found([]), truth([])) == NOTHING
    assert precision_recall(found([(0, 1, 0, 0.5)]), truth([])) == NOTHING
    assert precision_recall(found([(0, 1, 90, 0.5)]), some) == NOTHING  # nothing right
    assert precision_recall(found([(0, 1, 0, 0.5)]), truth([(0, 1, 0, "crowd")])) == NOTHING
    with pytest.raises(InputError, match="label 3"):
        precision_recall(found([(0, 3, 0, 0.5)]), some)


def plain_loop(detections, objects):
    """The same by the words of the definition."""
    order = sorted(range(len(detections["scores"])), key=lambda k: -detections["scores"][k])
    best = NOTHING
    for confidence in sorted(set(detections["scores"]), reverse=True):
        taken, kept, right = set(), {}, {}
        for k in (k for k in order if detections["scores"][k] >= confidence):
            label = detections["labels"][k]
            same = [m for m in range(len(objects["labels"])) if m not in taken
                    and objects["labels"][m] == label and objects["image_index"][m] == detections["image_index"][k]]
            shift = [abs(objects["boxes"][m][0] - detections["boxes"][k][0]) for m in same]
            kept[label] = kept.get(label, 0) + 1
            if same and min(shift) <= 3:  # IoU of boxes 10 wide: 7 / 13 at 3, 6 / 14 at 4
                right[label] = right.get(label, 0) + 1
                taken.add(same[int(np.argmin(shift))])
        labels, there = np.unique(objects["labels"], return_counts=True)
        p = np.mean([right.get(c, 0) / max(1, kept.get(c, 0)) for c in labels])
        r = np.mean([right.get(c, 0) / n for c, n in zip(labels, there)])
        f1 = np.mean([2 * right.get(c, 0) / (kept.get(c, 0) + n) for c, n in zip(labels, there)])
        if f1 > best["f1"] + 1e-12:
            best = {"precision": p, "recall": r, "f1": f1, "confidence": confidence}
    return best


@pytest.mark.parametrize("seed", range(20))
def test_against_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    objects = truth([(int(rng.integers(4)), int(rng.integers(1, 4)), int(rng.integers(30))) for _ in range(20)], classes=4)
    rows = [(int(rng.integers(4)), int(rng.integers(1, 5)), int(rng.integers(30)), round(float(rng.random()), 1))
            for _ in range(40)]
    assert precision_recall(found(rows), objects) == pytest.approx(plain_loop(found(rows), objects))


def test_the_size_of_coco():
    rng = np.random.default_rng(0)
    many = 200_000
    objects = {**truth([], classes=80, images=5000), "image_index": rng.integers(0, 5000, 35000),
               "labels": rng.integers(1, 81, 35000), "iscrowd": np.zeros(35000, bool), "difficult": np.zeros(35000, bool),
               "boxes": np.tile([0.0, 0, 10, 10], (35000, 1))}
    detections = {"image_index": rng.integers(0, 5000, many), "labels": rng.integers(1, 81, many),
                  "scores": rng.random(many).astype(np.float32), "boxes": np.tile([0.0, 0, 10, 10], (many, 1))}
    begin = time.perf_counter()
    assert 0 < precision_recall(detections, objects)["f1"] < 1
    assert time.perf_counter() - begin < 10  # it takes about one second


def test_the_line_for_the_log():
    line = format_line({"precision": 0.71249, "recall": 0.5, "f1": 0.6, "confidence": 0.3125})
    assert line == "P 0.712  R 0.500  F1 0.600  at confidence 0.312, where the mean F1 is highest (IoU 0.5)"
    assert format_line({"precision": 0.5, "recall": 1, "f1": 2 / 3, "confidence": 0.25}, 0.75, chosen=True) == (
        "P 0.500  R 1.000  F1 0.667  at confidence 0.250 (IoU 0.75)")
