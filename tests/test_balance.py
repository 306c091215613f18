import numpy as np
import pytest
from jetson_data import make_jetson_voc, make_open_images, remove_objects
from torch.utils.data import Subset

from datasets import JoinedDataset, OpenImagesDataset, TrainingSamples, VOCDataSet, balanced_subset
from datasets.balance import balance


def _truth(images_of, num_images, names="abc", crowd=()):
    """images_of: per class the images with an object of it; crowd: (class, image) pairs besides."""
    pairs = [(label, image) for label, images in enumerate(images_of, start=1) for image in images]
    rows = np.array(pairs + list(crowd), dtype=np.int64).reshape(-1, 2)
    return {"num_images": num_images, "labels": rows[:, 0], "image_index": rows[:, 1], "class_names": list(names),
            "iscrowd": np.arange(len(rows)) >= len(pairs)}


def test_as_many_images_of_each_class_as_of_the_rarest():
    truth = _truth([range(0, 50), range(50, 60), range(60, 63)], 63)
    chosen = balance(truth, seed=0)
    assert chosen == sorted(set(chosen))
    assert [sum(a <= i < b for i in chosen) for a, b in ((0, 50), (50, 60), (60, 63))] == [3] * 3
    assert balance(truth, seed=0) == chosen != balance(truth, seed=1)


def test_companions_come_along():
    truth = _truth([range(20), [3, 7]], 20, "ab")  # both rare images hold the frequent class too
    for seed in range(5):
        chosen = balance(truth, seed)
        assert {3, 7} <= set(chosen) and 2 <= len(chosen) <= 4


def test_each_image_has_the_same_chance():
    counts = np.zeros(12)
    for seed in range(300):
        counts[balance(_truth([range(10), [10, 11]], 12, "ab"), seed)] += 1
    assert counts[10] == counts[11] == 300 and (35 < counts[:10]).all() and (counts[:10] < 90).all()  # 60 expected


@pytest.mark.parametrize(("images_of", "kept"), [
    ([range(6), [], []], range(8)),  # one class only: everything
    ([[], [], []], range(8)),  # no object at all: everything
    ([[1, 2], [], [5]], None),  # an absent class does not make the smallest set empty
])
def test_absent_classes(images_of, kept):
    chosen = balance(_truth(images_of, 8), seed=0)
    assert chosen == list(kept) if kept is not None else (len(chosen) == 2 and 5 in chosen)


def test_images_without_objects_are_left_out_and_crowds_do_not_count():
    chosen = balance(_truth([[0, 1], [2, 3]], 9, "ab", crowd=[(1, 7), (2, 8)]), seed=0)
    assert chosen == [0, 1, 2, 3]
    assert balance(_truth([[0, 1], []], 9, "ab", crowd=[(2, 8)]), seed=0) == list(range(9))


def test_what_is_said(tmp_path):
    root = make_jetson_voc(tmp_path / "drone", num_train=12, num_test=2)
    remove_objects(root, "star", "trainval")
    dataset = VOCDataSet(root, txt_name="trainval", class_names=["circle", "square", "triangle", "star"])
    subset, lines = balanced_subset(dataset, seed=3)
    truth = dataset.ground_truth()
    before = [len(np.unique(truth["image_index"][truth["labels"] == label])) for label in (1, 2, 3)]
    after = [sum(label in dataset.coco_index(i)[1]["labels"] for i in subset.indices) for label in (1, 2, 3)]
    assert min(after) == min(before) and subset.indices == balance(dataset, seed=3)
    empty = sum(len(dataset.coco_index(i)[1]["labels"]) == 0 for i in range(12))
    assert lines == [f"balanced: {len(subset)} of 12 images ({empty} without objects left out)",
                     *(f"  {name}: {b} -> {a} images" for name, b, a in zip(dataset.class_names, before, after)),
                     "  star: no object here, not counted"]
    assert TrainingSamples(subset).ground_truth()["num_images"] == len(subset)


def test_one_class_only(tmp_path):
    dataset = OpenImagesDataset(make_open_images(tmp_path / "fruit", 8, 1, classes=["circle"]))
    subset, lines = balanced_subset(dataset, seed=0)
    assert list(subset.indices) == list(range(len(dataset)))
    assert lines == ["balanced: all images stay, since fewer than two classes have objects",
                     f"  circle: {len(dataset)} -> {len(dataset)} images"]


def test_any_data_set(tmp_path):
    dataset = OpenImagesDataset(make_open_images(tmp_path / "fruit", num_train=6, num_test=1))
    assert balance(dataset, 0) == balance(dataset.ground_truth(), 0) == balance(Subset(dataset, range(6)), 0)
    joined = JoinedDataset([dataset, dataset])
    subset, _ = balanced_subset(joined, seed=0)
    assert 0 < len(subset) <= 12 and subset[0][0].shape[0] == 3
