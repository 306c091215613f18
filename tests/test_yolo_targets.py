"""python -m pytest tests/test_yolo_targets.py"""

import math

import pytest
import torch

from network_files import yolov3
from network_files.darknet import YoloHead
from network_files.yolo_targets import (
    MIN_SIDE,
    cell_size,
    decode,
    fitting_anchors,
    gather_truths,
    positions_and_cells,
    split_head,
    wh_iou,
)

INPUT_SIZE = (64, 96)  # height, width
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def head(anchors, mask=None, num_classes=2, stride=32, scale_x_y=1.0):
    mask = tuple(range(len(anchors))) if mask is None else mask
    return YoloHead(0, num_classes, mask, tuple(anchors), stride, 0.5, 1.0, scale_x_y)


def target(boxes, labels):
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)}


def sized(*sizes):
    """The truths of one image with boxes of these (width, height), in the corner."""
    boxes = torch.tensor([[0.0, 0.0, width, height] for width, height in sizes]).reshape(-1, 4)
    return gather_truths([{"boxes": boxes, "labels": torch.ones(len(sizes), dtype=torch.int64)}], INPUT_SIZE, boxes)


def test_the_truths_of_a_batch():
    targets = [target([[10.0, 20.0, 30.0, 60.0]], [2]), NOTHING, target([[0.0, 0.0, 8.0, 4.0], [8.0, 8.0, 12.0, 9.0]], [1, 3])]
    truths = gather_truths(targets, INPUT_SIZE, torch.zeros(0, dtype=torch.float64))
    assert truths.centres.tolist() == [[20, 40], [4, 2], [10, 8.5]] and truths.centres.dtype == torch.float64
    assert truths.sizes.tolist() == [[20, 40], [8, 4], [4, 1]]
    assert truths.classes.tolist() == [1, 0, 2] and truths.images.tolist() == [0, 2, 2] and truths.counts == [1, 0, 2]


def test_odd_truths():
    odd = target([[-30.0, -10.0, 10.0, 6.0], [90.0, 60.0, 110.0, 70.0], [5.0, 5.0, 5.0, 5.0]], [1, 1, 1])
    truths = gather_truths([odd], INPUT_SIZE, torch.zeros(0))
    assert truths.centres.tolist() == [[0, 0], [96, 64], [5, 5]]
    torch.testing.assert_close(truths.sizes[2], torch.tensor([MIN_SIDE, MIN_SIDE]))
    raw = torch.zeros(1, 1, 7, 2, 3)
    positions, row, column = positions_and_cells(truths, raw, INPUT_SIZE)
    assert row.tolist() == [0, 1, 0] and column.tolist() == [0, 2, 0]
    assert positions[1].tolist() == [3, 2]


def test_cells():
    raw = torch.zeros(1, 1, 7, 2, 3)
    assert cell_size(raw, INPUT_SIZE).tolist() == [32, 32]
    truths = gather_truths([target([[30.0, 60.0, 34.0, 62.0], [84.0, 2.0, 92.0, 6.0]], [1, 1])], INPUT_SIZE, raw)
    positions, row, column = positions_and_cells(truths, raw, INPUT_SIZE)
    assert positions.tolist() == [[1, 61 / 32], [2.75, 0.125]]
    assert row.tolist() == [1, 0] and column.tolist() == [1, 2]


def test_wh_iou():
    found = wh_iou(torch.tensor([[16.0, 12.0], [4.0, 30.0]]), torch.tensor([[16.0, 16.0], [16.0, 8.0]]))
    # 192 / 256, 128 / 192; (4 * 16 = 64) / (120 + 256 - 64), (4 * 8 = 32) / (120 + 128 - 32)
    torch.testing.assert_close(found, torch.tensor([[3 / 4, 2 / 3], [64 / 312, 32 / 216]]))


def test_anchors_that_fit():
    heads = [head([(64.0, 64.0), (16.0, 16.0)]), head([(16.0, 8.0), (4.0, 4.0)], stride=16)]
    # 16 x 12: .0469, .75, .667, .0833; 64 x 60: .9375, ...; 1 x 1: .0002, .0039, .0078, .0625: none, the last is the best;
    # 200 x 200: .102, ...: none, the first is the best; 16 x 6: .023, .375, .75, .167
    truths = sized((16.0, 12.0), (64.0, 60.0), (1.0, 1.0), (200.0, 200.0), (16.0, 6.0))
    coarse, fine = fitting_anchors(truths, heads, 0.3689)
    assert coarse.tolist() == [[False, True], [True, False], [False, False], [True, False], [False, True]]
    assert fine.tolist() == [[True, False], [False, False], [False, True], [False, False], [True, False]]
    assert [mask.tolist() for mask in fitting_anchors(truths, heads[:1], 0.7)] == [
        [[False, True], [True, False], [False, True], [True, False], [False, True]]
    ]
    assert [list(mask.shape) for mask in fitting_anchors(sized(), heads, 0.3689)] == [[0, 2], [0, 2]]


def test_every_truth_has_an_anchor():
    sizes = torch.rand(500, 2) ** 4 * 300
    truths = sized(*sizes.tolist(), (0.0, 0.0))
    heads = [head([(10.0, 13.0), (16.0, 30.0), (33.0, 23.0)]), head([(116.0, 90.0), (156.0, 198.0), (373.0, 326.0)])]
    fits = torch.cat(fitting_anchors(truths, heads, 0.3689), dim=1)
    assert fits.any(dim=1).all() and (fits.sum(dim=1) > 1).any()


def test_decode_by_hand():
    this = head([(10.0, 20.0), (30.0, 12.0)], mask=(1,), scale_x_y=1.2)
    output = torch.zeros(1, 7, 2, 3)
    output[0, :4, 1, 2] = torch.tensor([math.log(3), -math.log(3), math.log(2), -math.log(3)])
    # sigmoid .75 and .25, centre (2 + 1.2 * .75 - .1, 1 + 1.2 * .25 - .1) * 32 = (89.6, 38.4), size (60, 4)
    boxes = decode(split_head(output, this), this, INPUT_SIZE).view(2, 3, 4)
    torch.testing.assert_close(boxes[1, 2], torch.tensor([59.6, 36.4, 119.6, 40.4]))
    torch.testing.assert_close(boxes[0, 1], torch.tensor([33.0, 10.0, 63.0, 22.0]))  # centre (1.5, .5) * 32


def test_the_detector_decodes_alike():
    this = head([(10.0, 20.0), (30.0, 12.0), (8.0, 8.0)], mask=(0, 2), scale_x_y=1.05)
    raw = split_head(torch.randn(2, 14, 2, 3), this)
    image, anchor, row, column = torch.ones_like(raw[:, :, 4]).nonzero().unbind(1)
    expected = yolov3.decode(
        raw[image, anchor, :4, row, column], torch.stack((column, row), dim=1), torch.tensor(this.own_anchors)[anchor], this, 1e6
    )
    torch.testing.assert_close(decode(raw, this, INPUT_SIZE).flatten(0, 1), expected)


def test_decode_is_bounded():
    this = head([(373.0, 326.0)])
    for value in (-1e4, 1e4):
        boxes = decode(torch.full((1, 1, 7, 2, 3), value), this, INPUT_SIZE)
        area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        assert boxes.isfinite().all() and area.isfinite().all()


def test_a_head_of_another_depth():
    with pytest.raises(AssertionError, match="21 channels, not 2 \\* 7"):
        split_head(torch.zeros(1, 21, 2, 3), head([(1.0, 1.0), (2.0, 2.0)]))
