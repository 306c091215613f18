"""One place where the scripts open a data set by the name of its format."""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.coco import JSON_PLACES, CocoDetection
from datasets.detection_dataset import DetectionDataset
from datasets.errors import InputError
from datasets.shapes import SHAPE_CLASSES, is_shapes_folder, make_shapes
from datasets.voc import VOCDataSet

KINDS = ("voc", "coco", "shapes")
SPLITS = ("train", "val", "test")


def guess_kind(data_path: str | os.PathLike | None, json_path: str | os.PathLike | None = None) -> str:
    """The kind of the data in a folder, by its layout; "shapes" where nothing is given.

    Data in neither layout counts as VOC, whose reader explains what is missing.
    """
    if json_path is not None:
        return "coco"
    if data_path is None or is_shapes_folder(data_path):
        return "shapes"
    has_coco_file = any(Path(data_path, place.format(split)).is_file() for place in JSON_PLACES for split in SPLITS)
    return "coco" if has_coco_file else "voc"


def open_dataset(kind: str, data_path: str | os.PathLike | None, split: str, *, year: str = "2012",
                 class_names: Sequence[str] | str | os.PathLike | None = None,
                 json_path: str | os.PathLike | None = None, image_dir: str | os.PathLike | None = None,
                 drop_empty: bool = False, skip_difficult: bool = False) -> DetectionDataset:
    """One split of a data set.

    Args:
        kind: "voc", "coco", or "shapes" (drawn pictures, made in `data_path` when first asked for).
        data_path: folder of the data set; may be None for COCO if `json_path` and `image_dir` are given.
        split: "train", "val", ...; for VOC the name of any split file, with or without ".txt".
        year: VOC only, where there are several.
        class_names: names in label order, or path of a class file; by default as found in the data set.
        json_path, image_dir: COCO only, instead of the tree under `data_path`.
        drop_empty: leave out images without objects to train on.
        skip_difficult: leave objects marked difficult out of the targets.

    Raises:
        InputError, FileNotFoundError: one sentence with the place and the remedy.
    """
    if kind == "coco":
        return CocoDetection(data_path, split, json_path=json_path, image_dir=image_dir, class_names=class_names,
                             drop_empty=drop_empty)
    if kind not in KINDS:
        raise InputError(f"unknown kind of data set {kind!r}; known are {', '.join(KINDS)}")
    if data_path is None:
        raise InputError(f"a data set of kind {kind} needs a data path")
    if kind == "shapes":
        if not is_shapes_folder(data_path):
            make_shapes(data_path)
        class_names = SHAPE_CLASSES if class_names is None else class_names
    return VOCDataSet(data_path, year, txt_name=split, class_names=class_names, drop_empty=drop_empty,
                      skip_difficult=skip_difficult)
