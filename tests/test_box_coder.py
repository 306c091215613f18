"""python -m pytest tests/test_box_coder.py"""

import math

import pytest
import torch

from network_files.box_coder import BoxCoder


def test_encode_by_hand():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])  # centre (5, 10), sides 10, 20
    gt_boxes = torch.tensor([[2.0, 5.0, 22.0, 15.0]])  # centre (12, 10), sides 20, 10
    expected = torch.tensor([[0.7, 0.0, math.log(2), -math.log(2)]])
    torch.testing.assert_close(BoxCoder().encode(gt_boxes, anchors), expected)
    weights = (10.0, 10.0, 5.0, 5.0)
    torch.testing.assert_close(BoxCoder(weights).encode(gt_boxes, anchors), expected * torch.tensor([weights]))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_round_trip(weights):
    corners = torch.rand(2, 50, 2) * 100
    anchors, gt_boxes = torch.cat((corners, corners + 5 + torch.rand(2, 50, 2) * 60), dim=2)
    coder = BoxCoder(weights)
    torch.testing.assert_close(coder.decode(coder.encode(gt_boxes, anchors), anchors), gt_boxes)


def test_decode_limits_growth_and_not_shrinking():
    anchors = torch.tensor([[-8.0, -8.0, 8.0, 8.0]])
    grown = BoxCoder().decode(torch.tensor([[0.0, 0.0, 99.0, 99.0]]), anchors)
    torch.testing.assert_close(grown, torch.tensor([[-500.0, -500.0, 500.0, 500.0]]))  # 1000 / 16 times the anchor
    shrunk = BoxCoder().decode(torch.tensor([[0.0, 0.0, -99.0, -99.0]]), anchors)
    torch.testing.assert_close(shrunk, torch.zeros(1, 4))


def test_nothing_to_code():
    empty = torch.zeros(0, 4)
    assert BoxCoder().encode(empty, empty).shape == BoxCoder().decode(empty, empty).shape == (0, 4)


def test_decode_takes_the_dtype_of_the_deltas():
    assert BoxCoder().decode(torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, 4)).dtype == torch.float64
