"""python -m pytest tests/test_targets.py"""

import pytest
import torch

from network_files.targets import check_targets

GOOD = {"boxes": torch.tensor([[1.0, 2.0, 30.0, 40.0]]), "labels": torch.tensor([3]), "image_id": 7}
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
NAN = float("nan")


def check(*targets, num_classes=4):
    check_targets(list(targets), [(50, 100)] * len(targets), num_classes)


def with_box(*box):
    return {"boxes": torch.tensor([[0.0, 0.0, 5.0, 5.0], box]), "labels": torch.tensor([1, 2]), "image_id": 12}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_good_targets_pass(dtype):
    check(EMPTY, {**GOOD, "boxes": GOOD["boxes"].to(dtype), "image_id": torch.tensor([5])}, EMPTY)
    check(with_box(-3.0, 40.0, 5.0, 60.0))  # partly outside: augmentation and annotators do that
    check_targets([], [])


@pytest.mark.parametrize(
    "box, message",
    [
        ((10.0, 10.0, 10.0, 20.0), "greater"),
        ((10.0, 10.0, 20.0, 10.0), "greater"),
        ((20.0, 10.0, 10.0, 20.0), "greater"),
        ((99.0, 1.0, 99.00001, 9.0), "greater"),
        ((NAN, 0.0, 1.0, 1.0), "finite"),
        ((0.0, 0.0, float("inf"), 1.0), "finite"),
        ((100.0, 0.0, 120.0, 10.0), "outside the image of width 100 and height 50"),
        ((0.0, -9.0, 10.0, 0.0), "outside"),
    ],
)
def test_bad_boxes_are_named(box, message):
    with pytest.raises(ValueError, match=r"^image_id 12, box 1 \[") as error:
        check(EMPTY, GOOD, with_box(*box))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("label", [0, 4, -1])
def test_bad_labels_are_named(label):
    with pytest.raises(ValueError, match=rf"image 1 of the batch, box 0 .* label {label} must be in 1..3"):
        check(EMPTY, {"boxes": GOOD["boxes"], "labels": torch.tensor([label])})


def test_without_a_class_count_only_background_is_refused():
    check({**GOOD, "labels": torch.tensor([1000])}, num_classes=None)
    with pytest.raises(ValueError, match="label 0"):
        check({**GOOD, "labels": torch.tensor([0])}, num_classes=None)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"boxes": [[1, 2, 3, 4]]}, "tensors"),
        ({"boxes": torch.zeros(4)}, r"\[4\]"),
        ({"boxes": torch.zeros(1, 5)}, r"\[1, 5\]"),
        ({"boxes": torch.zeros(1, 4, dtype=torch.int64)}, "int64"),
        ({"labels": torch.tensor([1, 2])}, r"\[2\]"),
        ({"labels": torch.tensor([1.0])}, "float32"),
    ],
)
def test_wrong_forms(change, message):
    with pytest.raises(ValueError, match=rf"image_id 7: .*{message}"):
        check({**GOOD, **change})


def test_one_target_per_image():
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        check_targets([GOOD], [(50, 100)] * 2)
