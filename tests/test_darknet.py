"""Darknet networks: a cfg gives the right layers, each computes what Darknet's computes, misfits are refused by line."""

import math
import weakref

import pytest
import torch
from darknet_nets import NET, OURS, YOLO, our_cfg, randomized, without_memory
from torch.nn import functional as F

from network_files.darknet import Darknet, MaxPool, base_layers, head_convolutions
from network_files.errors import InputError


def output(layers, images, yolo=YOLO):
    """What a network of these sections makes of images [N, 6, 8, 8]; the last of them must have 6 channels."""
    (head,) = Darknet(NET + layers + yolo).eval()(images)
    return head


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[lstm]\n", r"line 5, \[lstm\]: unknown kind of layer"),
        ("[conv]\nfilters=6\n\nactivation=selu\n", r"line 8, \[convolutional\]: unknown activation 'selu'"),
        ("[conv]\nfilters=6.5\n", "line 6.*filters must hold whole numbers, not '6.5'"),
        ("[conv]\nfilters=0\n", "line 6.*at least 1, not 0"),
        ("[conv]\nfilters=6\npadding=-1\n", "line 7.*at least 0, not -1"),
        ("[conv]\nfilters=6\ngroups=4\n", "line 7.*6 input channels and 6 filters cannot form 4 groups"),
        ("[conv]\nfilters=6\nsize=9\n", "line 7.*a window of size 9 is larger than the map of 8 x 8"),
        ("[conv]\nfilters=6\ndilation=2\n", "line 7.*dilation=2 is not supported"),
        ("[conv]\nfilters=6\nstride_x=2\n", "line 7.*stride_x 2 and stride_y 1 must be equal"),
        ("[max]\nsize=2\npadding=3\n", "line 7.*outside the map"),
        ("[upsample]\nstride=2\n", "line 6.*no whole stride"),
        ("[dropout]\nprobability=1\n", "line 6.*below 1"),
        ("[max]\n[route]\nlayers=-2\n", "line 7.*layers -2 names layer -1, but this is layer 1"),
        ("[max]\n[route]\nlayers=0,1\n", "line 7.*layers 1 names layer 1, but this is layer 1"),
        ("[route]\n", "line 5.*the key layers is missing"),
        ("[route]\nlayers=\n", "line 6"),
        ("[max]\n[max]\nstride=2\n[route]\nlayers=0,1\n", r"line 8.*differ in size \(4 x 4, 8 x 8 cells\)"),
        ("[max]\n[route]\nlayers=0\ngroups=4\n", "line 8.*no group 0 among 4 equal groups of"),
        ("[max]\n[route]\nlayers=0\ngroups=2\ngroup_id=2\n", "line 8.*no group 2 among 2"),
        ("[max]\n[conv]\nfilters=3\n[shortcut]\nfrom=0\n", "line 9.*maps of 3 and 6 channels cannot be added"),
        ("[max]\n[max]\nstride=2\n[shortcut]\nfrom=0\n", "line 8.*differ in size"),
        ("[max]\n[max]\n[shortcut]\nfrom=0\nweights_type=per_channel\n", "line 9.*weights_type=per_channel is not supported"),
        (f"[max]\n{YOLO}[max]\n", "line 10.*takes the output of layer 1"),
        ("[conv]\nfilters=7\n", r"line 7, \[yolo\]: .*\(5 \+ 1\) \* 1 = 6 channels, but the layer before has 7"),
    ],
)
def test_refused_layers(layers, message):
    with pytest.raises(InputError, match=message):
        without_memory(NET + layers + YOLO)


@pytest.mark.parametrize(
    ("yolo", "message"),
    [
        ("classes=1\n", "line 5.*the key anchors is missing"),
        ("classes=1\nanchors=2,3,4\n", "line 7.*anchors holds 3 numbers, but num=2 anchors need 4"),
        ("classes=1\nanchors=2,3\nnum=2\n", "line 7.*holds 2 numbers, but num=2 anchors need 4"),
        ("classes=1\nanchors=2,-3\n", "line 7.*above 0"),
        ("classes=1\nanchors=2,nan\n", "line 7.*numbers, not 'nan'"),
        ("classes=1\nanchors=2,3\nmask=1\n", "line 8.*numbers 0 to 0"),
        ("classes=1\nanchors=2,3,4,5\nmask=0,0\n", "line 8.*different anchors"),
        ("classes=1\nanchors=2,3\nnew_coords=1\n", "line 8.*new_coords=1 is not supported"),
    ],
)
def test_refused_heads(yolo, message):
    with pytest.raises(InputError, match=message):
        without_memory(NET + "[yolo]\n" + yolo)


def test_a_cfg_needs_a_size_and_a_head():
    with pytest.raises(InputError, match=r"no \[yolo\] section"):
        without_memory(NET)
    with pytest.raises(InputError, match="line 2.*the key width is missing"):
        without_memory("\n[net]\nheight=8\n" + YOLO)


def test_keys_without_effect_are_said():
    network = without_memory(f"{NET}batch=4\nbatch=8\n[max]\ncolour=red\n[max]\ncolour=red\ntaste=1\n{YOLO}jitter=.3\nrandom=1\n")
    assert network.notes == [
        "cfg [net]: keys without effect here: batch",
        "cfg [maxpool]: keys without effect here: colour, taste",
        "cfg [yolo]: keys without effect here: jitter, random",
        "cfg line 6, [net]: this key stands there a second time, only the first counts",
    ]
    assert all(without_memory(our_cfg(name)).notes == [] for name in OURS)


# the layers
def test_convolution_with_bias_and_with_norm():
    images = torch.randn(2, 6, 8, 8)
    network = Darknet(NET + "[conv]\nfilters=6\nsize=3\nstride=2\npad=1\ngroups=3\nactivation=leaky\n" + YOLO).eval()
    conv = network.module_list[0].conv
    assert conv.weight.shape == (6, 2, 3, 3) and network.heads[0].stride == 2
    wanted = F.leaky_relu(F.conv2d(images, conv.weight, conv.bias, stride=2, padding=1, groups=3), 0.1)
    torch.testing.assert_close(network(images)[0], wanted, rtol=0, atol=0)

    network = randomized(Darknet(NET + "[conv]\nfilters=6\nbatch_normalize=1\nactivation=linear\n" + YOLO, norm_eps=0.5))
    layer = network.module_list[0]
    assert layer.conv.bias is None and layer.norm.eps == 0.5
    mean, var, weight, bias = (
        value[:, None, None] for value in (layer.norm.running_mean, layer.norm.running_var, layer.norm.weight, layer.norm.bias)
    )
    wanted = (F.conv2d(images, layer.conv.weight) - mean) / (var + 0.5).sqrt() * weight + bias
    torch.testing.assert_close(network(images)[0], wanted)


def test_norm_settings_reach_every_norm():
    norms = [m for m in without_memory(our_cfg("yolov3-tiny")).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)} and len(norms) == 11
    with torch.device("meta"):
        network = Darknet(our_cfg("yolov3-small"), norm_eps=1e-4, norm_momentum=0.03)
    assert {(m.eps, m.momentum) for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {(1e-4, 0.03)}


@pytest.mark.parametrize(
    ("size", "keys", "padding"),
    [(3, "pad=1", 1), (5, "pad=1", 2), (4, "pad=1", 2), (3, "padding=2", 2), (3, "pad=1\npadding=2", 1), (3, "", 0)],
)
def test_padding_of_a_convolution(size, keys, padding):
    network = without_memory(f"{NET}[conv]\nfilters=6\nsize={size}\n{keys}\n{YOLO}")
    assert network.module_list[0].conv.padding == (padding, padding)
    assert network(torch.empty(1, 6, 8, 8, device="meta"))[0].shape[-1] == 8 + 2 * padding - size + 1


@pytest.mark.parametrize(
    ("name", "at_minus_2", "at_3"),
    [
        ("leaky", -0.2, 3.0),
        ("linear", -2.0, 3.0),
        ("relu", 0.0, 3.0),
        ("logistic", 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-3))),
        ("swish", -2 / (1 + math.exp(2)), 3 / (1 + math.exp(-3))),
        ("mish", -2 * math.tanh(math.log1p(math.exp(-2))), 3 * math.tanh(math.log1p(math.exp(3)))),
    ],
)
def test_activations(name, at_minus_2, at_3):
    """By the formulas, in a convolution that copies its input and in a shortcut that doubles it."""
    images = torch.full((1, 6, 8, 8), -2.0)
    images[..., 4:] = 3.0
    network = Darknet(f"{NET}[conv]\nfilters=6\nactivation={name}\n{YOLO}")
    network.module_list[0].conv.weight.data = torch.eye(6)[:, :, None, None]
    torch.nn.init.zeros_(network.module_list[0].conv.bias)
    row = network(images)[0][0, 0, 0]
    assert row.tolist() == pytest.approx([at_minus_2] * 4 + [at_3] * 4, rel=1e-6)
    row = output(f"[max]\n[max]\n[shortcut]\nfrom=0\nactivation={name}\n", images / 2)[0, 0, 0]
    assert row.tolist() == pytest.approx([at_minus_2] * 4 + [at_3] * 4, rel=1e-6)


def test_a_convolution_without_activation_is_logistic_and_a_shortcut_linear():
    network = without_memory(f"{NET}[conv]\nfilters=6\n[shortcut]\nfrom=0\n{YOLO}")
    assert isinstance(network.module_list[0].activation, torch.nn.Sigmoid)
    assert isinstance(network.module_list[1].activation, torch.nn.Identity)


def test_small_pool_pads_on_the_right_and_below_with_minus_infinity():
    images = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0], [-7.0, -8.0, -9.0]])[None, None]
    assert MaxPool(2, 1, 1)(images).tolist() == [[[[-1, -2, -3], [-4, -5, -6], [-7, -8, -9]]]]
    assert MaxPool(2, 2, 1)(images).tolist() == [[[[-1, -3], [-7, -9]]]]  # an odd side rounds up
    assert MaxPool(3, 1, 2)(images).tolist() == [[[[-1, -1, -2], [-1, -1, -2], [-4, -4, -5]]]]


def pool_by_loops(x, size, stride, padding):
    """Darknet's rule cell by cell; x [H, W]."""
    height, width = x.shape
    offset = padding // 2
    out = torch.empty((height + padding - size) // stride + 1, (width + padding - size) // stride + 1)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            top, left = i * stride - offset, j * stride - offset
            out[i, j] = x[max(top, 0) : top + size, max(left, 0) : left + size].max()
    return out


def test_pools_of_all_kinds_against_loops():
    for size in (1, 2, 3, 4, 5, 13):
        for stride in (1, 2, 3):
            for padding in {0, size - 1, size, 2 * (size - 1)}:
                for height, width in ((13, 14), (16, 15)):
                    if padding <= 2 * (size - 1):
                        x = torch.randn(height, width) - 3
                        found = MaxPool(size, stride, padding)(x[None, None])[0, 0]
                        assert torch.equal(found, pool_by_loops(x, size, stride, padding)), (size, stride, padding, height)


def test_pool_defaults():
    """size = stride, padding = size - 1."""
    layer = without_memory(f"{NET}[max]\nstride=2\n[max]\nsize=5\n[max]\nsize=3\npadding=0\n{YOLO}").module_list
    assert [(m.size, m.stride, m.padding) for m in layer[:3]] == [(2, 2, 1), (5, 1, 4), (3, 1, 0)]


def test_routes_count_layers_from_0_and_join_in_their_order():
    images = torch.randn(1, 6, 8, 8)
    pools = "[max]\nsize=2\nstride=1\n[max]\nsize=3\n[max]\nsize=5\n"
    maps = [images]
    for size in (2, 3, 5):
        maps.append(MaxPool(size, 1, size - 1)(maps[-1]))
    _, first, second, third = maps
    assert torch.equal(output(pools + "[route]\nlayers=0\n", images), first)
    assert torch.equal(output(pools + "[route]\nlayers = -2\n", images), second)
    found = output(pools + "[route]\nlayers=-1, 0\n", images, YOLO.replace("mask=0", "mask=0,1").replace("2,3", "2,3,4,5"))
    assert torch.equal(found, torch.cat([third, first], dim=1))
    # the second half of layer 2, then the second half of layer 0
    found = output(pools + "[route]\nlayers=-1,0\ngroups=2\ngroup_id=1\n", images)
    assert torch.equal(found, torch.cat([third[:, 3:], first[:, 3:]], dim=1))


def test_shortcut_adds_all_its_sources():
    images = torch.randn(1, 6, 8, 8)
    pools = "[max]\nsize=2\nstride=1\n[max]\nsize=3\n"
    first = MaxPool(2, 1, 1)(images)
    second = MaxPool(3, 1, 2)(first)
    torch.testing.assert_close(output(pools + "[shortcut]\nfrom=-2\n", images), second + first, rtol=0, atol=0)
    torch.testing.assert_close(output(pools + "[shortcut]\nfrom=0,-1\n", images), second + first + second)


def test_upsample_repeats_cells_and_dropout_holds_its_place():
    images = torch.arange(6 * 64.0).reshape(1, 6, 8, 8)
    down_and_up = "[max]\nsize=1\nstride=2\n[dropout]\nprobability=.7\n[upsample]\nstride=2\n"
    small = images[..., ::2, ::2]
    assert torch.equal(output(down_and_up, images), small.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.equal(output(down_and_up + "[route]\nlayers=1\n", images), small)  # the dropout is layer 1
    assert without_memory(NET + down_and_up + YOLO).heads[0].stride == 1


def test_heads_are_plain_data():
    cfg = NET + "[conv]\nfilters=14\nstride=2\n[yolo]\nclasses=2\nnum=3\nanchors=1,2, 3,4.5, 5,6\nmask=2,0\nscale_x_y=1.05\n"
    (head,) = without_memory(cfg + "ignore_thresh=.7\ntruth_thresh=.9\n").heads
    assert (head.layer, head.num_classes, head.mask, head.stride) == (1, 2, (2, 0), 2)
    assert head.anchors == ((1, 2), (3, 4.5), (5, 6)) and head.own_anchors == ((5, 6), (1, 2))
    assert (head.ignore_thresh, head.truth_thresh, head.scale_x_y) == (0.7, 0.9, 1.05)
    (head,) = without_memory(NET + "[yolo]\nclasses=1\nanchors=2,3\n").heads
    assert (head.mask, head.ignore_thresh, head.truth_thresh, head.scale_x_y) == ((0,), 0.5, 1, 1)


def test_outputs_are_kept_no_longer_than_needed():
    network = Darknet(NET + "[conv]\nfilters=6\n" * 3 + "[route]\nlayers=0\n" + "[conv]\nfilters=6\n" * 3 + YOLO)
    references, alive = [], []

    def count(layer, inputs, output):
        references.append(weakref.ref(output))
        alive.append(len({id(reference()) for reference in references} - {id(None)}))

    for layer in network.module_list:
        layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.randn(1, 6, 8, 8))
    # layer 0 waits for the route behind layers 1, 2; the route is the same tensor; from there on input and output only
    assert alive == [1, 2, 3, 1, 2, 2, 2, 1]


def test_training_reaches_every_parameter_also_of_rectangular_images():
    network = Darknet(our_cfg("yolov3-small"))
    outputs = network(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in outputs] == [(2, 27, 4, 6), (2, 27, 8, 12)]
    sum(x.square().mean() for x in outputs).backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


# its parts
@pytest.mark.parametrize(
    ("name", "base", "heads"),
    [
        ("yolov3", 75, [81, 93, 105]),
        ("yolov3-spp", 75, [88, 100, 112]),
        ("yolov3-tiny", 15, [15, 22]),
        ("yolov3-small", 9, [11, 18]),
    ],
)
def test_base_and_heads_of_our_cfgs(name, base, heads):
    network = without_memory(our_cfg(name))
    assert base_layers(network) == base and head_convolutions(network) == heads


def test_a_shortcut_behind_the_first_head_is_not_in_the_base():
    conv = "[conv]\nfilters=6\n"
    network = without_memory(NET + conv + "[shortcut]\nfrom=-1\n" + conv + YOLO + "[route]\nlayers=1\n" + conv
                             + "[shortcut]\nfrom=1\n" + conv + YOLO)
    assert base_layers(network) == 2 and head_convolutions(network) == [2, 7]
    assert base_layers(without_memory(NET + conv + YOLO)) == 0


def test_heads_that_follow_no_convolution():
    for layers in ("", "[conv]\nfilters=6\n[max]\n"):
        with pytest.raises(InputError, match="follows no convolution"):
            head_convolutions(without_memory(NET + layers + YOLO))
