"""python -m pytest tests/test_default_boxes.py"""

import json
from dataclasses import replace

import pytest
import torch

from network_files.default_boxes import MAX_CACHED_GRIDS, DefaultBoxes, DefaultBoxSpec, cell_sides

# One level of 4 boxes per cell: squares of 20 and sqrt(20 * 45) = 30 pixels, and 40 x 10, 10 x 40.
ONE = DefaultBoxSpec(100, ((20, 45),), ((4.0,),), (50,))
TWO = DefaultBoxSpec(100, ((20, 45), (45, 80)), ((4.0,), ()), (50, 100))


def test_boxes_of_one_cell_in_order():
    (sides,) = cell_sides(ONE)
    assert torch.allclose(sides * 100, torch.tensor([[20, 20], [30, 30], [40, 10], [10, 40]]).double())
    boxes = DefaultBoxes(replace(ONE, steps=None))([(1, 1)])
    expected = [[40, 40, 60, 60], [35, 35, 65, 65], [30, 45, 70, 55], [45, 30, 55, 70]]
    assert boxes.dtype == torch.float32 and torch.allclose(boxes, torch.tensor(expected).float())


def test_order_is_level_row_column_box():
    boxes = DefaultBoxes(TWO).cxcywh_norm([(2, 2), (1, 1)])
    assert boxes.shape == (2 * 2 * 4 + 1 * 1 * 2, 4)
    centres = [[0.25, 0.25]] * 4 + [[0.75, 0.25]] * 4 + [[0.25, 0.75]] * 4 + [[0.75, 0.75]] * 4 + [[0.5, 0.5]] * 2
    assert torch.allclose(boxes[:, :2], torch.tensor(centres))
    assert torch.allclose(boxes[:4, 2:] * 100, torch.tensor([[20.0, 20], [30, 30], [40, 10], [10, 40]]))
    assert torch.equal(boxes[:4, 2:], boxes[12:16, 2:])
    assert boxes[16:, 2:].tolist() == [[pytest.approx(0.45)] * 2, [pytest.approx(0.6)] * 2]
    assert TWO.boxes_per_cell == [4, 2]


def test_a_grid_that_is_not_square():
    boxes = DefaultBoxes(replace(ONE, steps=None)).cxcywh_norm([(1, 5)])
    assert torch.allclose(boxes[::4, :2], torch.tensor([[0.1, 0.5], [0.3, 0.5], [0.5, 0.5], [0.7, 0.5], [0.9, 0.5]]))


def test_steps_need_not_divide_the_resolution():
    boxes = DefaultBoxes(replace(ONE, steps=(34,))).cxcywh_norm([(3, 3)])
    assert boxes[::4, 0].tolist()[:3] == [pytest.approx(value) for value in (0.17, 0.51, 0.85)]


def test_what_is_clipped():
    wide = DefaultBoxSpec(100, ((90, 120),), ((4.0,),), (60,))  # centres 30, 90 and 150; sides 90, 103.9, 180 and 45
    everything = DefaultBoxes(wide).cxcywh_norm([(1, 3)])
    sides = DefaultBoxes(replace(wide, clip="sides")).cxcywh_norm([(1, 3)])
    for boxes in (everything, sides):
        assert torch.allclose(boxes[:4, 2:], torch.tensor([[0.9, 0.9], [1, 1], [1, 0.45], [0.45, 1]]))
    assert torch.allclose(everything[::4, 0], torch.tensor([0.3, 0.9, 1.0]))
    assert torch.allclose(sides[::4, 0], torch.tensor([0.3, 0.9, 1.5]))


def test_pixels_are_not_clipped_at_the_border():
    boxes = DefaultBoxes(replace(ONE, sizes=((60, 60),)))([(2, 2)])
    assert torch.allclose(boxes[0], torch.tensor([-5.0, -5, 55, 55]))


def test_cache_returns_the_same_tensor_and_stays_bounded():
    default_boxes = DefaultBoxes(ONE)
    first = default_boxes([(4, 4)])
    assert default_boxes([(4, 4)], "cpu") is first and default_boxes(((4, 4),), torch.device("cpu")) is first
    assert default_boxes([(4, 4)], "meta").device.type == "meta"
    for side in range(1, 2 * MAX_CACHED_GRIDS):
        default_boxes([(side, 1)])
    assert len(default_boxes._cache) == MAX_CACHED_GRIDS


def test_boxes_made_in_inference_mode_serve_training():
    default_boxes = DefaultBoxes(ONE)
    with torch.inference_mode():
        default_boxes([(2, 2)])
    weight = torch.ones(1, requires_grad=True)
    (default_boxes([(2, 2)]) * weight).sum().backward()  # an inference tensor refuses this
    assert weight.grad is not None


def test_levels_must_agree():
    with pytest.raises(ValueError, match="3 source maps but the default boxes are given for 1 levels"):
        DefaultBoxes(ONE)([(1, 1)] * 3)
    for wrong in ({"sizes": ()}, {"aspect_ratios": ((2.0,),) * 2}, {"steps": (50, 50)}, {"clip": "none"}):
        with pytest.raises(ValueError, match="default boxes need sizes, aspect_ratios and steps"):
            replace(ONE, **wrong)


@pytest.mark.parametrize("spec", [TWO, replace(TWO, steps=None, clip="sides")])
def test_to_dict_and_back_through_json(spec):
    values = json.loads(json.dumps(spec.to_dict()))
    assert values == spec.to_dict() and DefaultBoxSpec.from_dict(values) == spec
    assert isinstance(DefaultBoxSpec.from_dict(values).sizes[0], tuple)


def test_from_dict_refuses_other_keys():
    values = ONE.to_dict()
    for wrong in ({**values, "scales": [1]}, {key: value for key, value in values.items() if key != "clip"}, {}):
        with pytest.raises(ValueError, match="default boxes are described by .*'aspect_ratios', 'clip'"):
            DefaultBoxSpec.from_dict(wrong)
