"""python -m pytest tests/test_anchor_generator.py"""

import pytest
import torch

from network_files.anchor_generator import MAX_CACHED_SHAPES, AnchorsGenerator, cell_anchors

RATIOS = (0.5, 1.0, 2.0)


def maps(*grids):
    return [torch.zeros(1, 1, *grid) for grid in grids]


def test_corners_of_one_cell():
    assert cell_anchors((32,), RATIOS).tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    for size, long, short in [(64, 45, 23), (128, 91, 45), (256, 181, 91), (512, 362, 181)]:
        assert cell_anchors((size,), RATIOS)[0].tolist() == [-long, -short, long, short]


def test_ratio_major_then_size():
    assert cell_anchors((10, 20), (1.0, 4.0))[:, 2:].tolist() == [[5, 5], [10, 10], [2, 10], [5, 20]]


def test_nine_anchors_of_a_small_grid():
    (anchors,) = AnchorsGenerator(((10,),), ((1.0,),))((15, 15), maps((3, 3)))
    expected = [[-5 + 5 * j, -5 + 5 * i, 5 + 5 * j, 5 + 5 * i] for i in range(3) for j in range(3)]
    assert anchors.tolist() == expected


def test_sums_of_a_whole_pyramid():
    generator = AnchorsGenerator(((32,), (64,), (128,), (256,), (512,)), (RATIOS,) * 5)
    anchors = torch.cat(generator((800, 1344), maps((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))))
    assert len(anchors) == 268_569
    assert (anchors.double().sum(), anchors.double().abs().sum()) == (572_679_828, 573_425_574)


def test_stride_is_that_of_the_batch_and_not_the_nominal_one():
    (anchors,) = AnchorsGenerator(((64,),), ((1.0,),))((800, 1344), maps((13, 21)))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres[1].tolist() == [64, 0] and centres[21].tolist() == [0, 61]


def test_short_forms_of_sizes_and_ratios():
    assert AnchorsGenerator((32, 64), RATIOS).num_anchors_per_location() == [3, 3]
    assert AnchorsGenerator(((32, 64, 128, 256, 512),), (RATIOS,)).num_anchors_per_location() == [15]


def test_wrong_number_of_levels():
    with pytest.raises(ValueError, match="2 levels but aspect_ratios 1"):
        AnchorsGenerator(((32,), (64,)), (RATIOS,))
    with pytest.raises(ValueError, match="returns 1 feature maps .* 2 levels"):
        AnchorsGenerator((32, 64), RATIOS)((32, 32), maps((4, 4)))


def test_anchors_that_round_to_nothing_are_refused():
    with pytest.raises(ValueError, match="too small"):
        AnchorsGenerator((1,), RATIOS)


def test_cache_returns_the_same_tensors_and_stays_bounded():
    generator = AnchorsGenerator((32,), RATIOS)
    first = generator((64, 64), maps((4, 4)))
    assert generator((64, 64), maps((4, 4)))[0] is first[0]
    for side in range(1, 201):
        generator((32 * side, 32), maps((2 * side, 2)))
    assert len(generator._cache) == MAX_CACHED_SHAPES


def test_anchors_made_in_inference_mode_serve_training():
    generator = AnchorsGenerator((32,), RATIOS)
    with torch.inference_mode():
        generator((64, 64), maps((2, 2)))
    weight = torch.ones(1, requires_grad=True)
    (generator((64, 64), maps((2, 2)))[0] * weight).sum().backward()  # an inference tensor refuses this
    assert weight.grad is not None


def test_dtype():
    generator = AnchorsGenerator((32,), RATIOS)
    for given, made in [(torch.float16, torch.float32), (torch.float64, torch.float64)]:
        assert generator((64, 64), [torch.zeros(1, 1, 2, 2, dtype=given)])[0].dtype == made
