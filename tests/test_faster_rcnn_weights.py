"""Weights: each known key layout, built here from torchvision modules, loads; wrong files are named; rows kept."""

import copy
import re

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import BackboneWithFPN, mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.models.feature_extraction import create_feature_extractor

from network_files.faster_rcnn_nets import build_faster_rcnn
from network_files.faster_rcnn_weights import (
    PREDICTOR,
    PUBLISHED,
    describe,
    detector_family,
    infer_backbone,
    load_detector_weights,
    published_weights,
    rename_old_keys,
    unwrap,
)

HIDDEN = 16  # width of the box heads here: the real 1024 would only cost time
POOL = torchvision.ops.feature_pyramid_network.LastLevelMaxPool()
FROZEN = torchvision.ops.FrozenBatchNorm2d
RATIOS = (0.5, 1.0, 2.0)


# how each layout of a Faster R-CNN file comes about: the backbone as its author builds it
def slice_of(network, end):
    backbone = network.features[:end]
    backbone.out_channels = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
    return backbone


def extracted(network, node, channels):
    backbone = create_feature_extractor(network, {node: "0"})
    backbone.out_channels = channels
    return backbone


class Tapped(nn.Module):
    """A feature extractor below a pyramid, as `body` and `fpn`."""

    def __init__(self, network, nodes, channels):
        super().__init__()
        self.body = create_feature_extractor(network, {node: str(i) for i, node in enumerate(nodes)})
        self.fpn = torchvision.ops.FeaturePyramidNetwork(channels, 256, POOL)
        self.out_channels = 256


def wrapped(network):
    """The network's layers one level deeper: `features.0` instead of `0`."""
    outer = nn.Module()
    outer.features, outer.out_channels = network, network.out_channels
    return outer


def resnet_v2():
    resnet = torchvision.models.resnet50()
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    return BackboneWithFPN(resnet, layers, [256, 512, 1024, 2048], 256, norm_layer=nn.BatchNorm2d)


def mobilenet_v3(norm_layer):
    return mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, norm_layer=norm_layer, trainable_layers=6
    )


def resnet_v1(norm_layer, name="resnet50"):
    return resnet_fpn_backbone(backbone_name=name, weights=None, norm_layer=norm_layer, trainable_layers=5)


MNV3_NODES, EFFICIENT_NODES = ["features.6", "features.12", "features.16"], ["features.3", "features.4", "features.8"]
M = torchvision.models
# (layout, our backbone, our norm, their backbone, old spelling, number of tensors in the file)
LAYOUTS = [
    ("tv v1", "resnet50_fpn", "frozen_bn", lambda: resnet_v1(FROZEN), False, 295),
    ("tv v1 as published", "resnet50_fpn", "frozen_bn", lambda: resnet_v1(FROZEN), True, 295),
    ("tv v1 from scratch", "resnet50_fpn", "bn", lambda: resnet_v1(nn.BatchNorm2d), False, 348),
    ("tv v2", "resnet50_fpn_v2", "bn", resnet_v2, False, 404),
    ("tv mobilenet", "mobilenet_v3_large_fpn", "frozen_bn", lambda: mobilenet_v3(FROZEN), True, 284),
    ("tv mobilenet 320", "mobilenet_v3_large_320_fpn", "bn", lambda: mobilenet_v3(nn.BatchNorm2d), False, 330),
    ("course R50", "resnet50_fpn", "bn", lambda: resnet_v1(nn.BatchNorm2d), True, 348),
    ("course R50 into frozen", "resnet50_fpn", "frozen_bn", lambda: resnet_v1(nn.BatchNorm2d), True, 348),
    ("course mobilenet_v2", "mobilenet_v2", "bn", lambda: slice_of(M.mobilenet_v2(), 19), True, 326),
    ("course vgg16", "vgg16", "bn", lambda: slice_of(M.vgg16(), 30), True, 40),
    ("course vgg16, COCO", "vgg16", "bn", lambda: wrapped(slice_of(M.vgg16(), 30)), True, 40),
    (
        "course mobilenet_v3", "mobilenet_v3_large_fpn_3maps", "bn",
        lambda: Tapped(M.mobilenet_v3_large(), MNV3_NODES, [40, 112, 960]), True, 334,
    ),
    (
        "course efficientnet", "efficientnet_b0_fpn", "bn",
        lambda: Tapped(M.efficientnet_b0(), EFFICIENT_NODES, [40, 80, 1280]), True, 384,
    ),
    ("course vgg16_bn", "vgg16_bn", "bn", lambda: extracted(M.vgg16_bn(), "features.42", 512), True, 105),
    ("course efficientnet, one map", "efficientnet_b0", "bn",
     lambda: extracted(M.efficientnet_b0(), "features.5", 112), True, 256),
    ("efficientnet, sliced", "efficientnet_b0", "bn", lambda: slice_of(M.efficientnet_b0(), 6), False, 256),
    ("course C4", "resnet50_c4", "bn", lambda: extracted(M.resnet50(), "layer3", 1024), True, 272),
]  # fmt: skip


def their_file(name, backbone, old, num_classes=21):
    """A state_dict as the layout's author would save it."""
    v2, mobile = name == "resnet50_fpn_v2", name in ("mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn")
    if not hasattr(backbone, "fpn"):
        sizes = ((32, 64, 128, 256, 512),)
    elif mobile:
        sizes = ((32, 64, 128, 256, 512),) * 3
    else:
        sizes = tuple((32 * 2**i,) for i in range(len(backbone.fpn.inner_blocks) + 1))
    anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    channels = backbone.out_channels
    head = FastRCNNConvFCHead((256, 7, 7), [256] * 4, [HIDDEN], nn.BatchNorm2d) if v2 else None
    model = detection.FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=2 if v2 else 1),
        box_head=head or TwoMLPHead(channels * 49, HIDDEN),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 7, 2),
        box_predictor=FastRCNNPredictor(HIDDEN, num_classes),
    )
    state = model.state_dict()
    if old:  # the spelling of section 1.4
        state = {key.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for key, value in state.items()}
        state = {re.sub(r"(fpn.*_blocks\.\d)\.0\.", r"\1.", key): value for key, value in state.items()}
    return state


@pytest.mark.parametrize("layout, name, norm, build, old, tensors", LAYOUTS, ids=[row[0] for row in LAYOUTS])
def test_every_layout_loads_whole(layout, name, norm, build, old, tensors):
    state = their_file(name, build(), old)
    assert len(state) == tensors
    assert any("inner_blocks.0.weight" in key for key in state) == (old and any(".fpn." in key for key in state))
    model = build_faster_rcnn(name, 21, norm, box_head_size=HIDDEN)
    before = copy.deepcopy(model.state_dict())
    file = {"model": {f"module.{key}": value for key, value in state.items()}, "optimizer": {"state": {}}, "epoch": 4}
    report = load_detector_weights(model, file)
    assert not any(report.faults().values()) and not report.predictor_replaced
    after = model.state_dict()
    assert report.loaded == len(after)
    # the file's tensors come in the model's order: compare them one by one, whatever they are called
    theirs = [value for key, value in state.items() if norm == "bn" or "num_batches" not in key]
    if norm == "frozen_bn" and tensors == 348:
        assert len(theirs) == 295
    assert len(theirs) == len(after) and all(torch.equal(a, b) for a, b in zip(after.values(), theirs))
    assert any(not torch.equal(value, before[key]) for key, value in after.items())
    found = infer_backbone(state)
    assert found == name.replace("_320", ""), describe(state)


def test_files_without_counters_are_complete():
    model = build_faster_rcnn("resnet18_fpn", 3, fpn_channels=8, box_head_size=HIDDEN)
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    assert not any(load_detector_weights(model, state).faults().values())


def test_unwrap():
    tensor = torch.zeros(1)
    assert list(unwrap({"a.weight": tensor})) == ["a.weight"]
    assert list(unwrap({"model": {"module.a": tensor}, "optimizer": {}, "epoch": 1})) == ["a"]
    for empty in ({}, {"epoch": 3, "args": {}}):
        with pytest.raises(ValueError, match="holds no model weights"):
            unwrap(empty)


def test_rename_leaves_other_keys_alone():
    keys = ["rpn.head.conv.0.0.weight", "rpn.head.conv.1.0.bias", "backbone.fpn.inner_blocks.0.1.weight", "fc.bias"]
    assert list(rename_old_keys(dict.fromkeys(keys))) == keys
    old = ["rpn.head.conv.bias", "backbone.fpn.layer_blocks.2.weight"]
    new = ["rpn.head.conv.0.0.bias", "backbone.fpn.layer_blocks.2.0.weight"]
    assert list(rename_old_keys(dict.fromkeys(old))) == new


# the predictor
def small_model(num_classes):
    return build_faster_rcnn("small_cnn", num_classes, box_head_size=HIDDEN)


def predictor_of(model):
    head = model.roi_heads.box_predictor
    layers = (head.cls_score.weight, head.cls_score.bias, head.bbox_pred.weight, head.bbox_pred.bias)
    return [layer.detach().clone() for layer in layers]


def test_rows_of_same_named_classes_are_kept():
    source, model = small_model(5), small_model(4)
    fresh, trained = predictor_of(model), predictor_of(source)
    report = load_detector_weights(
        model, source.state_dict(), class_names=["dog ", "Cat", "bus"], source_class_names=["cat", "bus", "car", "dog"]
    )
    rows = {0: 0, 1: 4, 3: 2}  # background; dog; bus. "Cat" is not "cat"
    for now, before, file in zip(predictor_of(model), fresh, trained):
        per_class = len(now) // 4
        for row in range(4):
            expected = file.view(5, per_class, -1)[rows[row]] if row in rows else before.view(4, per_class, -1)[row]
            assert torch.equal(now.view(4, per_class, -1)[row], expected)
    assert report.predictor_replaced and report.kept_classes == ["dog", "bus"] and report.new_classes == ["Cat"]
    assert report.loaded == len(model.state_dict()) - 4
    assert "classes kept: dog, bus, new: Cat" in report.summary()
    assert torch.equal(model.roi_heads.box_head.fc6.weight, source.roi_heads.box_head.fc6.weight)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_other_class_count_without_names_gives_a_fresh_predictor():
    source, model = small_model(5), small_model(4)
    fresh = predictor_of(model)
    report = load_detector_weights(model, source.state_dict(), class_names=["a", "b", "c"])
    assert report.predictor_replaced and report.kept_classes == [] and report.new_classes == ["a", "b", "c"]
    assert all(torch.equal(now, before) for now, before in zip(predictor_of(model), fresh))


def test_same_count_in_another_order_is_sorted_by_name():
    source, model = small_model(3), small_model(3)
    report = load_detector_weights(model, source.state_dict(), ["a", "b"], ["b", "a"])
    theirs, ours = predictor_of(source)[1], predictor_of(model)[1]
    assert ours.tolist() == theirs[[0, 2, 1]].tolist() and report.kept_classes == ["a", "b"]
    report = load_detector_weights(model, source.state_dict(), ["a", "b"], ["a", "b"])
    assert not report.predictor_replaced and torch.equal(predictor_of(model)[1], theirs)


def test_unused_ids_and_foreign_classes_are_not_kept():
    source, model = small_model(4), small_model(3)
    report = load_detector_weights(model, source.state_dict(), ["N/A", "zebra"], ["a", "N/A", "b"])
    assert report.kept_classes == []
    assert not torch.equal(predictor_of(model)[1][0], predictor_of(source)[1][0])  # no class shared: no background


def test_names_must_fit_the_predictor():
    model = small_model(4)
    with pytest.raises(ValueError, match="the model has 3 classes besides background, but 2 names"):
        load_detector_weights(model, model.state_dict(), class_names=["a", "b"])
    damaged = {**model.state_dict(), f"{PREDICTOR}bbox_pred.weight": torch.zeros(15, HIDDEN)}
    with pytest.raises(ValueError, match="15 rows for 4 classes"):
        load_detector_weights(model, damaged)


# wrong files
def test_all_faults_are_listed_together_and_nothing_is_loaded():
    model, source = small_model(3), small_model(3).state_dict()
    before = copy.deepcopy(model.state_dict())
    source["backbone.0.0.weight"] = source["backbone.0.0.weight"].reshape(32, 27)  # the same numel
    del source["rpn.head.bbox_pred.bias"]
    source["extra.weight"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        load_detector_weights(model, source)
    message = str(error.value)
    assert "1 keys missing: rpn.head.bbox_pred.bias" in message and "1 keys unexpected: extra.weight" in message
    assert "1 keys of another shape: backbone.0.0.weight" in message and "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    report = load_detector_weights(model, source, partial=True)
    assert report.faults() == {
        "missing": ["rpn.head.bbox_pred.bias"],
        "unexpected": ["extra.weight"],
        "of another shape": ["backbone.0.0.weight"],
    }
    assert report.loaded == len(before) - 2 and "extra.weight" in report.summary()
    assert torch.equal(model.state_dict()["rpn.head.conv.0.0.weight"], source["rpn.head.conv.0.0.weight"])


def test_another_faster_rcnn_is_named():
    model = build_faster_rcnn("resnet50_fpn", 3, box_head_size=HIDDEN)
    v2 = build_faster_rcnn("resnet50_fpn_v2", 3, box_head_size=HIDDEN)
    expected = "this file holds a Faster R-CNN v2 on resnet50_fpn_v2, the model is a Faster R-CNN on resnet50_fpn "
    with pytest.raises(ValueError, match=expected):
        load_detector_weights(model, v2.state_dict())


def test_other_networks_are_named():
    ssd = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()
    files = {
        "an SSD": ssd,
        "a YOLOv3": {"module_list.0.Conv2d.weight": torch.zeros(1)},
        "an image classifier": M.squeezenet1_1().state_dict(),
        "an unknown network": {"layer.weight": torch.zeros(1)},
    }
    for family, state in files.items():
        assert detector_family(state) == family
        with pytest.raises(ValueError, match=f"this file holds {family}, the model is a Faster R-CNN on small_cnn"):
            load_detector_weights(small_model(3), state)
    with torch.device("meta"):
        mask = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        retina = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    assert detector_family(mask.state_dict()) == "a Mask R-CNN"
    assert detector_family(retina.state_dict()) == "a RetinaNet"


# published files
def test_published_names():
    for name in (
        "fasterrcnn_resnet50_fpn",
        "resnet50_fpn",
        "FasterRCNN_ResNet50_FPN_Weights.COCO_V1",
        "fasterrcnn_resnet50_fpn_weights.default",
    ):
        assert published_weights(name) is PUBLISHED["resnet50_fpn"]
    large = published_weights("FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.DEFAULT")
    assert large.url.endswith("fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth")
    for wrong in ("fasterrcnn_resnet101_fpn", "resnet50_fpn.imagenet", ""):
        with pytest.raises(ValueError, match="choose from fasterrcnn_resnet50_fpn, "):
            published_weights(wrong)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_carry_norm_eps_and_91_ids(name):
    published = PUBLISHED[name]
    names = published.class_names
    assert len(names) == 90 and names[0] == "person" and names[89] == "toothbrush" and names.count("N/A") == 10
    assert names[87] == "teddy bear"  # COCO's category 88
    model = build_faster_rcnn(**published.model_args)
    frozen = [module for module in model.modules() if type(module).__name__ == "FrozenBatchNorm2d"]
    assert bool(frozen) == (name != "resnet50_fpn_v2")
    assert {module.eps for module in frozen} <= {0.0 if name == "resnet50_fpn" else 1e-5}
    assert len(model.roi_heads.box_predictor.cls_score.weight) == 91
