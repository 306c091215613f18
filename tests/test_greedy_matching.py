"""Matching by score: by hand, against a plain loop and pycocotools, crowd and difficult objects, nothing there."""

import numpy as np
import pytest
from test_coco_eval import make_detections, make_truth, nothing, random_case

from train_utils.coco_eval import CocoScorer
from train_utils.greedy_matching import match_by_score
from train_utils.score_curves import score_curves
from train_utils.voc_eval import box_ious


def match(truth, found, threshold=0.5, same_class=True):
    taken, neither = match_by_score(truth, found, threshold, same_class)
    return taken.tolist(), neither.tolist()


def row(*lefts, width=10):
    return [[x, 0, x + width, 10] for x in lefts]


def test_by_hand():
    truth = make_truth([0, 0, 1], row(0, 4, 0), [1, 1, 1], 2, [1, 2])  # the first two have IoU 6 / 14
    found = make_detections([0, 0, 0, 1, 1], row(2, 0, 1, 0, 0), [1, 1, 1, 2, 1], [0.6, 0.7, 0.9, 0.8, 0.1])
    # .9 at 1 (IoU 9/11 with 0, 7/13 with 4) takes the first; .7 at 0 (10/10, 6/14) finds it taken; .6 at 2 (8/12 with both)
    # takes the second; .8 has another class
    assert match(truth, found) == ([1, -1, 0, -1, 2], [False] * 5)
    assert match(truth, found, same_class=False) == ([1, -1, 0, 2, -1], [False] * 5)
    assert match(truth, found, 0.7)[0] == [-1, -1, 0, -1, 2]


def test_a_chain_is_followed_in_the_order_of_scores():
    """Each pushes the next one away from its favourite: what takes turns one by one must come out of taking turns at once."""
    truth = make_truth([0] * 5, row(0, 10, 20, 30, 40, width=20), [1] * 5, 1, [1])
    found = make_detections([0] * 4, row(1, 2, 12, 23, width=20), [1] * 4, [0.9, 0.8, 0.7, 0.6])
    # at IoU .3 (shift up to 10): 1 -> 0; 2 -> 0 is taken, so 10; 12 -> 10 is taken, so 20; 23 -> 20 is taken, so 30
    assert match(truth, found, 0.3)[0] == [0, 1, 2, 3]
    assert match(truth, {**found, "scores": found["scores"][::-1].copy()}, 0.3)[0] == [-1, 0, 1, 2]  # 1 reaches 0 and 10 only


def test_equal_scores_and_ious_go_by_order_and_class():
    truth = make_truth([0, 0], row(0, 0), [1, 2], 1, [1, 2])
    found = make_detections([0, 0], row(0, 0), [2, 2], [0.5, 0.5])
    assert match(truth, found, same_class=False)[0] == [1, 0]
    assert match(truth, found)[0] == [1, -1]
    assert match(truth, make_detections([0], row(0), [1], [0.5]), threshold=1.0)[0] == [0]


def test_crowd_and_difficult_objects():
    boxes = [[0, 0, 100, 100], [0, 0, 10, 10], [200, 0, 210, 10]]
    truth = make_truth([0, 0, 0], boxes, [1, 1, 2], 1, [1, 2], iscrowd=[True, False, False], difficult=[False, False, True])
    inside, out = [50, 50, 60, 60], [94, 50, 114, 60]  # wholly in the crowd, .3 of it
    found = make_detections([0] * 6, [inside, inside, out, boxes[1], boxes[1], boxes[2]], [1, 2, 1, 1, 1, 2],
                            [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    # the fourth takes the object although it is in the crowd, too; then the fifth belongs to the crowd
    assert match(truth, found) == ([-1, -1, -1, 1, -1, -1], [True, False, False, False, True, True])
    assert match(truth, found, 0.3)[1][2]
    # of any class: the difficult object is none to be taken, and what is in it takes no object of another class there
    both = make_truth([0, 0], row(0, 0), [1, 2], 1, [1, 2], difficult=[False, True])
    assert match(both, make_detections([0, 0], row(0, 0), [2, 1], [0.9, 0.8]), same_class=False) == ([-1, 0], [True, False])
    flat = make_detections([0], [[50, 50, 50, 60]], [1], [0.5])  # without area, it is in nothing
    assert match(truth, flat) == ([-1], [False])


def test_nothing_there():
    truth = make_truth([0], row(0), [1], 1, [1])
    for same_class in (True, False):
        assert match(truth, nothing(), same_class=same_class) == ([], [])
        assert match(make_truth([], [], [], 1, [1]), nothing(), same_class=same_class) == ([], [])
        empty = make_truth([], [], [], 2, [1])
        assert match(empty, make_detections([1], row(0), [1], [0.5]), same_class=same_class) == ([-1], [False])
        assert match({**truth, "num_images": 2}, make_detections([1], row(0), [1], [0.5])) == ([-1], [False])


def plain_loop(truth, found, threshold, same_class):
    taken = np.full(len(found["scores"]), -1)
    for k in np.argsort(-found["scores"], kind="stable"):
        open_to_it = [
            m for m in range(len(truth["labels"]))
            if truth["image_index"][m] == found["image_index"][k] and m not in taken
            and (not same_class or truth["labels"][m] == found["labels"][k])
        ]
        if open_to_it:
            ious = box_ious(found["boxes"][k : k + 1].astype(float), truth["boxes"][open_to_it])[0]
            if ious.max() >= threshold:
                taken[k] = open_to_it[ious.argmax()]
    return taken.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_against_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 30, (24, 2))
    truth = make_truth(rng.integers(0, 2, 24), np.hstack([corner, corner + 20]), rng.integers(1, 4, 24), 2, [1, 2, 3])
    corner = rng.uniform(0, 30, (80, 2))
    found = make_detections(rng.integers(0, 2, 80), np.hstack([corner, corner + 20]), rng.integers(1, 4, 80),
                            rng.random(80).round(1))
    for same_class in (True, False):
        taken, _ = match(truth, found, 0.2, same_class)
        assert taken == plain_loop(truth, found, 0.2, same_class) and sum(k >= 0 for k in taken) > 10


@pytest.mark.parametrize("seed", range(4))
def test_the_average_precision_that_follows_is_cocos(seed):
    truth, found = random_case(seed)
    truth["difficult"] = np.random.default_rng(seed).random(len(truth["labels"])) < 0.1
    found = {name: values[130:] for name, values in found.items()}  # up to 100 of a class in an image: COCO takes no more
    found["scores"] += np.random.default_rng(seed).random(len(found["scores"]), np.float32) / 100  # ties may come in any order
    result = CocoScorer(truth).score(found)
    ap50 = [entry["AP50"] for entry in result.per_class]
    assert score_curves(truth, found).ap.tolist() == pytest.approx(ap50, abs=1e-12) and max(ap50) > 0.1
