"""python -m pytest tests/test_rpn.py"""

import pytest
import torch
from torch.nn import functional as F

from network_files.anchor_generator import AnchorsGenerator
from network_files.box_coder import BoxCoder
from network_files.rpn import RegionProposalNetwork, RPNHead, anchor_labels, flatten_level


def make_rpn(**changes):
    settings = {
        "fg_iou_thresh": 0.7,
        "bg_iou_thresh": 0.3,
        "batch_size_per_image": 16,
        "positive_fraction": 0.5,
        "pre_nms_top_n": {"training": 50, "testing": 10},
        "post_nms_top_n": {"training": 20, "testing": 5},
        "nms_thresh": 0.7,
    }
    head = RPNHead(8, 3)
    return RegionProposalNetwork(AnchorsGenerator((16, 32), (0.5, 1.0, 2.0)), head, **{**settings, **changes})


FEATURES = [(8, 8), (4, 4)]  # strides 8 and 16 of a 64 x 64 batch
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def head_outputs(images=2, logit=None):
    """Random outputs of a head for the two levels."""
    objectness = [
        torch.randn(images, 3, *grid) if logit is None else torch.full((images, 3, *grid), logit) for grid in FEATURES
    ]
    return [level.requires_grad_() for level in objectness], [
        (torch.randn(images, 12, *grid) * 0.1).requires_grad_() for grid in FEATURES
    ]


def test_head_keys_shapes_and_init():
    head = RPNHead(8, 3, conv_depth=2)
    assert [k for k in head.state_dict() if "weight" in k] == [
        "conv.0.0.weight",
        "conv.1.0.weight",
        "cls_logits.weight",
        "bbox_pred.weight",
    ]
    objectness, deltas = head([torch.rand(2, 8, *grid) for grid in FEATURES])
    assert [tuple(o.shape) for o in objectness] == [(2, 3, 8, 8), (2, 3, 4, 4)]
    assert [tuple(d.shape) for d in deltas] == [(2, 12, 8, 8), (2, 12, 4, 4)]
    assert head.conv[0][0].bias.abs().max() == 0 and 0.005 < head.conv[0][0].weight.std() < 0.02


def test_flatten_level_follows_row_column_anchor():
    output = torch.arange(1 * 2 * 4 * 3 * 5).reshape(1, 8, 3, 5)  # 2 anchors of 4 values on 3 x 5 cells
    flat = flatten_level(output, 4)
    assert flat.shape == (1, 30, 4) and flat.dtype == torch.float32
    assert flat[0, (1 * 5 + 2) * 2 + 1].tolist() == output[0, 4:, 1, 2].tolist()  # row 1, column 2, anchor 1


def test_anchor_labels():
    assert anchor_labels(torch.tensor([-2, -1, 0, 5])).tolist() == [-1, 0, 1, 1]


def test_proposals_numbers_borders_and_order():
    rpn = make_rpn()
    objectness, deltas = head_outputs()
    sizes = [(64, 64), (40, 33)]
    proposals, losses = rpn(objectness, deltas, (64, 64), sizes)
    assert losses is None and [len(p) <= 5 for p in proposals] == [True, True]
    for boxes, (height, width) in zip(proposals, sizes):
        assert not boxes.requires_grad
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
    training, _ = rpn(objectness, deltas, (64, 64), sizes, [EMPTY, EMPTY])
    assert len(training[0]) > 5  # more proposals to train on than to test with


def test_best_proposal_is_the_decoded_anchor_of_the_highest_logit():
    rpn = make_rpn()
    objectness, deltas = head_outputs(images=1)
    with torch.no_grad():
        objectness[1][0, 1, 2, 1] = 9.0  # level 1, anchor of ratio 1, row 2, column 1: centre x 16, y 32, side 32
        deltas[1][0, 4:8, 2, 1] = torch.tensor([0.25, 0.0, 0.0, 0.0])
    proposals, _ = rpn(objectness, deltas, (64, 64), [(64, 64)])
    torch.testing.assert_close(proposals[0][0], torch.tensor([8.0, 16.0, 40.0, 48.0]))


def test_score_threshold_counts_in_training_too():
    rpn = make_rpn(score_thresh=0.05)
    objectness, deltas = head_outputs(logit=-5.0)  # sigmoid 0.0067
    for targets in (None, [EMPTY, EMPTY]):
        proposals, _ = rpn(objectness, deltas, (64, 64), [(64, 64)] * 2, targets)
        assert [tuple(p.shape) for p in proposals] == [(0, 4)] * 2


def test_losses_when_every_anchor_is_sampled():
    """Against the formula written out, without sampling: all anchors fit into the quota."""
    rpn = make_rpn(batch_size_per_image=10_000, positive_fraction=1.0)
    gt_boxes = torch.tensor([[4.0, 4.0, 20.0, 21.0], [30.0, 20.0, 60.0, 50.0]])
    objectness, deltas = head_outputs(images=1)
    _, sums = rpn(objectness, deltas, (64, 64), [(64, 64)], [{"boxes": gt_boxes, "labels": torch.tensor([1, 2])}])
    anchors = torch.cat(rpn.anchor_generator((64, 64), objectness))
    matched = rpn.matcher.match(gt_boxes, anchors)
    logits = torch.cat([flatten_level(o, 1) for o in objectness], dim=1)[0, :, 0]
    flat_deltas = torch.cat([flatten_level(d, 4) for d in deltas], dim=1)[0]
    used, positive = matched != -2, matched >= 0
    assert positive.sum() >= 2 and sums.num_samples == used.sum()
    bce = F.binary_cross_entropy_with_logits(logits[used], positive[used].float(), reduction="sum")
    torch.testing.assert_close(sums.objectness, bce)
    error = (flat_deltas[positive] - BoxCoder().encode(gt_boxes[matched[positive]], anchors[positive])).abs()
    smooth = torch.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18)
    torch.testing.assert_close(sums.box_reg, smooth.sum())


def test_image_without_objects_trains_the_background_only():
    rpn = make_rpn()
    objectness, deltas = head_outputs()
    _, sums = rpn(objectness, deltas, (64, 64), [(64, 64)] * 2, [EMPTY, EMPTY])
    assert sums.num_samples == 32 and sums.box_reg == 0 and sums.objectness > 0
    (sums.objectness + sums.box_reg).backward()
    assert objectness[0].grad.abs().sum() > 0 and deltas[0].grad.abs().sum() == 0


def test_losses_and_proposals_are_float32_from_bfloat16_outputs():
    rpn = make_rpn()
    objectness, deltas = head_outputs(images=1)
    target = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 21.0]]), "labels": torch.tensor([1])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        proposals, sums = rpn(
            [o.bfloat16() for o in objectness], [d.bfloat16() for d in deltas], (64, 64), [(64, 64)], [target]
        )
    assert proposals[0].dtype == sums.objectness.dtype == sums.box_reg.dtype == torch.float32


def test_wrong_number_of_levels_names_both():
    objectness, deltas = head_outputs()
    with pytest.raises(ValueError, match="1 feature maps .* 2 levels"):
        make_rpn()(objectness[:1], deltas[:1], (64, 64), [(64, 64)] * 2)
