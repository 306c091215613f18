"""Readers, cleaning and transforms of detection data sets; the names below are imported on first use.

`open_dataset` stands in the module of its own name: `from datasets.open_dataset import open_dataset`.
"""

import importlib

_HOME = {  # public name -> module that defines it
    "VOCDataSet": "voc",
    "CocoDetection": "coco",
    "OpenImagesDataset": "open_images",
    "JoinedDataset": "concat",
    "balanced_subset": "balance",
    "make_shapes": "shapes",
    "SHAPE_CLASSES": "shapes",
    "TrainingSamples": "samples",
    "DetectionDataset": "detection_dataset",
    "Fault": "annotations",
    "InputError": "errors",
    "summarise_faults": "annotations",
    "read_class_file": "class_names",
    "read_labels": "class_names",
    "UnreadableImage": "image_io",
    "read_image": "image_io",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
