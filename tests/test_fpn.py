"""Feature pyramid: torchvision's numbers with torchvision's weights, its keys, and a pyramid worked by hand."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from network_files.fpn import BackboneWithFPN, FeaturePyramidNetwork, LastLevelMaxPool, LayerTaps

LEVELS = {"0": torch.rand(2, 8, 13, 17), "1": torch.rand(2, 12, 7, 9), "2": torch.rand(2, 16, 4, 5)}  # odd sizes


@pytest.mark.parametrize("norm_layer", [None, nn.BatchNorm2d])
def test_same_keys_and_outputs_as_torchvision(norm_layer):
    pool = torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
    theirs = torchvision.ops.FeaturePyramidNetwork([8, 12, 16], 6, pool, norm_layer).eval()
    ours = FeaturePyramidNetwork([8, 12, 16], 6, LastLevelMaxPool(), norm_layer).eval()
    ours.load_state_dict(theirs.state_dict())
    expected, found = theirs(LEVELS), ours(LEVELS)
    assert list(found) == list(expected) == ["0", "1", "2", "pool"]
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def test_top_down_path_by_hand():
    fpn = FeaturePyramidNetwork([1, 1], 1)
    for block in fpn.inner_blocks:
        nn.init.ones_(block[0].weight)
    for block in fpn.layer_blocks:  # a 3x3 convolution that picks the centre
        nn.init.zeros_(block[0].weight)
        block[0].weight.data[0, 0, 1, 1] = 1
    fine, coarse = torch.arange(12.0).view(1, 1, 3, 4), torch.tensor([[[[100.0, 200.0], [300.0, 400.0]]]])
    result = fpn({"a": fine, "b": coarse})
    # nearest: rows 0, 1 of three lie over coarse row 0, row 2 over row 1; columns 0, 1 over 0 and 2, 3 over 1
    assert result["a"][0, 0].tolist() == [[100, 101, 202, 203], [104, 105, 206, 207], [308, 309, 410, 411]]
    assert torch.equal(result["b"], coarse)


def test_last_level_takes_every_second_cell():
    results, names = LastLevelMaxPool()([torch.arange(15.0).view(1, 1, 3, 5)], [], ["0"])
    assert names == ["0", "pool"]
    assert results[1][0, 0].tolist() == [[0, 2, 4], [10, 12, 14]]


def test_initialisation():
    fpn = FeaturePyramidNetwork([400], 300)
    for block, fan_in in (fpn.inner_blocks[0], 400), (fpn.layer_blocks[0], 2700):
        bound = (3 / fan_in) ** 0.5  # uniform in +-sqrt(6 / ((1 + a^2) fan_in)) with a = 1
        assert 0.99 * bound < block[0].weight.abs().max() <= bound
        assert block[0].bias.eq(0).all()


def test_number_of_levels_is_checked():
    with pytest.raises(AssertionError, match="2 levels, 1 expected"):
        FeaturePyramidNetwork([8], 4)({"0": LEVELS["0"], "1": LEVELS["1"]})


def test_empty_batch():
    fpn = FeaturePyramidNetwork([8, 12], 4, LastLevelMaxPool())
    shapes = [tuple(level.shape) for level in fpn({"0": torch.rand(0, 8, 4, 4), "1": torch.rand(0, 12, 2, 2)}).values()]
    assert shapes == [(0, 4, 4, 4), (0, 4, 2, 2), (0, 4, 1, 1)]


def test_layer_taps_stop_at_the_last_layer():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Linear(99, 1))
    taps = LayerTaps(net, {"0": "fine", "2": "coarse"})
    x = torch.rand(1, 3, 2, 2)
    levels = taps(x)
    assert torch.equal(levels["fine"], net[0](x)) and torch.equal(levels["coarse"], net[:3](x))
    assert sorted(taps.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    with pytest.raises(ValueError, match="layer9"):
        LayerTaps(net, {"layer9": "0"})


RETURN_LAYERS = {"layer2": "0", "layer3": "1"}


def test_backbone_with_fpn_from_return_layers():
    theirs = torchvision.models.detection.backbone_utils.BackboneWithFPN(
        torchvision.models.resnet18(), dict(RETURN_LAYERS), [128, 256], 32
    ).eval()
    ours = BackboneWithFPN(
        torchvision.models.resnet18(), return_layers=RETURN_LAYERS, in_channels_list=[128, 256], out_channels=32
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 3, 64, 96)
    expected, found = theirs(images), ours(images)
    assert list(found) == ["0", "1", "pool"] and ours.out_channels == 32
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("origin", [{}, {"return_layers": RETURN_LAYERS, "re_getter": False}])
def test_backbone_with_fpn_from_a_feature_extractor(origin):
    body = create_feature_extractor(torchvision.models.resnet18(), RETURN_LAYERS)
    backbone = BackboneWithFPN(body, in_channels_list=[128, 256], out_channels=32, **origin).eval()
    shapes = {name: tuple(level.shape) for name, level in backbone(torch.rand(1, 3, 64, 96)).items()}
    assert shapes == {"0": (1, 32, 8, 12), "1": (1, 32, 4, 6), "pool": (1, 32, 2, 3)}
    assert "body.layer2.0.conv1.weight" in backbone.state_dict()


def test_backbone_with_fpn_needs_the_channels():
    with pytest.raises(ValueError, match="in_channels_list"):
        BackboneWithFPN(nn.Identity())
