"""Readers, cleaning and transforms of detection data sets; the names below are imported on first use.

`open_dataset` and `kmeans_anchors` stand in modules of their own names: `from datasets.open_dataset import open_dataset`.
"""

import importlib

_HOME = {  # public name -> module that defines it
    "VOCDataSet": "voc",
    "CocoDetection": "coco",
    "OpenImagesDataset": "open_images",
    "YoloTxtDataset": "yolo_txt",
    "JoinedDataset": "concat",
    "as_single_class": "single_class",
    "CachedImages": "image_cache",
    "Mosaic": "mosaic",
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
    "read_names": "class_names",
    "translate_old_names": "class_names",
    "yolo_recipe": "yolo_augmentation",
    "plain_recipe": "yolo_augmentation",
    "anchor_recall": "kmeans_anchors",
    "box_sizes": "kmeans_anchors",
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
