"""Faster R-CNN by the name of its backbone: looks the matching anchors, heads and thresholds up in `BACKBONES`."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from network_files.anchor_generator import AnchorsGenerator
from network_files.backbones import BackboneSpec, backbone_spec, build_backbone
from network_files.errors import InputError
from network_files.faster_rcnn import FasterRCNN
from network_files.roi_align import MultiScaleRoIAlign
from network_files.roi_heads import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from network_files.rpn import RPNHead

ROI_SIZE = 7  # cells per side of a pooled RoI (Girshick 2015)


def build_faster_rcnn(
    backbone_name: str,
    num_classes: int,
    norm: str = "bn",
    norm_eps: float | None = None,
    fpn_channels: int = 256,
    anchor_sizes: Sequence[Sequence[int]] | None = None,
    aspect_ratios: Sequence[float] | None = None,
    box_head_size: int | None = None,
    **detector: Any,
) -> FasterRCNN:
    """A Faster R-CNN with random weights. Whatever is None or left out takes the value of the backbone's row.

    num_classes: background included. norm, norm_eps, fpn_channels: see `build_backbone`. anchor_sizes: pixels of the
    resized image, one sequence per level ("pool" included). aspect_ratios: height / width, used on every level.
    box_head_size: width of the linear layers of the box head. detector: further keywords of FasterRCNN (min_size,
    max_size, box_score_thresh, rpn_score_thresh, ...).
    With the defaults, `resnet50_fpn`, `resnet50_fpn_v2`, `mobilenet_v3_large_fpn` and `mobilenet_v3_large_320_fpn` have
    torchvision's state-dict keys and numbers. Raises InputError for an unknown name or a wrong number of levels.
    """
    spec = backbone_spec(backbone_name)
    sizes = spec.anchor_sizes if anchor_sizes is None else tuple(tuple(level) for level in anchor_sizes)
    ratios = spec.aspect_ratios if aspect_ratios is None else tuple(aspect_ratios)
    if len(sizes) != len(spec.anchor_sizes):
        levels = len(spec.anchor_sizes)
        raise InputError(f"{backbone_name} has {levels} feature levels, but anchor_sizes has {len(sizes)} entries")
    anchors_per_cell = len(sizes[0]) * len(ratios)
    backbone = build_backbone(backbone_name, norm, norm_eps, fpn_channels)
    box_head, head_size = _box_head(spec, backbone.out_channels, box_head_size or spec.box_head_size)
    settings = {
        "min_size": spec.min_size,
        "max_size": spec.max_size,
        "rpn_score_thresh": spec.rpn_score_thresh,
        "rpn_pre_nms_top_n_test": spec.rpn_top_n_test,
        "rpn_post_nms_top_n_test": spec.rpn_top_n_test,
        **detector,
    }
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorsGenerator(sizes, (ratios,) * len(sizes)),
        rpn_head=RPNHead(backbone.out_channels, anchors_per_cell, conv_depth=spec.rpn_conv_depth),
        box_roi_pool=MultiScaleRoIAlign(spec.featmap_names, output_size=ROI_SIZE, sampling_ratio=2),
        box_head=box_head,
        box_predictor=FastRCNNPredictor(head_size, num_classes),
        **settings,
    )


def _box_head(spec: BackboneSpec, channels: int, size: int) -> tuple[nn.Module, int]:
    """The module between pooled RoIs [R, channels, 7, 7] and the predictor, and its output width."""
    if spec.box_head == "conv_fc":
        return FastRCNNConvFCHead((channels, ROI_SIZE, ROI_SIZE), [256] * 4, [size], norm_layer=nn.BatchNorm2d), size
    return TwoMLPHead(channels * ROI_SIZE**2, size), size
