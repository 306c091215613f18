"""build_faster_rcnn: torchvision's layouts, parameter counts, trainable counts and numbers; every row runs."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import detection

from network_files.backbones import BACKBONES, backbone_spec, set_trainable_layers
from network_files.faster_rcnn_nets import build_faster_rcnn

TARGETS = [
    {"boxes": torch.tensor([[4.0, 6.0, 60.0, 50.0]]), "labels": torch.tensor([2]), "image_id": 0},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 1},
]
PUBLISHED_NAMES = ["resnet50_fpn", "resnet50_fpn_v2", "mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn"]


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "name, norm, tensors, parameters",
    [
        ("resnet50_fpn", "frozen_bn", 295, 41_755_286),
        ("resnet50_fpn", "bn", 348, 41_808_406),
        ("resnet50_fpn_v2", "bn", 404, 43_712_278),
        ("mobilenet_v3_large_fpn", "frozen_bn", 284, 19_386_354),
        ("mobilenet_v3_large_fpn", "bn", 330, 19_410_754),
        ("mobilenet_v3_large_320_fpn", "frozen_bn", 284, 19_386_354),
    ],
)
def test_published_models_have_the_published_size(name, norm, tensors, parameters):
    model = build_faster_rcnn(name, 91, norm)
    assert (len(model.state_dict()), num_parameters(model)) == (tensors, parameters)


@pytest.mark.parametrize(
    "name, counts",
    [
        ("resnet50_fpn", [30, 40, 59, 72, 82, 83]),
        ("resnet50_fpn_v2", [50, 80, 137, 176, 206, 209]),
        ("mobilenet_v3_large_fpn", [22, 23, 44, 70, 91, 97, 100]),
    ],
)
def test_trainable_tensors_by_number_of_layers(name, counts):
    model = build_faster_rcnn(name, 91, backbone_spec(name).pretrained_norm)
    found = []
    for n in range(len(counts)):
        set_trainable_layers(model.backbone, name, n)
        found.append(sum(parameter.requires_grad for parameter in model.parameters()))
    assert found == counts


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))
            norm.running_mean.copy_(0.1 * torch.randn(norm.running_mean.shape, generator=generator))
    predictor = model.roi_heads.box_predictor
    predictor.cls_score.weight.data *= 20  # scores far from uniform, so that their order does not hang on rounding


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_same_detections_as_torchvision(name):
    sizes = {"min_size": 96, "max_size": 160, "box_score_thresh": 0.0}
    builder = getattr(detection, f"fasterrcnn_{name}")
    theirs = builder(weights=None, weights_backbone=None, num_classes=5, **sizes).eval()
    randomise(theirs)
    ours = build_faster_rcnn(name, 5, "bn", **sizes).eval()
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    images = [torch.rand(3, 96, 128), torch.rand(3, 70, 50)]
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    for one, other in zip(found, expected):
        assert len(one["boxes"]) > 0
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(one["scores"], other["scores"], atol=1e-5, rtol=0)
        assert torch.equal(one["labels"], other["labels"])


def test_rows_carry_the_thresholds_of_torchvisions_builders():
    mobile = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    ours = build_faster_rcnn("mobilenet_v3_large_320_fpn", 91)
    assert (ours.rpn.score_thresh, mobile.rpn.score_thresh) == (0.05, 0.05)
    assert backbone_spec("mobilenet_v3_large_fpn").rpn_score_thresh == 0.05
    spec = backbone_spec("mobilenet_v3_large_320_fpn")
    assert (spec.min_size, spec.max_size) == (mobile.transform.min_size[0], mobile.transform.max_size)
    mobile.eval()
    assert mobile.rpn.pre_nms_top_n() == mobile.rpn.post_nms_top_n() == spec.rpn_top_n_test == 150
    assert ours.rpn.anchor_generator.sizes == mobile.rpn.anchor_generator.sizes


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in PUBLISHED_NAMES])
def test_every_row_trains_and_detects(name):
    model = build_faster_rcnn(name, 4, "frozen_bn", fpn_channels=32, box_head_size=16, min_size=64, max_size=96)
    images = [torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8), torch.rand(3, 64, 64)]
    losses = model.train()(images, TARGETS)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert next(model.backbone.parameters()).grad.abs().sum() > 0
    with torch.no_grad():
        detections = model.eval()(images)
    assert [sorted(each) for each in detections] == [["boxes", "labels", "scores"]] * 2


def test_overrides_reach_the_model():
    model = build_faster_rcnn(
        "small_cnn", 3, anchor_sizes=[[8, 16]], aspect_ratios=[1.0], box_head_size=24, box_score_thresh=0.3
    )
    assert model.rpn.anchor_generator.sizes == ((8, 16),)
    assert model.rpn.head.cls_logits.out_channels == 2
    assert model.roi_heads.box_predictor.cls_score.in_features == 24
    assert model.roi_heads.score_thresh == 0.3
    with pytest.raises(ValueError, match="has 1 feature levels, but anchor_sizes has 2 entries"):
        build_faster_rcnn("small_cnn", 3, anchor_sizes=[[8], [16]])
    with pytest.raises(ValueError, match="unknown backbone"):
        build_faster_rcnn("resnet", 3)


def test_the_origins_way_of_building():
    from network_files import AnchorsGenerator, FasterRCNN

    backbone = torchvision.models.mobilenet_v2().features
    backbone.out_channels = 1280
    model = FasterRCNN(
        backbone=backbone,
        num_classes=3,
        rpn_anchor_generator=AnchorsGenerator(sizes=((32, 64, 128, 256, 512),), aspect_ratios=((0.5, 1.0, 2.0),)),
        box_roi_pool=torchvision.ops.MultiScaleRoIAlign(featmap_names=["0"], output_size=[7, 7], sampling_ratio=2),
        min_size=64,
    )
    same = build_faster_rcnn("mobilenet_v2", 3)
    assert list(model.state_dict()) == list(same.state_dict())
    assert len(model.eval()([torch.rand(3, 64, 64)])) == 1
