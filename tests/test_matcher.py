"""python -m pytest tests/test_matcher.py"""

import pytest
import torch

from network_files import matcher as matcher_module
from network_files.boxes import iou
from network_files.matcher import Matcher

IOUS = torch.tensor(
    [
        [0.9, 0.4, 0.1, 0.0],  # gt 0: match, in between, background, background
        [0.0, 0.1, 0.2, 0.0],  # gt 1: never above 0.2; anchor 2 is its best
    ]
)


def test_thresholds():
    assert Matcher(0.7, 0.3, allow_low_quality_matches=False)(IOUS).tolist() == [0, -2, -1, -1]
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(IOUS).tolist() == [0, -2, 1, -1]


def test_thresholds_belong_to_the_upper_side():
    ious = torch.tensor([[0.7, 0.3, 0.29]])
    assert Matcher(0.7, 0.3)(ious).tolist() == [0, -2, -1]
    assert Matcher(0.5, 0.5)(torch.tensor([[0.5, 0.49]])).tolist() == [0, -1]


def test_a_rescued_anchor_gets_its_own_best_ground_truth():
    ious = torch.tensor([[0.60, 0.9], [0.55, 0.1]])  # anchor 0 is the best of gt 1, but overlaps gt 0 more
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(ious).tolist() == [0, 0]


def test_all_anchors_that_tie_for_best_are_rescued():
    ious = torch.tensor([[0.2, 0.25, 0.25, 0.1]])
    assert Matcher(0.7, 0.3, allow_low_quality_matches=True)(ious).tolist() == [-1, 0, 0, -1]


def test_ties_between_ground_truths_go_to_the_first():
    assert Matcher(0.5, 0.5)(torch.tensor([[0.8], [0.8]])).tolist() == [0]


@pytest.mark.parametrize("low_quality", [False, True])
def test_no_ground_truth_or_no_anchors(low_quality):
    matcher = Matcher(0.7, 0.3, low_quality)
    assert matcher(torch.zeros(0, 3)).tolist() == [-1, -1, -1]
    assert matcher.match(torch.zeros(0, 4), torch.rand(3, 4)).tolist() == [-1, -1, -1]
    assert matcher.match(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.zeros(0, 4)).tolist() == []


@pytest.mark.parametrize("low_quality", [False, True])
def test_in_pieces_the_same(low_quality, monkeypatch):
    corners = torch.randint(0, 40, (500, 2)).float()  # whole numbers, so that many IoUs tie
    anchors = torch.cat((corners, corners + torch.randint(4, 20, (500, 2))), dim=1)
    gt_boxes = anchors[:7] + torch.tensor([0.0, 0.0, 3.0, 2.0])
    matcher = Matcher(0.7, 0.3, low_quality)
    whole = matcher(iou(gt_boxes, anchors))
    monkeypatch.setattr(matcher_module, "MAX_IOU_ELEMENTS", 7 * 64)
    assert torch.equal(matcher.match(gt_boxes, anchors), whole)
    assert {-1, -2} < set(whole.tolist())


def test_thresholds_must_rise():
    with pytest.raises(ValueError, match="not 0.7 and 0.3"):
        Matcher(0.3, 0.7)
