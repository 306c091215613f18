"""The detectors: plain torch and torchvision modules without command lines, processes or files.

Names are looked up on first use, so that importing one small module does not import every detector.
"""

import importlib

_MODULE_OF = {
    "AnchorsGenerator": "anchor_generator",
    "BackboneWithFPN": "fpn",
    "Darknet": "darknet",
    "FeaturePyramidNetwork": "fpn",
    "LastLevelMaxPool": "fpn",
    "LetterboxResize": "resize",
    "FasterRCNN": "faster_rcnn",
    "InputError": "errors",
    "FastRCNNConvFCHead": "roi_heads",
    "FastRCNNPredictor": "roi_heads",
    "RoIHeads": "roi_heads",
    "TwoMLPHead": "roi_heads",
    "MultiScaleRoIAlign": "roi_align",
    "RPNHead": "rpn",
    "RegionProposalNetwork": "rpn",
    "SSD": "ssd",
    "SquashResize": "resize",
    "YOLOv3": "yolov3",
    "YoloHead": "darknet",
    "YoloLoss": "yolo_loss",
    "base_layers": "darknet",
    "build_ssd": "ssd_nets",
    "classes_by_size": "darknet_weights",
    "count_classes": "yolo_checkpoints",
    "head_convolutions": "darknet",
    "is_darknet": "darknet_weights",
    "load_yolo_weights": "yolo_checkpoints",
    "norm_settings": "yolo_checkpoints",
    "parse_cfg": "darknet_cfg",
    "read_weights": "darknet_weights",
    "set_anchors": "darknet_cfg",
    "set_num_classes": "darknet_cfg",
    "write_weights": "darknet_weights",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
