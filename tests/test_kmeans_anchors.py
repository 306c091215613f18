import time

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.kmeans_anchors import anchor_recall, best_wh_iou, box_sizes, kmeans_anchors
from datasets.voc import VOCDataSet

OBVIOUS = np.array([[10, 20], [40, 40], [120, 60]])  # three clusters, 100 boxes each


def _clusters(spread=0.02):
    random = np.random.default_rng(1)
    return np.concatenate([centre * (1 + spread * random.standard_normal((100, 2))) for centre in OBVIOUS])


def test_best_iou_by_hand():
    # 10 x 10 with 20 x 5: shared 10 x 5, union 100 + 100 - 50. With 5 x 5: 25 / 100.
    assert best_wh_iou([[10, 10]], [[20, 5], [5, 5]]).tolist() == [50 / 150]
    assert best_wh_iou([[10, 10], [20, 5]], [[20, 5]]).tolist() == [50 / 150, 1]
    assert best_wh_iou(torch.tensor([[4.0, 8.0]]), torch.tensor([[4.0, 8.0]])).tolist() == [1]


def test_recall_by_hand():
    boxes = [[10, 10], [20, 5], [100, 100]]  # best IoU with 20 x 5: 1/3, 1, 1/100
    recall, mean = anchor_recall(boxes, [[20, 5]], threshold=0.2)
    assert recall == pytest.approx(2 / 3) and mean == pytest.approx((1 / 3 + 1 + 0.01) / 3)
    assert anchor_recall(boxes, [[20, 5]], threshold=0.5)[0] == pytest.approx(1 / 3)
    assert anchor_recall(boxes, [[20, 5]], threshold=1.0)[0] == 0  # above, not at
    assert anchor_recall(np.zeros((0, 2)), [[20, 5]]) == (0.0, 0.0)
    assert all(type(value) is float for value in anchor_recall(boxes, [[20, 5]]))


def test_obvious_clusters_are_found():
    anchors = kmeans_anchors(_clusters(), 3)
    assert anchors.shape == (3, 2) and np.abs(anchors / OBVIOUS - 1).max() < 0.02
    assert (np.diff(anchors.prod(axis=1)) > 0).all()
    without_mutation = kmeans_anchors(_clusters(), 3, mutations=0)
    means = np.array([_clusters()[100 * k : 100 * k + 100].mean(axis=0) for k in range(3)])
    assert np.allclose(without_mutation, means)


def test_widths_and_heights_count_alike():
    """Widths 10 to 1000 in two clusters of heights 1 and 3: undivided, heights would be of no account."""
    random = np.random.default_rng(0)
    boxes = np.stack([1000 + 100 * random.standard_normal(400), np.where(np.arange(400) % 2, 10.0, 30.0)], axis=1)
    anchors = kmeans_anchors(boxes, 2, mutations=0)
    assert sorted(anchors[:, 1].round(6)) == [10, 30]


def test_mutation_raises_the_fitness_and_never_lowers_it():
    boxes = np.exp(np.random.default_rng(3).normal(3.5, 1.0, (500, 2)))

    def fitness(anchors):
        best = best_wh_iou(boxes, anchors)
        return (best * (best > 0.2)).mean()

    steps = [fitness(kmeans_anchors(boxes, 5, restarts=3, mutations=count)) for count in (0, 30, 300)]
    assert steps[0] < steps[1] < steps[2] and steps[2] > 1.05 * steps[0]
    own = kmeans_anchors(boxes, 5, threshold=0.5)
    assert anchor_recall(boxes, own, 0.5)[0] >= anchor_recall(boxes, kmeans_anchors(boxes, 5, threshold=0.2), 0.5)[0] - 0.02


def test_equal_seeds_give_equal_anchors():
    boxes = np.exp(np.random.default_rng(0).normal(3.5, 0.8, (300, 2)))
    given = boxes.copy()
    first = kmeans_anchors(boxes, 6, seed=5, mutations=50)
    np.random.seed(8)  # global state is of no account
    assert np.array_equal(first, kmeans_anchors(boxes, 6, seed=5, mutations=50)) and np.array_equal(boxes, given)
    assert not np.array_equal(first, kmeans_anchors(boxes, 6, seed=6, mutations=50))
    assert np.array_equal(first, kmeans_anchors(torch.from_numpy(boxes), 6, seed=5, mutations=50))


def test_fewer_sizes_than_anchors():
    anchors = kmeans_anchors([[40, 20]] * 7, 4, mutations=0)
    assert anchors.tolist() == [[10, 5], [20, 10], [40, 20], [80, 40]]  # a quarter, a half, 1, 2
    assert kmeans_anchors([[40, 20], [8, 8]], 3, mutations=0).tolist() == [[4, 4], [8, 8], [40, 20]]
    assert kmeans_anchors([[40, 20], [8, 8]], 2, mutations=0).tolist() == [[8, 8], [40, 20]]
    assert kmeans_anchors([[3, 3]], 6, mutations=0).min() == 2  # not below two pixels
    mutated = kmeans_anchors([[40, 20], [8, 8], [30, 90]], 9)
    assert mutated.shape == (9, 2) and anchor_recall([[40, 20], [8, 8], [30, 90]], mutated, 0.9)[0] == 1


def test_boxes_of_one_width():
    boxes = [[16, height] for height in range(10, 60)]
    anchors = kmeans_anchors(boxes, 3)
    assert np.isfinite(anchors).all() and anchor_recall(boxes, anchors, 0.5)[0] == 1


def test_many_boxes_are_fast():
    boxes = np.exp(np.random.default_rng(0).normal(4, 0.9, (100_000, 2)))
    start = time.process_time()
    anchors = kmeans_anchors(boxes, 9, restarts=5, mutations=100)
    assert time.process_time() - start < 8 and anchor_recall(boxes, anchors)[0] > 0.9


def test_of_too_many_boxes_a_sample_is_used(monkeypatch):
    monkeypatch.setattr("datasets.kmeans_anchors.MAX_BOXES", 1)
    boxes = np.arange(2.0, 202).reshape(-1, 2)
    anchors = kmeans_anchors(boxes, 1, mutations=0)
    assert anchors.tolist()[0] in boxes.tolist() and not np.array_equal(anchors, kmeans_anchors(boxes, 1, seed=1, mutations=0))


@pytest.mark.parametrize(("boxes", "count", "message"), [
    (np.zeros((0, 2)), 9, "has none"), ([], 9, "has none"), ([[3, 4]], 0, "at least 1"), ([[3, 0]], 1, "positive, finite"),
    ([[3, np.nan]], 1, "positive, finite"), ([[3, np.inf]], 1, "positive, finite")])
def test_bad_boxes(boxes, count, message):
    with pytest.raises(InputError, match=message):
        kmeans_anchors(boxes, count)


def _truth():
    return {"image_index": np.array([0, 0, 1, 1, 1]), "heights": np.array([100, 400], np.int32),
            "widths": np.array([200, 100], np.int32), "iscrowd": np.array([False, False, False, True, False]),
            "boxes": np.array([[0, 0, 20, 10], [5, 5, 7, 95], [10, 10, 30, 50], [0, 0, 90, 90], [0, 0, 40, 7.0]])}


def test_box_sizes_by_hand():
    # Image 0 is 200 wide: half of all; its second box is 1 wide then. Image 1 is 400 high: a quarter; its last is 1.75.
    assert box_sizes(_truth(), 100).tolist() == [[10, 5], [5, 10]]
    # Image 0: x 1/2, y 1. Image 1: x 1, y 1/4.
    assert box_sizes(_truth(), 100, "stretch").tolist() == [[10, 10], [20, 10]]
    # At 200 both are letterboxed with 1 and 1/2, and the thin ones count.
    assert box_sizes(_truth(), 200).tolist() == [[20, 10], [2, 90], [10, 20], [20, 3.5]]
    assert box_sizes(_truth(), (100, 100)).tolist() == box_sizes(_truth(), 100).tolist()
    # 100 high, 50 wide. Image 0: x 1/4, y 1, the second box 0.5 wide. Image 1: x 1/2, y 1/4, the last 1.75 high.
    assert box_sizes(_truth(), (100, 50), "stretch").tolist() == [[5, 10], [10, 10]]
    assert box_sizes(_truth(), (100, 50)).tolist() == [[5, 2.5], [5, 10]]  # 1/4 and 1/4
    # 50 high, 100 wide: 1/2 and 1/8, so image 1's first box is 2.5 x 5; numbers of numpy are taken.
    assert box_sizes(_truth(), tuple(np.array([50, 100]))).tolist() == [[10, 5], [2.5, 5]]
    nothing = {key: value if key in ("heights", "widths") else value[:0] for key, value in _truth().items()}
    assert box_sizes(nothing, 100).shape == (0, 2)
    with pytest.raises(InputError, match="letterbox or stretch"):
        box_sizes(_truth(), 100, "squash")


def test_blood_cells(shared_data):
    """The anchors of a net for COCO fit worse than those made for the data."""
    coco = np.array([[12, 18], [37, 49], [52, 132], [115, 74], [119, 199], [243, 238]])
    sets = {split: VOCDataSet(shared_data / "bccd" / "BCCD", txt_name=split) for split in ("train", "test")}
    anchors = kmeans_anchors(box_sizes(sets["train"].ground_truth(), 320), 6)
    for dataset in sets.values():
        sizes = box_sizes(dataset.ground_truth(), 320)
        for threshold in (0.2, 0.5, 0.7):
            assert anchor_recall(sizes, anchors, threshold)[0] >= anchor_recall(sizes, coco, threshold)[0]
        assert anchor_recall(sizes, anchors)[1] > 0.84 > 0.66 > anchor_recall(sizes, coco)[1]
