"""python -m pytest tests/test_roi_align.py"""

import math

import pytest
import torch
import torchvision

from network_files.roi_align import MultiScaleRoIAlign, RoIAlignMatmulBackward, axis_weights, fpn_levels


def pool_by_loops(feature, box, stride, side=7, samples=2):
    """RoIAlign of one box [4] on one map [C, H, W], after the definition."""
    channels, height, width = feature.shape
    x1, y1, x2, y2 = (float(v) / stride for v in box)
    bin_w, bin_h = max(x2 - x1, 1.0) / side, max(y2 - y1, 1.0) / side
    out = torch.zeros(channels, side, side)
    for row in range(side):
        for column in range(side):
            for j in range(samples):
                for i in range(samples):
                    y = y1 + bin_h * (row + (j + 0.5) / samples)
                    x = x1 + bin_w * (column + (i + 0.5) / samples)
                    if -1 <= y <= height and -1 <= x <= width:  # samples further out count as zero
                        out[:, row, column] += bilinear(feature, y, x) / samples**2
    return out


def bilinear(feature, y, x):
    height, width = feature.shape[1:]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = feature[:, top, left] * (1 - dx) + feature[:, top, right] * dx
    lower = feature[:, bottom, left] * (1 - dx) + feature[:, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


BOXES = torch.tensor(
    [
        [3.0, 5.0, 21.0, 17.0],
        [0.0, 0.0, 32.0, 32.0],
        [31.5, 31.5, 32.0, 32.0],  # thinner than a cell, at the corner: most samples lie outside
        [-20.0, -20.0, 6.0, 9.0],
        [10.0, 10.0, 10.1, 30.0],
    ]
)


def test_one_level_against_loops():
    feature = torch.randn(1, 3, 8, 8)
    pooled = MultiScaleRoIAlign(["0"], 7, 2)({"0": feature}, [BOXES], [(32, 32)])
    expected = torch.stack([pool_by_loops(feature[0], box, 4) for box in BOXES])
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)
    assert (expected[2] == 0).float().mean() > 0.5  # the edge rule is at work


def test_level_rule_by_hand():
    def level(side, strides=(4, 8, 16, 32)):
        return int(fpn_levels(torch.tensor([[0.0, 0.0, side, side]]), strides))

    assert [level(side) for side in (10, 111, 112, 223, 224, 447, 448, 2000)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [level(side, (8, 16, 32)) for side in (10, 112, 224, 448)] == [0, 0, 1, 2]
    assert [level(side, (32, 32)) for side in (10, 224, 2000)] == [0, 0, 0]  # both maps of one stride: the first


def random_boxes(number, size):
    start = torch.rand(number, 2) * size / 2
    return torch.cat((start, start + 1 + torch.rand(number, 1) ** 2 * size), dim=1)


def pyramid(height, width, images=2):
    return {str(i): torch.randn(images, 4, height // s, width // s) for i, s in enumerate((4, 8, 16, 32))}


def test_pyramid_equals_torchvision():
    features = {**pyramid(512, 1024), "pool": torch.randn(2, 4, 8, 16)}
    boxes = [random_boxes(40, 1000.0), random_boxes(30, 500.0)]
    ours, theirs = (
        kind(["0", "1", "2", "3"], 7, 2)(features, boxes, [(512, 1024)] * 2)
        for kind in (MultiScaleRoIAlign, torchvision.ops.MultiScaleRoIAlign)
    )
    assert len(fpn_levels(torch.cat(boxes), (4, 8, 16, 32)).unique()) == 4
    assert torch.equal(ours, theirs)


def test_gradient_equals_torchvision():
    features = {name: feature.requires_grad_() for name, feature in pyramid(256, 256, images=1).items()}
    weight, grads = torch.randn(20, 4, 7, 7), []
    boxes = [random_boxes(20, 256.0)]
    for kind in (MultiScaleRoIAlign, torchvision.ops.MultiScaleRoIAlign):
        pooled = kind(["0", "1", "2", "3"], 7, 2)(features, boxes, [(256, 256)])
        grads.append(torch.autograd.grad((pooled * weight).sum(), list(features.values())))
    for ours, theirs in zip(*grads):  # levels without a proposal have a gradient too, of zeros
        torch.testing.assert_close(ours, theirs)


def test_no_proposals():
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    pooled = pool(pyramid(64, 64), [torch.zeros(0, 4)] * 2, [(64, 64)] * 2)
    assert pooled.shape == (0, 4, 7, 7)
    one_empty = pool(pyramid(64, 64), [torch.zeros(0, 4), random_boxes(3, 60.0)], [(64, 64)] * 2)
    assert one_empty.shape == (3, 4, 7, 7)


def test_strides_follow_the_padded_batch_and_not_an_earlier_one():
    pool, box = MultiScaleRoIAlign(["0"], 7, 2), torch.tensor([[2.0, 3.0, 15.0, 14.0]])
    small = torch.randn(1, 2, 8, 8)  # a 17-pixel image padded to 32: stride 4
    torch.testing.assert_close(pool({"0": small}, [box], [(32, 32)])[0], pool_by_loops(small[0], box[0], 4))
    coarse = torch.randn(1, 2, 8, 8)
    torch.testing.assert_close(pool({"0": coarse}, [box], [(256, 256)])[0], pool_by_loops(coarse[0], box[0], 32))


def test_given_strides_are_used():
    feature, box = torch.randn(1, 2, 9, 9), torch.tensor([[2.0, 3.0, 15.0, 14.0]])
    pooled = MultiScaleRoIAlign(["a", "b"], 7, 2, strides=(6, 12))({"b": feature}, [box], [(99, 99)])
    torch.testing.assert_close(pooled[0], pool_by_loops(feature[0], box[0], 12))


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="2 levels are named but 1 strides"):
        MultiScaleRoIAlign(["0", "1"], 7, 2, strides=(4,))
    with pytest.raises(ValueError, match=r"\('0',\) but the backbone has \('c4',\)"):
        MultiScaleRoIAlign(["0"], 7, 2)({"c4": torch.zeros(1, 1, 4, 4)}, [BOXES], [(64, 64)])


def test_half_precision_maps_are_pooled_in_float32():
    feature = torch.randn(1, 2, 8, 8).bfloat16()
    pooled = MultiScaleRoIAlign(["0"], 7, 2)({"0": feature}, [BOXES], [(32, 32)])
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled[0], pool_by_loops(feature[0].float(), BOXES[0], 4))
    assert math.isfinite(pooled.sum())


def rois_of_every_kind(images, height, width):
    """Inside, over each border, thinner than a cell, beyond the map, and in mixed order of the images."""
    boxes = [[8, 8, 60, 40], [-30, -20, 10, 10], [width * 16 - 9, 3, width * 16 + 40, 50], [31.5, 5, 32, 6],
             [width * 16 - 0.5, 0, width * 16, height * 16], [0, 0, width * 16, height * 16], [900, 900, 950, 990]]
    return torch.tensor([[i % images, *box] for i, box in enumerate(boxes)], dtype=torch.float64)


def test_the_gradient_by_matrix_products_is_that_of_the_kernel():
    level = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = rois_of_every_kind(2, 5, 6)
    arguments = (rois, (7, 7), 1 / 16, 2)
    pooled, expected = RoIAlignMatmulBackward.apply(level, *arguments), torchvision.ops.roi_align(level, *arguments)
    assert torch.equal(pooled, expected)
    gradient = torch.randn_like(expected)
    (mine,) = torch.autograd.grad(pooled, level, gradient)
    (kernel,) = torch.autograd.grad(expected, level, gradient)
    torch.testing.assert_close(mine, kernel, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: RoIAlignMatmulBackward.apply(x, *arguments), level)


def test_the_gradient_in_small_pieces_and_of_no_proposal(monkeypatch):
    level = torch.randn(1, 2, 5, 6, requires_grad=True)
    rois = rois_of_every_kind(1, 5, 6).float()
    whole, = torch.autograd.grad(RoIAlignMatmulBackward.apply(level, rois, (2, 2), 1 / 16, 2).sum(), level)
    monkeypatch.setattr("network_files.roi_align.MAX_MATMUL_ELEMENTS", 1)
    pieces, = torch.autograd.grad(RoIAlignMatmulBackward.apply(level, rois, (2, 2), 1 / 16, 2).sum(), level)
    torch.testing.assert_close(whole, pieces)
    none, = torch.autograd.grad(RoIAlignMatmulBackward.apply(level, rois[:0], (2, 2), 1 / 16, 2).sum(), level)
    assert none.shape == level.shape and not none.any()


def test_axis_weights_by_hand():
    # one bin of two points at 0.5 and 1.5: cells 0 and 1 half each, cells 1 and 2 half each
    torch.testing.assert_close(axis_weights(torch.tensor([0.0]), torch.tensor([2.0]), 4, 1, 2),
                               torch.tensor([[[0.25, 0.5, 0.25, 0.0]]]))
    # points at 3.25 (the last cell alone) and 4.75 (more than a cell outside: nothing)
    torch.testing.assert_close(axis_weights(torch.tensor([2.5]), torch.tensor([3.0]), 4, 1, 2),
                               torch.tensor([[[0.0, 0.0, 0.0, 0.5]]]))
