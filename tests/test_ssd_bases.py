"""python -m pytest tests/test_ssd_bases.py"""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from network_files import ssd_bases
from network_files.ssd_bases import InvertedResidual, L2Norm, SEBlock, SqueezeExcitation

LARGE_TV = ssd_bases.mobilenet_v3_large_tv_base
# name: (function, (channels, side at 96 pixels) of each tapped map, channels and side of the last map)
BASES = {
    "small": (ssd_bases.small_base, [(64, 12), (128, 6)], (128, 6)),
    "vgg16": (ssd_bases.vgg16_base, [(512, 12), (1024, 6)], (1024, 6)),
    "mobilenet_v1": (ssd_bases.mobilenet_v1_base, [(512, 6), (1024, 3)], (1024, 3)),
    "mobilenet_v2": (ssd_bases.mobilenet_v2_base, [(576, 6), (1280, 3)], (1280, 3)),
    "mobilenet_v2 0.35": (partial(ssd_bases.mobilenet_v2_base, 0.35), [(198, 6), (1280, 3)], (1280, 3)),
    "mobilenet_v2 1.4": (partial(ssd_bases.mobilenet_v2_base, 1.4), [(804, 6), (1792, 3)], (1792, 3)),
    "mobilenet_v3_large": (ssd_bases.mobilenet_v3_large_base, [(112, 6), (960, 3)], (960, 3)),
    "mobilenet_v3_small": (ssd_bases.mobilenet_v3_small_base, [(48, 6), (576, 3)], (576, 3)),
    "squeezenet": (ssd_bases.squeezenet_base, [(512, 5)], (512, 5)),  # 96 -> 47 -> 23 -> 11 -> 5, always rounded down
    "resnet50": (ssd_bases.resnet50_base, [(1024, 12)], (1024, 12)),
    "mobilenet_v3_large_tv": (LARGE_TV, [(672, 6), (480, 3)], (480, 3)),
    "mobilenet_v3_large_tv full": (partial(LARGE_TV, reduced_tail=False), [(672, 6), (960, 3)], (960, 3)),
}


def run(base, images):
    """The tapped maps and the last one, by hooks and not by SSD's own way through the layers."""
    maps = []
    for tap in base.taps:
        module = base.layers[tap.index]
        if tap.inner is not None:
            module = getattr(module, tap.inner[0])[tap.inner[1] - 1]
        module.register_forward_hook(lambda _, inputs, output: maps.append(output.clone()))  # a ReLU follows in place
    with torch.no_grad():
        return maps, base.layers.eval()(images)


def copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """Weights for modules with the same tensors under other names; drawn so that activations live and norms matter."""
    for (key, value), other in zip(source.state_dict().items(), target.state_dict().values(), strict=True):
        if value.ndim == 4:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
        elif value.ndim == 1:
            value.uniform_(0.5, 1.5) if key.endswith(("weight", "var")) else value.uniform_(-0.1, 0.1)
        other.copy_(value)


@pytest.mark.parametrize("name", BASES)
def test_maps_are_as_declared(name):
    make, taps, last = BASES[name]
    base = make()
    maps, end = run(base, torch.rand(1, 3, 96, 96))
    assert [(m.shape[1], m.shape[2]) for m in maps] == taps
    assert base.channels == [channels for channels, _ in taps]
    assert (base.out_channels, end.shape[2]) == last == (end.shape[1], end.shape[3])


@pytest.mark.parametrize(
    "name, taps",
    [("small", [5, 8]), ("vgg16", [22, 34]), ("mobilenet_v1", [11, 13]), ("mobilenet_v2", [(14, ("conv", 3)), 18]),
     ("mobilenet_v3_large", [14, 20]), ("mobilenet_v3_small", [10, 16]), ("squeezenet", [11]), ("resnet50", [6]),
     ("mobilenet_v3_large_tv", [(13, ("block", 1)), 16])],
)  # fmt: skip
def test_taps_are_the_published_ones(name, taps):
    """Neighbouring layers have maps of the same shape, so the shapes alone do not tell."""
    with torch.device("meta"):
        base = BASES[name][0]()
    assert [tuple(tap) for tap in base.taps] == [tap if isinstance(tap, tuple) else (tap, None) for tap in taps]


@pytest.mark.parametrize("name", BASES)
def test_keys_begin_with_the_number_of_the_layer_and_all_weights_are_finite(name):
    layers = BASES[name][0]().layers
    assert {int(key.split(".")[0]) for key in layers.state_dict()} <= set(range(len(layers)))
    assert all(value.isfinite().all() for value in layers.state_dict().values())
    assert all((conv.bias == 0).all() for conv in layers.modules() if isinstance(conv, nn.Conv2d) and conv.bias is not None)


def test_mobilenet_v2_is_torchvisions_at_width_one():
    reference, base = torchvision.models.mobilenet_v2().features.eval(), ssd_bases.mobilenet_v2_base()
    copy_by_order(reference, base.layers)
    images = torch.rand(1, 3, 96, 96)
    (_, end), expected = run(base, images), reference(images)
    assert torch.allclose(end, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_vgg_is_torchvisions_up_to_conv5():
    reference = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])[:30]
    layers = ssd_bases.vgg16_base().layers[:30]
    copy_by_order(reference, layers)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference(images)
        assert expected.max() > 0.1 and torch.allclose(layers(images), expected, rtol=1e-4, atol=1e-5)


def test_resnet50_is_torchvisions_up_to_the_stride_of_its_third_stage():
    reference, base = torchvision.models.resnet50().eval(), ssd_bases.resnet50_base()
    tail = {"layer4", "fc", "avgpool"}
    body = nn.Sequential(*(module for name, module in reference.named_children() if name not in tail))
    copy_by_order(body, base.layers)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        second = body[:6](images)
        assert torch.allclose(base.layers[:6].eval()(images), second)
        # only the first block of the third stage strides: without it every second cell of its shortcut is the published one
        shortcut, strided = base.layers[6][0].downsample.eval()(second), body[6][0].downsample(second)
    assert shortcut.shape[-1] == 8 and torch.allclose(shortcut[..., ::2, ::2], strided, rtol=1e-4, atol=1e-3)


def test_squeezenet_rounds_down_at_300_pixels():
    (source,), end = run(ssd_bases.squeezenet_base(), torch.rand(1, 3, 300, 300))
    assert source.shape[2:] == end.shape[2:] == (17, 17)


def test_vgg_rounds_pool3_up_only():
    layers = ssd_bases.vgg16_base().layers
    pools = {index: layer for index, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)}
    found = {index: (pool.kernel_size, pool.stride, pool.ceil_mode) for index, pool in pools.items()}
    assert found == {4: (2, 2, False), 9: (2, 2, False), 16: (2, 2, True), 23: (2, 2, False), 30: (3, 1, False)}
    assert (layers[31].dilation, layers[31].padding) == ((6, 6), (6, 6))


def test_l2_norm_by_hand():
    norm = L2Norm(2, scale=10.0)
    with torch.no_grad():
        norm.scale[1] = 100
    features = torch.tensor([[3.0, 0.0], [4.0, 0.0]]).reshape(1, 2, 1, 2)  # one cell (3, 4), one cell (0, 0)
    assert torch.allclose(norm(features).reshape(2, 2), torch.tensor([[6.0, 0.0], [80.0, 0.0]]))
    assert L2Norm(512).scale.tolist() == [20.0] * 512 and norm(torch.zeros(0, 2, 1, 1)).shape == (0, 2, 1, 1)


def fill(module: nn.Module, value: float) -> nn.Module:
    """Every convolution weight is the value, so that a 1x1 convolution sums its channels times it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, value)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    return module.eval()


def test_inverted_residual_by_hand():
    ones = torch.ones(1, 2, 1, 1)
    # one cell, padding around it: 2 channels -> sum 2 -> depthwise 2 -> sum of 3 channels 6, plus the shortcut's 1
    assert fill(InvertedResidual(2, 3, 2, stride=1), 1.0)(ones).flatten().tolist() == [7, 7]
    assert fill(InvertedResidual(2, 3, 2, stride=2), 1.0)(ones).flatten().tolist() == [6, 6]  # no shortcut
    assert fill(InvertedResidual(2, 3, 1, stride=1), 1.0)(ones).flatten().tolist() == [6]
    assert fill(InvertedResidual(2, 4, 1, stride=1), 1.0)(ones).flatten().tolist() == [8]
    assert fill(InvertedResidual(2, 4, 1, stride=1), 2.0)(ones).flatten().tolist() == [48]  # 4, 8 -> 6 by ReLU6, 4 x 6 x 2
    assert len(InvertedResidual(4, 4, 2, stride=1).conv) == 5  # nothing to expand


def test_squeeze_and_excitation_by_hand():
    excitation = fill(SqueezeExcitation(4), 1.0)
    x = torch.stack([torch.full((2, 2), value) for value in (0.5, 0.25, 0.0, 0.25)])[None]
    # means 0.5 0.25 0 0.25, summed 1; hard sigmoid (1 + 3) / 6
    assert torch.allclose(excitation(x), x * 4 / 6)
    assert torch.allclose(excitation(-x), -x * 3 / 6)  # the ReLU between the two layers: gate of 0


def test_se_block_squeezes_its_output_and_always_has_a_shortcut_at_stride_one():
    block = fill(SEBlock(4, 1, 4, stride=1, squeeze=True, activation=nn.ReLU), 1.0)
    x = torch.ones(1, 4, 1, 1)
    # 4 channels -> 4 -> 4 -> 4 each; gate of the sum 16: 1, so 4 + 1
    assert block(x).flatten().tolist() == [5] * 4
    assert fill(SEBlock(4, 1, 4, stride=2, activation=nn.ReLU), 1.0)(x).flatten().tolist() == [4] * 4
    wider = fill(SEBlock(4, 1, 5, stride=1, activation=nn.ReLU), 1.0)
    assert wider(x).flatten().tolist() == [8] * 5  # 4, and a shortcut that sums to 4
    # the last layer is linear, and hard swish is x / 2 * ... at 1: 1 * (1 + 3) / 6
    assert fill(SEBlock(1, 1, 1, stride=2), 1.0)(x[:, :1]).item() == pytest.approx((4 / 6) * (4 / 6 + 3) / 6)
    assert fill(SEBlock(4, 1, 4, stride=2), -1.0)(-x).flatten().tolist() == pytest.approx([0.0] * 4)


@pytest.mark.parametrize("width", [0, 0.03, -1, float("nan")])
def test_a_width_that_leaves_layers_without_channels(width):
    with pytest.raises(ValueError, match="width factor of mb2-ssd-lite must be at least 0.0625"):
        ssd_bases.mobilenet_v2_base(width)


def test_initial_weights():
    vgg = ssd_bases.vgg16_base().layers
    assert vgg[28].weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)  # Kaiming, fan out
    bound = (6 / (512 * 9 + 1024 * 9)) ** 0.5  # Xavier, uniform
    assert vgg[31].weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert vgg[31].weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    lite = LARGE_TV().layers
    assert lite[16][0].weight.std().item() == pytest.approx(0.03, rel=0.02)
    norms = [module for module in lite.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 46 and {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    small = ssd_bases.small_base().layers
    assert small[8][0].weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
