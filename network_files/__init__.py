"""The detectors: plain torch and torchvision modules without command lines, processes or files.

Names are looked up on first use, so that importing one small module does not import every detector.
"""

import importlib

_MODULE_OF = {
    "AnchorsGenerator": "anchor_generator",
    "BackboneWithFPN": "fpn",
    "FeaturePyramidNetwork": "fpn",
    "LastLevelMaxPool": "fpn",
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
    "build_ssd": "ssd_nets",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])
