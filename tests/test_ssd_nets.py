"""python -m pytest tests/test_ssd_nets.py"""

import hashlib
import json
import math
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from network_files import ssd_nets
from network_files.default_boxes import DefaultBoxes, DefaultBoxSpec
from network_files.ssd import SSD, Tap
from network_files.ssd_bases import Base, L2Norm, conv_bn_relu
from network_files.ssd_nets import (
    NETS,
    Extra,
    NetSpec,
    build_ssd,
    default_box_spec,
    grid_sides,
    min_train_batch,
    net_settings,
    rescaled_boxes,
    set_trainable_layers,
    takes_resolution,
)

# 21 classes: keys, parameters, digest of the sorted lines "key shape".
LAYOUTS = {
    "small-ssd": (94, 1_044_576, "cc33261a5a18880f"),
    "mb1-ssd": (202, 9_468_996, "6285db4e3dffa2df"),
    "mb1-ssd-lite": (230, 4_312_388, "81a21a5625b67f47"),
    "mb2-ssd-lite": (478, 3_388_228, "4575d9a27c105910"),
    "mb3-large-ssd-lite": (556, 2_388_296, "862c2d2dbc78237f"),
    "mb3-small-ssd-lite": (490, 1_257_392, "953dc00268754351"),
    "sq-ssd-lite": (124, 1_875_268, "f739054b7babf8cd"),
    "vgg16-ssd": (75, 26_285_998, "6f62a8ecc2c9d679"),
    "ssd300-vgg16": (71, 26_285_486, "44c38227e04534d7"),
    "ssd512-vgg16": (79, 27_188_676, "67d6fbb4debb8040"),
    "ssdlite320-mobilenet-v3-large": (476, 2_469_860, "1d9aec80eadcd39f"),
    "ssd300-resnet50": (342, 15_428_142, "f50cc034c6e9e293"),
}
MOBILENETS = ["mb1-ssd", "mb1-ssd-lite", "mb2-ssd-lite", "mb3-large-ssd-lite", "mb3-small-ssd-lite"]
GROUPS = ["base_net", "extras", "classification_headers", "regression_headers", "source_layer_add_ons"]

# net, table, resolution: number of default boxes, sums of cx (= cy) and w (= h) in units of the resolution
SUMS = [
    *((net, "", *row) for net in MOBILENETS for row in [
        (300, 3000, 1538.6400, 862.7490), (320, 3234, 1617.0844, 525.6109), (512, 8190, 4095.0, 1285.2704),
        (640, 12828, 6414.0844, 2032.4873), (1024, 32760, 16380.0, 5141.0815),
    ]),
    *(("sq-ssd-lite", "", *row) for row in [
        (300, 2568, 1227.2800, 765.4972), (320, 3192, 1618.9313, 947.5897), (512, 8214, 4215.4688, 2400.4837),
        (640, 12792, 6582.9469, 3686.1828), (1024, 32772, 17019.3105, 9334.1415),
    ]),
    *(("vgg16-ssd", table, *row) for table in ("", "voc") for row in [
        (300, 8732, 4443.1467, 1510.1480), (320, 9590, 4795.0562, 1633.8711), (512, 24656, 12328.5625, 4268.1717),
        (640, 38600, 19300.2250, 6730.3861), (1024, 99152, 49582.8438, 17505.8965),
    ]),
    ("vgg16-ssd", "coco", 300, 8732, 4443.1467, 1171.9677),
    ("ssd300-vgg16", "voc", 300, 8732, 4443.1467, 1510.1480),
    ("ssd300-vgg16", "coco", 300, 8732, 4443.1467, 1171.9677),
    *(("ssd300-resnet50", "", *row) for row in [
        (300, 8732, 4443.1467, 1171.9677), (320, 9590, 4795.0562, 1262.4844), (512, 24656, 12328.5625, 3316.1599),
        (640, 38600, 19300.2250, 5242.0462), (1024, 99152, 49582.8438, 13692.1981),
    ]),
    *(("ssd300-vgg16", "", *row) for row in [
        (300, 8732, 4443.9467, 1171.9677), (320, 9590, 4795.0562, 1262.4844), (512, 24656, 12328.5625, 3316.1599),
        (640, 38600, 19300.2250, 5242.0462), (1024, 99152, 49582.8438, 13692.1981),
    ]),
    *(("ssd512-vgg16", "", *row) for row in [
        (320, 9624, 4812.0844, 1248.9116), (512, 24564, 12282.0, 3144.9986), (640, 38402, 19201.0562, 4931.1426),
        (1024, 98276, 49138.0352, 12597.5369),
    ]),
    ("ssd512-vgg16", "coco", 512, 24564, 12282.0, 2191.9388),
    *(("ssdlite320-mobilenet-v3-large", "", *row) for row in [
        (320, 3234, 1617.0, 915.4017), (512, 8190, 4095.0, 2277.0367), (640, 12828, 6414.0, 3583.3338),
        (1024, 32760, 16380.0, 9108.1470),
    ]),
    *(("small-ssd", "", *row) for row in [
        (160, 2136, 1068.0, 328.7290), (320, 8500, 4250.0, 1289.9881), (512, 21760, 10880.0, 3302.3696),
        (640, 34000, 17000.0, 5159.9525), (1024, 87040, 43520.0, 13209.4784),
    ]),
]  # fmt: skip


def cxcywh_norm(spec: DefaultBoxSpec, sides: list[int]) -> torch.Tensor:
    return DefaultBoxes(spec).cxcywh_norm([(side, side) for side in sides])


def box_by_box(spec: DefaultBoxSpec, sides: list[int]) -> torch.Tensor:
    """The definition, written out: one box after the other."""
    boxes, size = [], spec.resolution
    for level, side in enumerate(sides):
        (low, high), step = spec.sizes[level], spec.steps[level] if spec.steps else size / side
        shapes = [(low, low), (math.sqrt(low * high), math.sqrt(low * high))]
        for ratio in spec.aspect_ratios[level]:
            shapes.append((low * math.sqrt(ratio), low / math.sqrt(ratio)))
            shapes.append((low / math.sqrt(ratio), low * math.sqrt(ratio)))
        for y in range(side):
            for x in range(side):
                centre = [(x + 0.5) * step / size, (y + 0.5) * step / size]
                centre = [min(c, 1) for c in centre] if spec.clip == "all" else centre
                boxes += [[*centre, min(w / size, 1), min(h / size, 1)] for w, h in shapes]
    return torch.tensor(boxes)


def layout(model: nn.Module) -> list[tuple[str, list[int]]]:
    return [(key, list(value.shape)) for key, value in model.state_dict().items()]


def without_numbers(net: str, num_classes: int, **options) -> SSD:
    """The model for tests that look at names and shapes only: takes no memory and no time to fill."""
    with torch.device("meta"):
        return build_ssd(net, num_classes, **options)


def published_layouts(path) -> dict[str, list[tuple[str, list[int]]]]:
    """The key dump (its header tells the format): net -> (key, shape) in file order."""
    layouts, lines = {}, []
    norm = ("weight", "bias", "running_mean", "running_var")
    for line in path.read_text().splitlines():
        if line.startswith("=="):
            lines = layouts[line.split()[1]] = []
        elif line.startswith("@"):
            section, prefix = line[1:].split()
            lines += [(key, shape) for key, shape in layouts[section] if key.startswith(prefix)]
        elif not line.startswith("#"):
            prefix, kind, shape = line.split()
            shape = [int(side) for side in shape.split(",")]
            if kind == "n":
                lines += [(f"{prefix}.{name}", shape) for name in norm] + [(f"{prefix}.num_batches_tracked", [])]
            elif kind == "t":
                lines.append((prefix, shape))
            else:
                lines += [(f"{prefix}.weight", shape), (f"{prefix}.bias", shape[:1])][: 1 + (kind == "b")]
    return layouts


# Layers


@pytest.mark.parametrize("net", NETS)
def test_keys_shapes_and_parameters(net):
    model = without_numbers(net, 21)
    lines = sorted(f"{key} {shape}" for key, shape in layout(model))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), sum(p.numel() for p in model.parameters()), digest) == LAYOUTS[net]
    assert list(dict.fromkeys(key.split(".")[0] for key, _ in layout(model))) == [g for g in GROUPS if len(getattr(model, g))]


def test_every_net_is_covered():
    assert set(LAYOUTS) == set(NETS) == {net for net, *_ in SUMS}


def test_layouts_are_the_published_ones(shared_data):
    path = shared_data.parent / "reference" / "ssd_state_dict_keys.txt"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    published = published_layouts(path)
    own = [net for net in NETS if net in published]
    assert len(own) == 7
    for net in own:  # the same order as well
        assert layout(without_numbers(net, 21)) == published[net], net
    torchvisions = {"ssd300-vgg16": "ssd300_vgg16", "ssdlite320-mobilenet-v3-large": "ssdlite320_mobilenet_v3_large"}
    for net, other in torchvisions.items():
        ours, theirs = layout(without_numbers(net, 91)), published[f"tv-{other}"]
        assert sorted(shape for _, shape in ours) == sorted(shape for _, shape in theirs)
    renamed = [
        (key.replace("base_net", "feature_extractor.feature_extractor").replace("extras", "additional_blocks")
            .replace("classification_headers", "conf").replace("regression_headers", "loc"), shape)
        for key, shape in layout(without_numbers("ssd300-resnet50", 21))
    ]  # fmt: skip
    constants = [row for row in published["wz-ssd300-resnet50"] if "dboxes" in row[0]]
    assert sorted(renamed + constants) == sorted(published["wz-ssd300-resnet50"]) and len(constants) == 2


def test_ssdlites_maps_and_head_outputs_are_torchvisions():
    reference = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    model = build_ssd("ssdlite320-mobilenet-v3-large", 5, 130).eval()
    copy_by_order(reference, model)
    images = torch.randn(1, 3, 130, 130)
    with torch.no_grad():
        maps = list(reference.backbone(images).values())
        expected, found, sources = reference.head(maps), model.forward_heads(images), model.sources(images)
    assert len(maps) == len(sources)
    for theirs, ours in zip([*maps, expected["cls_logits"], expected["bbox_regression"]], [*sources, found.logits, found.deltas]):
        assert theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


def copy_by_order(reference: nn.Module, model: nn.Module) -> None:
    """The same weights in both, drawn so that activations neither vanish nor explode and every norm matters."""
    for (key, value), own in zip(reference.state_dict().items(), model.state_dict().values(), strict=True):
        if value.ndim == 4:
            value.normal_(std=math.sqrt(2 / value[0].numel()))
        elif value.ndim == 1:
            value.uniform_(0.5, 1.5) if key.endswith(("weight", "var")) else value.uniform_(-0.1, 0.1)
        own.copy_(value)


@pytest.mark.parametrize("width", [0.0625, 0.35, 0.75, 1.4])
def test_mobilenet_v2_runs_at_any_width(width):
    model = build_ssd("mb2-ssd-lite", 3, mb2_width_mult=width).eval()
    with torch.no_grad():
        heads = model.forward_heads(torch.rand(1, 3, 96, 96))
    assert heads.logits.shape[2] == 3 and heads.deltas.shape[2] == 4 and heads.grid_sizes[0] == (6, 6)
    assert model.base_net[0][0].out_channels == int(32 * width)
    assert model.classification_headers[0][0].in_channels == 6 * int(96 * width)
    assert model.extras[0].conv[0].in_channels == max(1280, int(1280 * width)) == model.base_net[18][0].out_channels


def test_options_of_the_layers():
    bn, l2 = without_numbers("vgg16-ssd", 3), without_numbers("vgg16-ssd", 3, vgg_norm="l2")
    assert isinstance(bn.source_layer_add_ons[0], nn.BatchNorm2d) and isinstance(l2.source_layer_add_ons[0], L2Norm)
    assert "source_layer_add_ons.0.scale" in l2.state_dict()
    full = without_numbers("ssdlite320-mobilenet-v3-large", 91, reduced_tail=False)
    assert sum(p.numel() for p in full.parameters()) == 5_198_540
    classifier = torchvision.models.mobilenet_v3_large().features  # ImageNet weights fit the full tail
    assert [v.shape for v in full.base_net.state_dict().values()] == [v.shape for v in classifier.state_dict().values()]


@pytest.mark.parametrize(
    "net, option, owner",
    [("mb1-ssd", {"vgg_norm": "bn"}, "vgg16-ssd"), ("ssd300-vgg16", {"vgg_norm": "bn"}, "vgg16-ssd"),
     ("mb1-ssd", {"reduced_tail": True}, "ssdlite320-mobilenet-v3-large"), ("mb1-ssd", {"mb2_width_mult": 0.5}, "mb2-ssd-lite")],
)  # fmt: skip
def test_options_of_other_nets_are_refused(net, option, owner):
    with pytest.raises(ValueError, match=f"{net} has no option {next(iter(option))}: it belongs to {owner}$"):
        build_ssd(net, 3, **option)


def test_option_values():
    with pytest.raises(ValueError, match="bn or l2, not 'gn'"):
        build_ssd("vgg16-ssd", 3, vgg_norm="gn")
    build_ssd("mb1-ssd", 3, mb2_width_mult=1.0)  # what a script hands on when nobody asked for a width


def test_settings_of_the_row_and_of_the_caller():
    lite = build_ssd("ssdlite320-mobilenet-v3-large", 3)
    found = (lite.score_thresh, lite.nms_thresh, lite.candidates_per_class, lite.detections_per_img, lite.resolution)
    assert found == (0.001, 0.55, 300, 300, 320)
    assert build_ssd("mb1-ssd", 3, score_thresh=0.2).score_thresh == 0.2
    mean, std = NETS["mb1-ssd"].image_mean[0], NETS["mb1-ssd"].image_std[0]
    assert (0 - mean) / std == pytest.approx(-127 / 128) and (1 - mean) / std == pytest.approx(1)
    mean, std = NETS["ssd300-vgg16"].image_mean, NETS["ssd300-vgg16"].image_std
    assert [(0.5 - m) / s for m, s in zip(mean, std)] == pytest.approx([4.5, 10.5, 23.5], abs=2e-3)


def test_initial_weights_of_extras_and_heads():
    for net, std in [("ssdlite320-mobilenet-v3-large", 0.03), ("mb1-ssd", None)]:
        model = build_ssd(net, 21)
        for group in (model.extras, model.classification_headers, model.regression_headers):
            for conv in (module for module in group.modules() if isinstance(module, nn.Conv2d)):
                fan_in, fan_out = conv.weight[0].numel(), conv.weight[:, 0].numel()
                expected = std or math.sqrt(2 / (fan_in + fan_out))  # Xavier
                assert conv.weight.std().item() == pytest.approx(expected, rel=0.12)
                assert conv.bias is None or (conv.bias == 0).all()
    lite = build_ssd("ssdlite320-mobilenet-v3-large", 21)
    assert {(m.eps, m.momentum) for m in lite.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 0.03)}


# Default boxes


@pytest.mark.parametrize("net, table, resolution, count, sum_centre, sum_side", SUMS)
def test_default_boxes_have_the_known_sums(net, table, resolution, count, sum_centre, sum_side):
    boxes = cxcywh_norm(default_box_spec(net, resolution, table), grid_sides(net, resolution)).double()
    assert len(boxes) == count
    assert boxes.sum(dim=0).tolist() == pytest.approx([sum_centre, sum_centre, sum_side, sum_side], abs=1e-3)


@pytest.mark.parametrize("net", ["small-ssd", "mb1-ssd", "sq-ssd-lite", "ssd512-vgg16", "ssdlite320-mobilenet-v3-large"])
def test_default_boxes_are_the_definitions(net):
    for resolution in (320, 300):
        spec = default_box_spec(net, resolution)
        sides = grid_sides(net, spec.resolution)
        assert torch.allclose(cxcywh_norm(spec, sides), box_by_box(spec, sides), atol=1e-6)


def test_first_and_last_box():
    for net, first, last in [("mb1-ssd", (0.026667, 0.026667, 0.2, 0.2), (0.5, 0.5, 0.548483, 1)),
                             ("vgg16-ssd", (0.013333, 0.013333, 0.1, 0.1), (0.5, 0.5, 0.622254, 1))]:  # fmt: skip
        boxes = cxcywh_norm(default_box_spec(net), grid_sides(net, 300))
        assert boxes[0].tolist() == pytest.approx(first, abs=1e-6) and boxes[-1].tolist() == pytest.approx(last, abs=1e-6)


def torchvision_boxes(net: str, resolution: int, sides: list[int]) -> torch.Tensor:
    if net == "ssd300-vgg16":
        steps = [8, 16, 32, 64, 100, 300] if resolution == 300 else [math.ceil(resolution / side) for side in sides]
        ratios, scales = [[2], [2, 3], [2, 3], [2, 3], [2], [2]], [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
        generator = DefaultBoxGenerator(ratios, scales=scales, steps=steps)
    else:
        generator = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    images = ImageList(torch.zeros(1, 3, resolution, resolution), [(resolution, resolution)])
    return generator(images, [torch.zeros(1, 1, side, side) for side in sides])[0]


@pytest.mark.parametrize("net", ["ssd300-vgg16", "ssdlite320-mobilenet-v3-large"])
@pytest.mark.parametrize("resolution", [300, 320, 512])
def test_default_boxes_are_torchvisions(net, resolution):
    sides = grid_sides(net, resolution)
    boxes = DefaultBoxes(default_box_spec(net, resolution))([(side, side) for side in sides])
    assert torch.allclose(boxes, torchvision_boxes(net, resolution, sides), rtol=0, atol=1e-3)


def test_default_boxes_in_pixels_have_torchvisions_sums():
    for net, resolution, total, first in [("ssd300-vgg16", 300, 5332736.0017, [-6.5, -6.5, 14.5, 14.5]),
                                          ("ssdlite320-mobilenet-v3-large", 320, 2069759.9944, [-24, -24, 40, 40])]:  # fmt: skip
        boxes = DefaultBoxes(default_box_spec(net))([(side, side) for side in grid_sides(net, resolution)])
        assert boxes.double().sum().item() == pytest.approx(total, rel=1e-8)
        assert boxes[0].tolist() == pytest.approx(first, abs=1e-5)


def test_published_resolutions_keep_the_published_numbers():
    assert default_box_spec("mb1-ssd", 300).sizes[0] == (60, 105) and default_box_spec("mb1-ssd").steps[4] == 150
    assert default_box_spec("mb1-ssd", 301).sizes[0] == pytest.approx((30.1, 60.2))
    assert default_box_spec("vgg16-ssd", 600).sizes[1] == (120, 222)
    assert default_box_spec("ssd512-vgg16").sizes[0] == (35.84, 76.8)
    assert default_box_spec("ssdlite320-mobilenet-v3-large", 640).steps is None
    assert {net: spec.resolution for net, spec in NETS.items() if spec.resolution != 300} == {
        "small-ssd": 160, "ssd512-vgg16": 512, "ssdlite320-mobilenet-v3-large": 320
    }  # fmt: skip


def test_the_boxes_of_a_checkpoint_are_used_as_they_are():
    stored = default_box_spec("ssd300-vgg16", 512, "voc").to_dict()
    model = without_numbers("ssd300-vgg16", 3, default_boxes=stored)
    assert model.resolution == 512 and model.default_boxes.spec.to_dict() == stored
    assert without_numbers("ssd300-vgg16", 3, resolution=512, default_boxes=stored).default_boxes.spec.clip == "all"
    square = replace(default_box_spec("small-ssd"), aspect_ratios=((),) * 4)
    model = build_ssd("small-ssd", 3, default_boxes=square.to_dict())  # the heads follow
    assert model.forward_heads(torch.rand(2, 3, 160, 160)).logits.shape == (2, 2 * 534, 3)
    with pytest.raises(ValueError, match="for a resolution of 512, not 300"):
        build_ssd("ssd300-vgg16", 3, 300, stored)
    with pytest.raises(ValueError, match="small-ssd has 4 source maps, but .* 6 levels"):
        build_ssd("small-ssd", 3, default_boxes=stored)
    with pytest.raises(ValueError, match="ssd300-vgg16 takes resolutions from 268"):
        build_ssd("ssd300-vgg16", 3, default_boxes=replace(DefaultBoxSpec.from_dict(stored), resolution=100).to_dict())


# Resolutions


@pytest.mark.parametrize(
    "net, resolution",
    [("small-ssd", 77), ("mb1-ssd", 141), ("mb3-small-ssd-lite", 130), ("sq-ssd-lite", 131), ("ssd512-vgg16", 268),
     ("ssdlite320-mobilenet-v3-large", 97)],
)  # fmt: skip
def test_grids_are_those_of_a_real_run(net, resolution):
    model = build_ssd(net, 2, resolution).eval()
    with torch.no_grad():
        heads = model.forward_heads(torch.rand(1, 3, resolution, resolution))
    assert heads.grid_sizes == [(side, side) for side in grid_sides(net, resolution)]
    assert len(model.default_boxes(heads.grid_sizes)) == heads.logits.shape[1]


@pytest.mark.parametrize("net, smallest", [("ssd300-vgg16", 268), ("ssd300-resnet50", 257), ("sq-ssd-lite", 32)])
def test_the_smallest_resolution_works_and_the_next_does_not(net, smallest):
    assert grid_sides(net, smallest)[-1] == 1
    assert takes_resolution(net, smallest) and not takes_resolution(net, smallest - 1) and not takes_resolution(net, 2049)
    assert without_numbers(net, 2, resolution=smallest).resolution == smallest
    for wrong in (smallest - 1, 1, 0, -300, 2049):
        with pytest.raises(ValueError, match=f"{net} takes resolutions from {smallest} to 2048 pixels, not {wrong}$"):
            build_ssd(net, 2, wrong)


def test_the_largest_resolution():
    assert grid_sides("mb1-ssd", 2048) == [128, 64, 32, 16, 8, 4]


def test_dry_runs_leave_the_random_state_alone():
    before = torch.get_rng_state()
    default_box_spec("mb2-ssd-lite", 352)
    assert torch.equal(torch.get_rng_state(), before)


# Freezing


@pytest.mark.parametrize(
    "net, classes, counts",
    [
        ("ssd300-vgg16", 91, [45, 51, 57, 63, 67, 71]),
        ("ssdlite320-mobilenet-v3-large", 91, [96, 99, 138, 200, 239, 257, 266]),
        ("vgg16-ssd", 21, [46, 52, 58, 64, 68, 72]),
        ("mb1-ssd", 21, [40, 52, 88, 100, 112, 121]),
    ],
)
def test_trainable_tensors_by_number_of_layers(net, classes, counts):
    model = without_numbers(net, classes)
    for layers in [*range(len(counts)), *reversed(range(len(counts)))]:  # up, and down again
        set_trainable_layers(model, net, layers)
        assert sum(parameter.requires_grad for parameter in model.parameters()) == counts[layers]


@pytest.mark.parametrize("net", NETS)
def test_stages_follow_the_strides_and_thaw_from_the_end(net):
    spec, model = NETS[net], without_numbers(net, 2)
    counts = []
    for layers in range(spec.num_stages + 1):
        set_trainable_layers(model, net, layers)
        learning = [parameter.requires_grad for parameter in model.base_net.parameters()]
        assert learning == sorted(learning)  # what is frozen comes first
        counts.append(sum(learning))
    assert counts == sorted(set(counts)) and counts[-1] == len(list(model.base_net.parameters()))
    others = [parameter for key, parameter in model.named_parameters() if not key.startswith("base_net")]
    assert all(parameter.requires_grad for parameter in others)
    for wrong in (-1, spec.num_stages + 1):
        with pytest.raises(ValueError, match=f"{net} has {spec.num_stages} stages, so 0 to .* not {wrong}"):
            set_trainable_layers(model, net, wrong)


# Batches of one


@pytest.mark.parametrize(
    "net, resolution, smallest",
    [
        ("small-ssd", 160, 1), ("small-ssd", 32, 2), ("sq-ssd-lite", 131, 1), ("mb1-ssd", 300, 1), ("mb2-ssd-lite", 300, 2),
        ("mb2-ssd-lite", 520, 1),  # the last map has two cells a side
        ("mb3-small-ssd-lite", 520, 2),  # squeeze and excitation see one cell at any size
    ],
)  # fmt: skip
def test_smallest_batch_is_the_smallest_that_trains(net, resolution, smallest):
    model = build_ssd(net, 2, resolution, mb2_width_mult=0.25 if net == "mb2-ssd-lite" else 1.0).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert min_train_batch(model) == smallest
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(value.device.type == "cpu" for value in model.state_dict().values())
    images = torch.rand(1, 3, resolution, resolution)
    with torch.no_grad():
        if smallest == 1:
            model.forward_heads(images)
        else:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                model.forward_heads(images)


# The table


def test_unknown_names():
    for function in (lambda name: build_ssd(name, 3), default_box_spec, lambda name: grid_sides(name, 300)):
        with pytest.raises(ValueError, match="unknown net 'mb1-sd', did you mean mb1-ssd") as caught:
            function("mb1-sd")
        assert all(name in str(caught.value) for name in NETS)
    with pytest.raises(ValueError, match="mb1-ssd has no default boxes 'coco'"):
        default_box_spec("mb1-ssd", table="coco")


def test_a_new_net_is_a_base_and_a_row(monkeypatch):
    def two_layers():
        layers = nn.Sequential(conv_bn_relu(3, 8, 3, 8), conv_bn_relu(8, 16, 3, 2))
        return Base(layers, (Tap(0), Tap(1)), [8, 16], out_channels=16)

    boxes = DefaultBoxSpec(64, ((8, 16), (16, 32), (32, 64)), ((2.0,),) * 3)
    row = NetSpec(two_layers, ssd_nets._relu_extra, (Extra(8, 12),), ssd_nets._conv_head, {"own": boxes}, stages=(0, 1, 2))
    monkeypatch.setitem(NETS, "two-layers", row)
    model = build_ssd("two-layers", 3)
    heads = model.train().forward_heads(torch.rand(2, 3, 64, 64))
    assert heads.logits.shape == (2, 4 * (8 * 8 + 4 * 4 + 2 * 2), 3) and row.num_levels == 3
    set_trainable_layers(model, "two-layers", 1)
    assert not model.base_net[0][0].weight.requires_grad and grid_sides("two-layers", 128) == [16, 8, 4]


def test_settings_are_complete_and_plain():
    """What a checkpoint stores: every keyword of SSD, the net's own values in place of the defaults."""
    settings = net_settings("ssdlite320-mobilenet-v3-large")
    assert settings["score_thresh"] == 0.001 and settings["min_negatives"] == 30 and settings["image_mean"] == [0.5] * 3
    model = build_ssd("ssdlite320-mobilenet-v3-large", 3, **settings)
    for name in ("score_thresh", "nms_thresh", "candidates_per_class", "detections_per_img"):
        assert getattr(model, name) == settings[name]
    assert json.loads(json.dumps(net_settings("vgg16-ssd"))) == net_settings("vgg16-ssd")


def test_stored_boxes_at_another_resolution():
    """A table keeps its name; boxes of one's own are scaled."""
    coco = default_box_spec("vgg16-ssd", table="coco")
    assert rescaled_boxes("vgg16-ssd", coco.to_dict(), 512) == default_box_spec("vgg16-ssd", 512, "coco")
    at_512 = default_box_spec("mb1-ssd", 512)
    assert rescaled_boxes("mb1-ssd", at_512.to_dict(), 300) == default_box_spec("mb1-ssd")
    own = replace(default_box_spec("small-ssd"), sizes=((10, 20), (20, 40), (40, 80), (80, 100)))
    assert rescaled_boxes("small-ssd", own.to_dict(), 320).sizes == ((20, 40), (40, 80), (80, 160), (160, 200))
