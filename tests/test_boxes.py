"""python -m pytest tests/test_boxes.py"""

import pytest
import torch
import torchvision

from network_files import boxes as B


def random_boxes(number, seed=0, size=100.0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(number, 2, generator=generator) * size
    return torch.cat((corners, corners + 1 + torch.rand(number, 2, generator=generator) * size / 3), dim=1)


def test_iou_by_hand():
    gt_boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    anchors = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]], dtype=torch.float32)
    expected = [[1.0, 50 / 150, 0.0, 4 / 100]]
    torch.testing.assert_close(B.iou(gt_boxes, anchors), torch.tensor(expected))


def test_iou_and_area_equal_torchvision_bit_for_bit():
    gt_boxes, anchors = random_boxes(17, 1), random_boxes(400, 2)
    assert torch.equal(B.iou(gt_boxes, anchors), torchvision.ops.box_iou(gt_boxes, anchors))
    assert torch.equal(B.area(anchors), torchvision.ops.box_area(anchors))


def test_no_boxes():
    empty = torch.zeros(0, 4)
    assert B.iou(empty, random_boxes(3)).shape == (0, 3)
    assert B.iou(random_boxes(3), empty).shape == (3, 0)
    assert B.area(empty).shape == (0,)
    assert B.clip(empty, 5, 5).shape == B.xywh_to_xyxy(empty).shape == B.scale(empty, (1, 1), (2, 2)).shape == (0, 4)
    assert B.batched_nms(empty, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).tolist() == []


def test_half_precision_is_computed_in_float32():
    boxes = torch.tensor([[0.0, 0.0, 1000.0, 1000.0], [0.0, 0.0, 1000.0, 500.0]], dtype=torch.float16)
    assert B.area(boxes).tolist() == [1_000_000.0, 500_000.0]  # beyond the largest float16
    assert B.iou(boxes, boxes.bfloat16())[0, 1] == 0.5


def test_clip_by_hand():
    boxes = torch.tensor([[-5.0, -1.0, 30.0, 7.0], [12.0, 3.0, 40.0, 50.0], [25.0, 12.0, 30.0, 15.0]])
    assert B.clip(boxes, height=10, width=20).tolist() == [[0, 0, 20, 7], [12, 3, 20, 10], [20, 10, 20, 10]]


def test_large_enough_needs_both_sides():
    boxes = torch.tensor([[0, 0, 2, 2], [0, 0, 1.9, 5], [0, 0, 5, 1.9], [3, 3, 3, 3]])
    assert B.large_enough(boxes, 2.0).tolist() == [True, False, False, False]


def test_scale_goes_by_axis_and_leaves_its_input_alone():
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert B.scale(boxes, old_size=(10, 10), new_size=(30, 20)).tolist() == [[2, 6, 6, 12]]
    assert boxes.tolist() == [[1, 2, 3, 4]]


def test_formats_there_and_back():
    assert B.xywh_to_xyxy(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[1, 2, 4, 6]]
    boxes = random_boxes(20)
    torch.testing.assert_close(B.xywh_to_xyxy(B.xyxy_to_xywh(boxes)), boxes)


def greedy_nms(boxes, scores, groups, threshold):
    """The definition, in plain Python."""
    overlap = torchvision.ops.box_iou(boxes, boxes)
    keep, suppressed = [], torch.zeros(len(boxes), dtype=torch.bool)
    for i in scores.sort(descending=True).indices.tolist():
        if not suppressed[i]:
            keep.append(i)
            suppressed |= (groups == groups[i]) & (overlap[i] > threshold)
    return keep


@pytest.mark.parametrize("number", [200, 1100])  # below and above the limit between the two ways
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_nms_keeps_what_the_definition_keeps(number, threshold):
    for seed in range(3):
        boxes, scores = random_boxes(number, seed), torch.randperm(number) / number  # no ties
        groups = torch.randint(4, (number,))
        keep = B.batched_nms(boxes, scores, groups, threshold)
        assert keep.tolist() == greedy_nms(boxes, scores, groups, threshold)
        assert torch.equal(keep, torchvision.ops.batched_nms(boxes, scores, groups, threshold))
        assert B.batched_nms(boxes, scores, groups, threshold, max_keep=7).tolist() == keep.tolist()[:7]


def test_nms_suppresses_above_the_threshold_only():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]])  # IoU exactly 0.5
    scores, group = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    assert B.batched_nms(boxes, scores, group, 0.5).tolist() == [0, 1]
    assert B.batched_nms(boxes, scores, group, 0.499).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_in_half_precision(dtype):
    boxes = torch.tensor([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], dtype=dtype)
    scores = torch.tensor([0.5, 0.75, 0.25], dtype=dtype)
    assert B.batched_nms(boxes, scores, torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [1, 2]


def test_nms_refuses_wrong_shapes():
    with pytest.raises(AssertionError, match=r"\[K, 4\]"):
        B.batched_nms(torch.zeros(4), torch.zeros(1), torch.zeros(1), 0.5)
    with pytest.raises(AssertionError, match="length"):
        B.batched_nms(torch.zeros(2, 4), torch.zeros(1), torch.zeros(2), 0.5)
