"""Darknet files: a cfg gives the right layers, weights come and go byte for byte, the reference logits are met."""

import math
import struct
import weakref

import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F

from network_files.darknet import (
    Darknet,
    Header,
    MaxPool,
    parse_cfg,
    read_weights,
    set_num_classes,
    write_weights,
)
from network_files.errors import InputError

NET = "[net]\nwidth=8\nheight=8\nchannels=6\n"
YOLO = "[yolo]\nclasses=1\nmask=0\nanchors=2,3\n"  # 5 + 1 class: its map needs 6 channels
GOLDEN = ["mini-yolov3", "mini-yolov3-spp", "mini-yolov3-tiny", "MobileNetV2-YOLOv3-Nano-coco"]
OURS = ["yolov3", "yolov3-spp", "yolov3-tiny", "yolov3-small"]
# name: parameters, bytes of the weights file, layers, numbers of the [yolo] layers
PUBLISHED = {
    "yolov3": (61_949_149, 248_007_048, 107, [82, 94, 106]),
    "yolov3-spp": (62_998_749, 252_209_544, 114, [89, 101, 113]),
    "yolov3-tiny": (8_852_366, 35_434_956, 24, [16, 23]),
}


def our_cfg(name):
    return (ROOT / "cfg" / f"{name}.cfg").read_text()


def without_memory(cfg):
    """The network of a cfg with shapes only."""
    with torch.device("meta"):
        return Darknet(cfg)


def output(layers, images, yolo=YOLO):
    """What a network of these sections makes of images [N, 6, 8, 8]; the last of them must have 6 channels."""
    (head,) = Darknet(NET + layers + yolo).eval()(images)
    return head


def randomized(network):
    """All tensors random, variances between 0.5 and 1.5, scaled so that the maps neither vanish nor grow."""
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            fan_in = value[0].numel() if value.dim() == 4 else 100
            value.copy_(torch.rand_like(value) + 0.5 if "running_var" in key else torch.randn_like(value) / math.sqrt(fan_in))
        if key.endswith("norm.weight"):
            value.add_(1)
    return network.eval()


# the text
def test_grammar():
    text = """\ufeff# a comment
; another
 [ net ]\r
wid th = 9 6\t\r
height=64 # inline

[conv]
filters=3
filters=4
[max]
; size=9
"""
    net, conv, pool = parse_cfg(text)
    assert (net.kind, net.line, net.layer) == ("net", 3, -1)
    assert net.options == {"width": ("96", 4), "height": ("64", 5)}
    assert (conv.kind, conv.line, conv.layer) == ("convolutional", 7, 0)
    assert conv.options == {"filters": ("3", 8)} and conv.repeated == [9]  # the first counts
    assert (pool.kind, pool.line, pool.layer, pool.options) == ("maxpool", 10, 1, {})
    assert parse_cfg("[network]\nwidth=1")[0].kind == "net"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("\nwidth=8\n[net]", "line 2: 'width=8' stands before"),
        ("\n[conv]\n", r"line 2: the first section must be \[net\], not \[convolutional\]"),
        ("[net]\nwidth\n", "line 2: 'width' is neither"),
        ("[net]\nwidth=\n", "line 2: 'width=' is neither"),
        ("[net]\n[conv\n", "line 2"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text)


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


# the class count
@pytest.mark.parametrize("name", OURS)
def test_the_class_count_is_set_everywhere(name):
    text = our_cfg(name)
    count = without_memory(text).heads[0].num_classes
    assert set_num_classes(text, count) == text
    changed = set_num_classes(text, 7)
    network = without_memory(changed)
    assert all(head.num_classes == 7 for head in network.heads)
    assert all(network.module_list[head.layer - 1].conv.out_channels == 36 for head in network.heads)
    differing = [line for line, old in zip(changed.split("\n"), text.split("\n"), strict=True) if line != old]
    assert differing == ["filters=36", "classes=7"] * len(network.heads)
    assert set_num_classes(changed, count) == text


def test_the_class_count_leaves_all_other_characters():
    """Comments, blanks and line ends stay; a key that is not there yet gets a line of its own."""
    before = "[net]\r\n[conv] # mine\r\nsize=1\r\n[yolo]\r\n num = 2 # two\r\nanchors=1,2,3,4\r\nmask=1\r\n"
    after = before.replace("# mine\r\n", "# mine\r\nfilters=8\r\n")
    assert set_num_classes(f"{before} classes = 2 0  # all\r\n", 3) == f"{after} classes = 3  # all\r\n"
    assert set_num_classes("[net]\n[conv]\nfilters=1\n[yolo]\nanchors=1,2", 3) == (
        "[net]\n[conv]\nfilters=8\n[yolo]\nclasses=3\nanchors=1,2"
    )


def test_the_class_count_refuses():
    with pytest.raises(InputError, match=r"no \[yolo\] section"):
        set_num_classes(NET + "[conv]\n", 3)
    with pytest.raises(InputError, match=r"line 6, \[yolo\]: the layer before must be a convolution.*not \[maxpool\]"):
        set_num_classes(NET + "[max]\n" + YOLO, 3)
    with pytest.raises(InputError, match="at least 1 class"):
        set_num_classes(NET + "[conv]\n" + YOLO, 0)


# weights
BODY = [  # two convolutions of a net with 2 input channels: with norm [3, 2, 1, 1], with bias [6, 3, 1, 1]
    *[1.0, 2, 3], *[4.0, 5, 6], *[7.0, 8, 9], *[10.0, 11, 12], *[13.0, 14, 15, 16, 17, 18],
    *range(20, 26), *range(100, 118),
]
TWO_CONVS = (
    "[net]\nwidth=8\nheight=8\nchannels=2\n[conv]\nbatch_normalize=1\nfilters=3\n[max]\n[conv]\nfilters=6\n" + YOLO
)


def packed(header_format, *header, floats=BODY):
    return struct.pack(f"{header_format}{len(floats)}f", *header, *floats)


def test_order_of_the_numbers_in_a_file():
    weights = read_weights(packed("<iiiq", 0, 2, 5, 2**40), Darknet(TWO_CONVS))
    assert weights.header == Header(0, 2, 5, 2**40) and (weights.layers, weights.complete) == (3, True)
    assert {key: value.flatten().tolist() for key, value in weights.state.items()} == {
        "module_list.0.norm.bias": [1, 2, 3],
        "module_list.0.norm.weight": [4, 5, 6],
        "module_list.0.norm.running_mean": [7, 8, 9],
        "module_list.0.norm.running_var": [10, 11, 12],
        "module_list.0.conv.weight": [13, 14, 15, 16, 17, 18],
        "module_list.2.conv.bias": list(range(20, 26)),
        "module_list.2.conv.weight": list(range(100, 118)),
    }
    assert weights.state["module_list.2.conv.weight"].shape == (6, 3, 1, 1)
    network = Darknet(TWO_CONVS)
    network.load_state_dict(weights.state)  # strict: BatchNorm does not miss its counter
    assert network.module_list[2].conv.bias.tolist() == list(range(20, 26))


@pytest.mark.parametrize(
    ("form", "version"), [("<iiii", (0, 1, 0)), ("<iiiq", (0, 2, 0)), ("<iiiq", (1, 0, 3)), ("<iiii", (1000, 2, 0))]
)
def test_the_version_decides_how_long_the_header_is(form, version):
    data = packed(form, *version, 12345)
    network = Darknet(TWO_CONVS)
    weights = read_weights(data, network)
    assert weights.header == (*version, 12345) and weights.complete
    assert weights.state["module_list.0.norm.bias"].tolist() == [1, 2, 3]
    assert write_weights(weights.state, network, weights.header) == data


def test_a_cut_off_file_has_the_first_layers():
    network = Darknet(TWO_CONVS)
    data = packed("<iiiq", 0, 2, 0, 0, floats=BODY[:18])
    weights = read_weights(data, network)
    assert (weights.layers, weights.complete) == (1, False)
    assert sorted({key.split(".")[1] for key in weights.state}) == ["0"]
    assert write_weights(weights.state, network, weights.header, weights.layers) == data
    # layer 1 has no weights, so it changes nothing
    assert write_weights(weights.state, network, weights.header, layers=2) == data
    with pytest.raises(InputError, match=r"module_list.2.conv.bias must have the shape \[6\], but it is missing"):
        write_weights(weights.state, network)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "0 bytes"),
        (lambda data: data[:15], "15 bytes"),
        (lambda data: data[:19], "damaged: it has 19 bytes, its header alone 20"),
        (lambda data: data[:20], "has 20 bytes, but this cfg needs 188:"),
        (lambda data: data[:-1], r"has 187 bytes, but this cfg needs 188 \(or, cut off behind layer 0, 92\)"),
        (lambda data: data[:-4], "has 184 bytes, but this cfg needs 188"),
        (lambda data: data[:91], "has 91 bytes, but this cfg needs 188:"),
        (lambda data: data + b"\0", "has 189 bytes, but this cfg needs 188:"),
        (lambda data: data + b"\0" * 4, "has 192 bytes, but this cfg needs 188:"),
    ],
)
def test_every_byte_is_accounted_for(change, message):
    with pytest.raises(InputError, match=message):
        read_weights(change(packed("<iiiq", 0, 2, 5, 0)), Darknet(TWO_CONVS))


def test_a_network_without_convolutions_has_no_weights():
    network = Darknet(NET + YOLO)
    assert write_weights(network.state_dict(), network) == struct.pack("<iiiq", 0, 2, 5, 0)
    with pytest.raises(InputError, match="no convolution"):
        read_weights(struct.pack("<iiiq", 0, 2, 5, 0), network)


def test_a_state_of_another_class_count_is_not_written():
    small = our_cfg("yolov3-small")
    with pytest.raises(InputError, match=r"module_list.11.conv.bias must have the shape \[27\], but it is \[18\]"):
        write_weights(Darknet(set_num_classes(small, 1)).state_dict(), Darknet(small))


def test_what_is_read_stands_alone():
    """No tensor drags the whole file along, and the given bytes are not touched by changes of the state."""
    data = packed("<iiiq", 0, 2, 5, 0)
    weights = read_weights(data, Darknet(TWO_CONVS))
    assert all(value.untyped_storage().nbytes() == 4 * value.numel() for value in weights.state.values())
    weights.state["module_list.0.norm.bias"].zero_()
    assert data == packed("<iiiq", 0, 2, 5, 0)


def test_half_precision_states_are_written_as_float32():
    network = Darknet(TWO_CONVS)
    state = read_weights(packed("<iiiq", 0, 2, 5, 0), network).state
    halves = {key: value.half() for key, value in state.items()}
    assert write_weights(halves, network) == packed("<iiiq", 0, 2, 5, 0)


# the cfgs of this repository
@pytest.mark.parametrize("name", PUBLISHED)
def test_our_cfgs_are_the_published_networks(name):
    parameters, size, layers, heads = PUBLISHED[name]
    network = without_memory(our_cfg(name))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.module_list) == layers and [head.layer for head in network.heads] == heads
    counted = [v.numel() for key, v in network.state_dict().items() if not key.endswith("num_batches_tracked")]
    assert 20 + 4 * sum(counted) == size
    assert [head.stride for head in network.heads] == [32, 16, 8][: len(heads)]


@pytest.mark.parametrize(
    ("name", "size", "layers"), [("yolov3", 162_482_580, 74), ("yolov3-tiny", 30_973_396, 15)]
)
def test_the_published_backbones_are_recognised_by_their_size(name, size, layers):
    """darknet53.conv.74 and yolov3-tiny.conv.15, made of zeros."""
    network = without_memory(our_cfg(name))
    data = struct.pack("<iiiq", 0, 2, 0, 0) + bytes(size - 20)
    weights = read_weights(data, network)
    assert (weights.layers, weights.complete) == (layers, False)
    assert max(int(key.split(".")[1]) for key in weights.state) == layers - 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_cfgs_have_the_layers_of_the_originals(shared_data, name):
    ours = parse_cfg(our_cfg(name))[1:]
    theirs = parse_cfg((shared_data / "yolo" / f"pjreddie-{name}.cfg").read_text())[1:]
    left_out = {"jitter", "random"}  # training only

    def plain(section):
        numbers = {key: option.value for key, option in section.options.items() if key not in left_out}
        if section.kind == "yolo":
            numbers["ignore_thresh"] = float(numbers["ignore_thresh"])
        return section.kind, numbers

    assert [plain(section) for section in ours] == [plain(section) for section in theirs]


def test_yolov3_for_the_classes_of_voc():
    """As many parameters as the original's yolov3-voc.cfg."""
    assert sum(p.numel() for p in without_memory(set_num_classes(our_cfg("yolov3"), 20)).parameters()) == 61_626_049


def test_the_small_cfg_is_small():
    network = without_memory(our_cfg("yolov3-small"))
    assert sum(p.numel() for p in network.parameters()) < 600_000
    assert [head.stride for head in network.heads] == [16, 8]


# against Darknet itself
def load(shared_data, name, norm_eps=1e-5):
    folder = shared_data / "yolo"
    network = Darknet((folder / f"{name}.cfg").read_text(), norm_eps=norm_eps).eval()
    weights = read_weights((folder / f"{name}.weights").read_bytes(), network)
    assert weights.complete
    network.load_state_dict(weights.state)
    return network


def furthest(shared_data, name, network, which):
    """The largest difference of any logit from the reference, all heads together."""
    np = pytest.importorskip("numpy")
    golden = np.load(shared_data / "yolo" / f"golden_{name}.npz")
    with torch.inference_mode():
        outputs = network(torch.from_numpy(golden["input"]))
    assert len(outputs) == sum(key.endswith(which) for key in golden)
    pairs = [(x, torch.from_numpy(golden[f"layer{h.layer - 1}_{which}"])) for x, h in zip(outputs, network.heads)]
    assert all(x.shape == wanted.shape for x, wanted in pairs)
    return max((x - wanted).abs().max().item() for x, wanted in pairs)


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_of_darknet_on_a_gpu(shared_data, name):
    """AlexeyAB's Darknet divides by sqrt(var + 1e-5)."""
    assert furthest(shared_data, name, load(shared_data, name), "ab") < 1e-4


@pytest.mark.parametrize("name", GOLDEN)
def test_logits_of_darknet_on_a_cpu(shared_data, name):
    """The original divides by sqrt(var) + 1e-6: the same as no eps and a variance of (sqrt(var) + 1e-6)^2."""
    network = load(shared_data, name, norm_eps=0.0)
    for key, value in network.named_buffers():
        if key.endswith("running_var"):
            value.copy_((value.double().sqrt() + 1e-6).square())
    assert furthest(shared_data, name, network, "pj") < 1e-4


@pytest.mark.parametrize("name", GOLDEN)
def test_reading_and_writing_gives_the_identical_file(shared_data, name):
    folder = shared_data / "yolo"
    network = without_memory((folder / f"{name}.cfg").read_text())
    data = (folder / f"{name}.weights").read_bytes()
    weights = read_weights(data, network)
    assert weights.header.seen == (14_547_712 if "Nano" in name else 12345)
    assert write_weights(weights.state, network, weights.header) == data


@pytest.mark.parametrize("name", ["yolov3-small", "yolov3-tiny"])
def test_logits_of_opencv(name, tmp_path):
    """An importer by others reads what we write and computes the same."""
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        pytest.skip("this OpenCV no longer reads Darknet files: opencv-python-headless<5 does")
    network = randomized(Darknet(our_cfg(name), norm_eps=1e-6))
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(our_cfg(name))
    weights.write_bytes(write_weights(network.state_dict(), network))
    images = torch.rand(1, 3, network.height, network.width)
    theirs = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    theirs.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    theirs.setInput(images.numpy())
    with torch.inference_mode():
        outputs = network(images)
    for head, logits in zip(network.heads, outputs):
        wanted = torch.from_numpy(theirs.forward(f"conv_{head.layer - 1}"))
        torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)
